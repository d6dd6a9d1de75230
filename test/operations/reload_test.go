package operations

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// running is pgproxy in front of a primary and a standby, with its operator.
type running struct {
	*proxytest.Proxy
	t      *testing.T
	binary string
	pcp    *pcp.Client
}

func startRunning(t *testing.T) *running {
	t.Helper()
	binary := proxytest.Build(t)
	c := pgtest.StartCluster(t, pgtest.Options{Standbys: 1})
	if err := c.Primary().Exec(t.Context(), pgtest.AppDatabase, "CREATE TABLE n (n int); ALTER TABLE n OWNER TO app"); err != nil {
		t.Fatal(err)
	}
	p := proxytest.StartWith(t, binary, c, proxytest.Options{
		Balance: "mode: statement", Sections: "pool: {mode: session}\n",
		Metrics: true, Operator: true,
	})
	client, err := pcp.NewClient(pcp.Target{Socket: p.Socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &running{Proxy: p, t: t, binary: binary, pcp: client}
}

// edit replaces text in the configuration file, in one step as editors do.
func (r *running) edit(old, text string) {
	r.t.Helper()
	data, err := os.ReadFile(r.Config)
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		r.t.Fatalf("no %q in the file", old)
	}
	if err := os.WriteFile(r.Config+".new", []byte(strings.Replace(string(data), old, text, 1)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.Config+".new", r.Config); err != nil {
		r.t.Fatal(err)
	}
}

// until waits until what is so.
func (r *running) until(what string, so func() bool) {
	r.t.Helper()
	ctx, done := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer done()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("not in time: %s", what)
		}
	}
}

func (r *running) connect() (*pgx.Conn, error) {
	return pgx.Connect(r.t.Context(), r.DSN(pgtest.AppDatabase, pgtest.AppUser))
}

func (r *running) mustConnect() *pgx.Conn {
	r.t.Helper()
	conn, err := r.connect()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// metric returns the line of a metric without labels.
func (r *running) metric(name string) string {
	r.t.Helper()
	res, err := http.Get(r.Metrics)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// check runs pgproxy check and returns what it prints behind its first line.
func (r *running) check() string {
	r.t.Helper()
	out, err := exec.Command(r.binary, "check", "-c", r.Config).CombinedOutput()
	if err != nil {
		r.t.Fatalf("check: %v\n%s", err, out)
	}
	first, rest, _ := strings.Cut(string(out), "\n")
	if first != r.Config+": ok" {
		r.t.Errorf("check says %q", out)
	}
	return rest
}

func code(err error) string {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pe.Code
	}
	return ""
}

// TestReload: a changed file, SIGHUP and the operator's order, in front of real servers.
func TestReload(t *testing.T) {
	r := startRunning(t)
	old := r.mustConnect()
	if got := r.check(); got != "test runs with it\n" {
		t.Errorf("check: %q", got)
	}

	// Nobody orders anything: the file has changed.
	r.edit("drain: 1s", "drain: 1s, max_clients: 1")
	r.until("the new bound holds", func() bool {
		conn, err := r.connect()
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return code(err) == "53300"
	})
	if got := r.metric("pgproxy_config_reload_success"); got != "1" {
		t.Errorf("config_reload_success %s", got)
	}
	if err := old.Ping(t.Context()); err != nil {
		t.Errorf("a session that was there: %v", err)
	}

	// A faulty one is not taken, all of its faults are in the log.
	r.edit("max_clients: 1", "max_clients: 0, levitate: 1")
	r.Signal(t, syscall.SIGHUP)
	r.until("the fault is counted", func() bool { return r.metric("pgproxy_config_reload_success") == "0" })
	if log := r.Log(); !strings.Contains(log, "levitate") || !strings.Contains(log, "listen.max_clients: want 1 to") {
		t.Error("the faults are not in the log")
	}
	if _, err := r.pcp.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "levitate") {
		t.Errorf("the order is answered %v", err)
	}
	if _, err := r.connect(); code(err) != "53300" {
		t.Errorf("a faulty file was taken: %v", err)
	}

	// What needs a restart is said and not done.
	r.edit("max_clients: 0, levitate: 1", "max_clients: 100")
	r.edit("pool: {mode: session}", "pool: {mode: transaction, size: 7}")
	got, err := r.pcp.Reload(t.Context())
	if want := "test has read its configuration; changed: listen.max_clients, pool.mode, pool.size; only a restart puts in force: pool.mode"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	r.mustConnect()
	if got, want := r.check(), "test runs with another configuration; what differs counts after\n  a restart  pool.mode\n"; got != want {
		t.Errorf("check: %q, want %q", got, want)
	}
	r.edit("level: debug", "level: info")
	if got := r.check(); !strings.Contains(got, "  a reload   log.level\n") {
		t.Errorf("check: %q", got)
	}
}

