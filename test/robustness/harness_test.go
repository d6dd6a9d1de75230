package robustness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

const (
	// hangTimeout ends whatever hangs.
	hangTimeout = time.Minute
	// maxGrowth bounds the memory that pgproxy may take for one misbehaving session,
	// whatever the size of its messages, and for a flood of half-open ones, in bytes.
	maxGrowth = memoryFactor * 64 << 20
	// slack is by how many file descriptors and goroutines pgproxy may differ from the
	// beginning of a test at its end: probes and lookups come and go by themselves. A
	// test that looks for leaks does what it does more often than that.
	slack = 12
)

// program is the path of pgproxy, which all tests run.
var program string

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m, &program)) }

// rig is a cluster with pgproxy in front of it.
type rig struct {
	cluster *pgtest.Cluster
	proxy   *proxytest.Proxy
}

// startRig starts a primary with standbys and pgproxy in front of them.
func startRig(t *testing.T, standbys int, o proxytest.Options) *rig {
	t.Helper()
	c := startCluster(t, standbys)
	return &rig{cluster: c, proxy: startProxy(t, c, o)}
}

func startCluster(t *testing.T, standbys int) *pgtest.Cluster {
	t.Helper()
	return pgtest.StartCluster(t, pgtest.Options{Standbys: standbys})
}

func startProxy(t *testing.T, c *pgtest.Cluster, o proxytest.Options) *proxytest.Proxy {
	t.Helper()
	o.Metrics = true
	if o.Balance == "" {
		o.Balance = "mode: statement"
	}
	return proxytest.StartWith(t, program, c, o)
}

// run runs a subtest, at whose end pgproxy must have given back all that it took
// and the witness must be as it was.
func (r *rig) run(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		before := r.usage(t)
		t.Cleanup(func() { // the last one: the connections of the test are closed
			if !t.Failed() {
				r.settled(t, before)
			}
		})
		w := r.newWitness(t)
		f(t)
		w.check(t)
	})
}

// settled waits until pgproxy takes what it took before.
func (r *rig) settled(t *testing.T, before usage) {
	t.Helper()
	await(t, func() error {
		now, err := r.tryUsage(context.Background())
		switch {
		case err != nil:
			return err
		case now.clients > before.clients || now.used > before.used: // fewer: what came before has ended meanwhile
			return fmt.Errorf("%d clients and %d used server connections, %d and %d before", now.clients, now.used, before.clients, before.used)
		case now.files-now.idle > before.files-before.idle+slack:
			return fmt.Errorf("%d file descriptors beside those of idle server connections, %d before", now.files-now.idle, before.files-before.idle)
		case now.goroutines > before.goroutines+slack:
			return fmt.Errorf("%d goroutines, %d before", now.goroutines, before.goroutines)
		}
		return nil
	})
}

// witness is a session that minds its own business, in a transaction.
type witness struct {
	conn *pgx.Conn
	was  string // its server process and transaction
}

func (r *rig) newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{conn: r.connect(t, pgtest.AppUser)}
	mustExec(t, w.conn, "BEGIN")
	must(t, w.look(t, &w.was))
	return w
}

func (w *witness) look(t *testing.T, what *string) error {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	return w.conn.QueryRow(ctx, "SELECT pg_backend_pid() || '/' || txid_current()").Scan(what)
}

func (w *witness) check(t *testing.T) {
	t.Helper()
	is := ""
	if err := w.look(t, &is); err != nil || is != w.was {
		t.Errorf("the witness was touched: %v, process and transaction %q, were %q", err, is, w.was)
		return
	}
	mustExec(t, w.conn, "ROLLBACK")
	must(t, w.conn.Close(t.Context()))
}

// connect opens a session through pgproxy that ends with the test.
func (r *rig) connect(t *testing.T, user string) *pgx.Conn {
	t.Helper()
	return connectTo(t, r.proxy.DSN(pgtest.AppDatabase, user))
}

func connectTo(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	conn, err := pgx.Connect(ctx, dsn)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// usage is what pgproxy takes at a moment.
type usage struct {
	files, goroutines   int
	clients, used, idle int // connections; used and idle are those to servers
}

func (r *rig) usage(t *testing.T) usage {
	t.Helper()
	u, err := r.tryUsage(t.Context())
	must(t, err)
	return u
}

func (r *rig) tryUsage(ctx context.Context) (u usage, err error) {
	entries, err := os.ReadDir(procPath(r.proxy.PID(), "fd"))
	if err != nil {
		return u, err
	}
	u.files = len(entries)
	text, err := r.metrics(ctx)
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		name := line[:at]
		n, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return u, fmt.Errorf("read metrics: %w", err)
		}
		switch {
		case name == "go_goroutines":
			u.goroutines += int(n)
		case strings.HasPrefix(name, "pgproxy_client_connections"):
			u.clients += int(n)
		case strings.HasPrefix(name, "pgproxy_server_connections") && strings.Contains(name, `"used"`):
			u.used += int(n)
		case strings.HasPrefix(name, "pgproxy_server_connections"):
			u.idle += int(n)
		}
	}
	return u, nil
}

func (r *rig) metrics(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.proxy.Metrics, http.NoBody)
	if err != nil {
		return "", err
	}
	req.Close = true // no connection that counts among pgproxy's
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("get metrics: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// bounded runs f, during which pgproxy may not take more than maxGrowth.
func (r *rig) bounded(t *testing.T, f func()) {
	t.Helper()
	// 5 resets VmHWM to the present size (proc(5), clear_refs).
	must(t, os.WriteFile(procPath(r.proxy.PID(), "clear_refs"), []byte("5"), 0))
	before := r.peak(t)
	f()
	if grown := r.peak(t) - before; grown > maxGrowth {
		t.Errorf("pgproxy's memory has grown by %d MB", grown>>20)
	} else {
		t.Logf("pgproxy's memory has grown by %d kB", grown>>10)
	}
}

func procPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// peak returns VmHWM in bytes.
func (r *rig) peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(procPath(r.proxy.PID(), "status"))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kB, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return kB << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// onPrimary waits until a query of one boolean on the primary is true.
func (r *rig) onPrimary(t *testing.T, format string, args ...any) {
	t.Helper()
	r.on(t, r.cluster.Primary(), format, args...)
}

func (r *rig) on(t *testing.T, s *pgtest.Server, format string, args ...any) {
	t.Helper()
	query := fmt.Sprintf(format, args...)
	conn, err := s.Conn(t.Context(), pgtest.AppDatabase, pgtest.Superuser)
	must(t, err)
	defer conn.Close(context.Background())
	await(t, func() error {
		var ok bool
		if err := conn.QueryRow(t.Context(), query).Scan(&ok); err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("not true: %s", query)
		}
		return nil
	})
}

// await repeats f until it returns nil.
func await(t *testing.T, f func() error) {
	t.Helper()
	ctx, done := context.WithTimeout(context.Background(), hangTimeout)
	defer done()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %v", err)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	if err := conn.PgConn().Exec(ctx, sql).Close(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
