// Package proxytest builds pgproxy and runs it in front of a cluster of package
// pgtest, as its users do: the binary, a configuration file, setup-sql. It is for
// tests that look at pgproxy from outside.
package proxytest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

const (
	// readyTimeout bounds the time from the start of pgproxy to three usable nodes.
	readyTimeout = time.Minute
	// stopTimeout bounds the time from SIGTERM to the end: listen.drain and some more.
	stopTimeout = 30 * time.Second
	// logLimit is how much of the end of pgproxy's log a failed test shows, in bytes.
	logLimit = 20_000
)

// Proxy is a running pgproxy.
type Proxy struct {
	Port    int    // on 127.0.0.1
	Metrics string // URL of the metrics; empty: none
	Socket  string // of the operator's interface; empty: none
	Config  string // the configuration file

	binary string
	cmd    *exec.Cmd
	ended  chan error
	log    *logBuffer
}

// Build builds pgproxy into a directory of the test and returns its path.
func Build(t *testing.T) string {
	t.Helper()
	path, err := buildInto(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Main builds pgproxy once for all tests of a package, tells its path, and runs them.
func Main(m *testing.M, path *string) (status int) {
	dir, err := os.MkdirTemp("", "pgproxy-tests-")
	if err == nil {
		defer os.RemoveAll(dir)
		*path, err = buildInto(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// buildInto builds pgproxy into a directory and returns its path.
func buildInto(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "pgproxy")
	args := []string{"build", "-o", path}
	cgo := "CGO_ENABLED=0"
	if raceEnabled {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/pgproxy/pgproxy/cmd/pgproxy")...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pgproxy: %w\n%s", err, out)
	}
	return path, nil
}

// Options are what a test's configuration has beside what every one needs.
type Options struct {
	Weights  map[string]int // by server; nil: 0 for the primary and 1 for each standby
	Balance  string         // content of the section balance, in YAML's flow style: "mode: statement"
	Health   string         // content of the section health; empty: Patient
	Sections string         // further sections, in YAML: "hold: {timeout: 1s}\n"

	// Listen is the content of the section listen but for the address; empty: no TLS,
	// and a drain of one second.
	Listen  string
	Metrics bool // serve them on a port of its own
	// Operator opens the operator's interface, on a Unix socket.
	Operator bool
	// Backend is further content of every entry of backends: "max_connections: 3".
	Backend string
	// Address returns where pgproxy finds a server; nil: where the server listens.
	Address func(*pgtest.Server) string
}

// Patient keeps a loaded machine from being taken for a dead server. One that refuses
// connections is found as soon as ever.
const Patient = "timeout: 20s, retries: 3"

// Start runs pgproxy with balance as its balance.mode; see StartWith.
func Start(t *testing.T, binary string, c *pgtest.Cluster, balance string) *Proxy {
	t.Helper()
	return StartWith(t, binary, c, Options{Balance: "mode: " + balance})
}

// StartWith runs pgproxy in front of the cluster until the test ends. It returns
// when pgproxy says that all nodes are usable. At the end pgproxy must stop when
// it is told to, with status 0.
func StartWith(t *testing.T, binary string, c *pgtest.Cluster, o Options) *Proxy {
	t.Helper()
	port := reservePort(t)
	p := &Proxy{Port: port.Number, binary: binary, ended: make(chan error, 1), log: &logBuffer{}}
	metrics := ""
	if o.Metrics {
		metrics = reservePort(t).Address()
		p.Metrics = "http://" + metrics + "/metrics"
	}
	if err := c.Primary().Exec(t.Context(), "postgres", p.setupSQL(t)); err != nil {
		t.Fatalf("run setup-sql: %v", err)
	}
	if err := c.WaitForCatchup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o.Operator {
		dir, err := os.MkdirTemp("", "pcp") // a path of t.TempDir may be too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		p.Socket = filepath.Join(dir, "s")
	}
	p.Config = p.writeConfig(t, c, port.Address(), metrics, o)
	p.start(t, p.Config)
	t.Cleanup(func() { p.stop(t) })
	p.awaitReady(t, c)
	return p
}

func reservePort(t *testing.T) *pgtest.Port {
	t.Helper()
	port, err := pgtest.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	return port
}

// PID returns the process id of pgproxy.
func (p *Proxy) PID() int { return p.cmd.Process.Pid }

// Terminate sends SIGTERM; the end of the test waits for the end of pgproxy.
func (p *Proxy) Terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stop pgproxy: %v", err)
	}
}

// Signal sends a signal to pgproxy.
func (p *Proxy) Signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal pgproxy: %v", err)
	}
}

// Log returns the end of what pgproxy has logged.
func (p *Proxy) Log() string { return p.log.String() }

// Wait waits for the end of pgproxy and returns what exec.Cmd.Wait said.
func (p *Proxy) Wait(ctx context.Context) error {
	select {
	case err := <-p.ended:
		p.ended <- err // for the next one
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of pgproxy: %w", ctx.Err())
	}
}