// TestReloadBackends: weights, and a server that is removed and added again.
func TestReloadBackends(t *testing.T) {
	r := startRunning(t)
	nodes := func() string {
		all, err := r.Nodes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, n := range all {
			b.WriteString(n["node_id"] + " " + n["status"] + " " + n["lb_weight"] + "\n")
		}
		return b.String()
	}
	standby := ""
	data, err := os.ReadFile(r.Config)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "weight: 1,") {
			standby = line
		}
	}
	r.edit("weight: 0,", "weight: 3,")
	r.until("the weights are others", func() bool { return nodes() == "0 up 0.750000\n1 up 0.250000\n" })
	r.edit(standby, "")
	if _, err := r.pcp.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.until("the standby is gone", func() bool { return nodes() == "0 up 1.000000\n" })
	if got, err := r.pcp.Health(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	r.edit("weight: 3,", "weight: 1,")
	r.edit("\n  - {name", "\n"+standby+"  - {name")
	r.Signal(t, syscall.SIGHUP)
	r.until("the standby is back", func() bool { return nodes() == "0 up 0.500000\n1 up 0.500000\n" })
}

// TestPause: reads on the standby go on, writes wait for resume.
func TestPause(t *testing.T) {
	r := startRunning(t)
	ctx := t.Context()
	writer, reader := r.mustConnect(), r.mustConnect()
	tx, err := writer.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO n VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.pcp.Pause(ctx, 0); err != nil || got != "paused; 1 transaction still runs on the primary through test" {
		t.Errorf("%q, %v", got, err)
	}
	held := make(chan error, 1)
	newcomer := r.mustConnect()
	go func() {
		_, err := newcomer.Exec(ctx, "INSERT INTO n VALUES (2)")
		held <- err
	}()
	r.until("the write is held", func() bool {
		all, err := r.pcp.Sessions(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.State == "held" {
				return true
			}
		}
		return false
	})
	var standby bool
	if err := reader.QueryRow(ctx, "SELECT count(*) = 0 FROM n").Scan(&standby); err != nil || !standby {
		t.Errorf("a read during the pause: %t, %v", standby, err)
	}
	if w, err := r.pcp.Watchdog(ctx); err != nil || w.Paused == nil || !strings.HasPrefix(w.Paused.Reason, "ordered by ") {
		t.Errorf("%+v, %v", w, err)
	}
	quiet := make(chan error, 1)
	go func() {
		got, err := r.pcp.Pause(ctx, time.Minute)
		if err == nil && !strings.HasSuffix(got, "nothing runs on the primary through test") {
			err = errors.New(got)
		}
		quiet <- err
	}()
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	if err := <-quiet; err != nil {
		t.Error(err)
	}
	select {
	case err := <-held:
		t.Errorf("not held: %v", err)
	default:
	}
	if got, err := r.pcp.Resume(ctx); err != nil || !strings.HasPrefix(got, "resumed after ") {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-held; err != nil {
		t.Error(err)
	}
}