// Address returns 127.0.0.1:port.
func (p *Proxy) Address() string { return fmt.Sprintf("127.0.0.1:%d", p.Port) }

// DSN returns a connection string in libpq's keyword form.
func (p *Proxy) DSN(database, user string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s user=%s password=%s sslmode=disable",
		p.Port, database, user, pgtest.Password(user))
}

func (p *Proxy) setupSQL(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), p.binary, "setup-sql", "--user", pgtest.MonitorUser).Output()
	if err != nil {
		t.Fatalf("print setup-sql: %v", err)
	}
	return string(out)
}

// DriverVariable names the environment variable with the listen.driver of the pgproxies
// that tests start, so that the same tests try each; empty: the default.
const DriverVariable = "PGPROXY_TEST_DRIVER"

func driver() string {
	if d := os.Getenv(DriverVariable); d != "" {
		return ", driver: " + d
	}
	return ""
}

// writeConfig writes the file that an administrator would write.
func (p *Proxy) writeConfig(t *testing.T, c *pgtest.Cluster, address, metrics string, o Options) string {
	t.Helper()
	dir := t.TempDir()
	password := filepath.Join(dir, "monitor.password")
	if err := os.WriteFile(password, []byte(pgtest.Password(pgtest.MonitorUser)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `name: test
data_dir: %q
listen: {address: %q, %s}
monitor: {user: %s, password_file: %q, database: postgres}
health: {%s}
balance: {%s}
metrics: {listen: %q}
pcp: {listen: "", unix_socket: %q}
log: {level: debug}
%sbackends:
`, filepath.Join(dir, "data"), address, cmp.Or(o.Listen, "tls: {mode: disable}, drain: 1s")+driver(),
		pgtest.MonitorUser, password, cmp.Or(o.Health, Patient), o.Balance, metrics, p.Socket, o.Sections)
	for _, s := range c.Servers {
		weight := 1
		if s == c.Primary() {
			weight = 0
		}
		if o.Weights != nil {
			weight = o.Weights[s.Name]
		}
		at := s.Address()
		if o.Address != nil {
			at = o.Address(s)
		}
		fmt.Fprintf(&conf, "  - {name: %s, address: %q, weight: %d, %s}\n", s.Name, at, weight, o.Backend)
	}
	config := filepath.Join(dir, "pgproxy.yaml")
	if err := os.WriteFile(config, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

func (p *Proxy) start(t *testing.T, config string) {
	t.Helper()
	p.cmd = exec.Command(p.binary, "run", "-c", config)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("run pgproxy: %v", err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
}

// awaitReady waits until SHOW pool_nodes shows every node up and every standby
// streaming.
func (p *Proxy) awaitReady(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := p.Nodes(ctx)
		if err == nil && usable(nodes, len(c.Servers)) {
			return
		}
		select {
		case err := <-p.ended:
			p.ended <- err // for stop
			t.Fatalf("pgproxy ended: %v\n%s", err, p.log)
		case <-ctx.Done():
			t.Fatalf("pgproxy is not ready: %v, nodes %v\n%s", err, nodes, p.log)
		case <-tick.C:
		}
	}
}

func usable(nodes []map[string]string, servers int) bool {
	up, streaming := 0, 0
	for _, n := range nodes {
		if n["status"] == "up" {
			up++
		}
		if n["replication_state"] == "streaming" {
			streaming++
		}
	}
	return up == servers && streaming == servers-1
}

// Nodes returns SHOW pool_nodes, each row by column name.
func (p *Proxy) Nodes(ctx context.Context) ([]map[string]string, error) {
	conn, err := pgx.Connect(ctx, p.DSN(pgtest.AppDatabase, pgtest.AppUser))
	if err != nil {
		return nil, fmt.Errorf("connect to pgproxy: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.PgConn().Exec(ctx, "SHOW pool_nodes").ReadAll()
	if err != nil {
		return nil, fmt.Errorf("show nodes: %w", err)
	}
	var nodes []map[string]string
	for _, row := range results[0].Rows {
		node := map[string]string{}
		for i, f := range results[0].FieldDescriptions {
			node[f.Name] = string(row[i])
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// stop tells pgproxy to end, and shows its log where the test has failed.
func (p *Proxy) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stop pgproxy: %v", err)
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("pgproxy did not end well: %v", err)
		}
	case <-timeout.C:
		t.Errorf("pgproxy has not ended %s after SIGTERM", stopTimeout)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // the Go runtime prints all goroutines
		<-p.ended
	}
	if t.Failed() {
		t.Logf("pgproxy's log:\n%s", p.log)
	}
}

// logBuffer collects what pgproxy prints.
type logBuffer struct {
	mu struct {
		sync.Mutex
		buf bytes.Buffer
	}
}

// Write implements io.Writer.
func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.buf.Write(b)
}

// String returns the end of the log.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.mu.buf.Bytes()
	return string(b[max(0, len(b)-logLimit):])
}
