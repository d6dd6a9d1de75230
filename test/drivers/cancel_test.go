package drivers

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestCancelThroughAnotherMember has the drivers cancel by their own means what runs
// through one member, while a load balancer gives their cancel requests to another one.
func TestCancelThroughAnotherMember(t *testing.T) {
	c := startMembers(t)
	serving, other := c.Host("h1"), c.Host("h2")
	to := target{port: balance(t, c, serving, other)}
	var err error
	to.bin, err = pgtest.FindBinaries()
	must(t, err)
	env := append(c.Environment(), "PGHOST=127.0.0.1", "PGPORT="+port(to.port), "PGSSLMODE=disable")
	cancels := []struct {
		name string
		run  func(*testing.T, target, []string, *rig.Cluster)
	}{
		{"psql", cancelPsql},
		{"pgx", cancelPgx},
		{"psycopg", cancelPsycopg},
		{"node-postgres", cancelNode},
	}
	for _, p := range cancels {
		t.Run(p.name, func(t *testing.T) { p.run(t, to, env, c) })
	}
	for _, m := range []struct {
		host    *rig.Host
		outcome string
	}{{serving, "forwarded"}, {other, "elsewhere"}} {
		n, err := m.host.Metric(t.Context(), `pgproxy_cancels_total{outcome="`+m.outcome+`"}`)
		if must(t, err); n != float64(len(cancels)) {
			t.Errorf("%s: %g cancel requests %s, want %d", m.host.Name, n, m.outcome, len(cancels))
		}
	}
}

// startMembers starts two hosts with servers and members, and a witness.
func startMembers(t *testing.T) *rig.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "cancel-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	c, err := rig.New(t.Context(), rig.Options{Servers: 2, Witness: true, Dir: dir, Binary: proxytest.Build(t)})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatalf("%v\n%s", err, c.Report(context.WithoutCancel(ctx), 50))
	}
	return c
}

// balance listens on 127.0.0.1 until the end of the test and passes connections on:
// cancel requests to cancels, all others to serving.
func balance(t *testing.T, c *rig.Cluster, serving, cancels *rig.Host) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var conns sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		l.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { pass(ctx, c, in, serving, cancels) })
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// pass serves one connection.
func pass(ctx context.Context, c *rig.Cluster, in net.Conn, serving, cancels *rig.Host) {
	defer in.Close()
	defer context.AfterFunc(ctx, func() { in.Close() })()
	head := make([]byte, 8)
	if _, err := io.ReadFull(in, head); err != nil {
		return
	}
	to := serving
	if pgwire.RequestCode(head[4:]) == pgwire.CancelRequestCode {
		to = cancels
	}
	out, err := c.Client.DialContext(ctx, "tcp", net.JoinHostPort(to.IP, port(rig.ProxyPort)))
	if err != nil {
		return
	}
	defer out.Close()
	if _, err := out.Write(head); err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(out, in) // the other direction sees the end
		out.Close()
	})
	_, _ = io.Copy(in, out)
	in.Close()
	up.Wait()
}

// sleeping waits until a client's statement sleeps on the primary.
func sleeping(t *testing.T, c *rig.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		n, err := c.Host("h1").Query(ctx, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
		if must(t, err); n == "1" {
			return
		}
	}
}

func cancelPsql(t *testing.T, to target, env []string, c *rig.Cluster) {
	cmd := to.command(t, env, to.tool("psql"), "-X", "-c", "SELECT pg_sleep(3600)", "-c", "SELECT 6 * 7")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	sleeping(t, c)
	must(t, cmd.Process.Signal(syscall.SIGINT)) // Ctrl-C
	_ = cmd.Wait()                              // its status is that of what was cancelled or of what follows
	if text := out.String(); !strings.Contains(text, "ERROR:  canceling statement due to user request") {
		t.Errorf("psql prints %q", text)
	}
}

func cancelPgx(t *testing.T, _ target, env []string, c *rig.Cluster) {
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	config, err := pgx.ParseConfig("")
	must(t, err)
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 20 * time.Second}
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, "SELECT pg_sleep(3600)")
		ended <- err
	}()
	sleeping(t, c)
	cancel()
	err = <-ended
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "57014" {
		t.Errorf("%v, want 57014", err)
	}
	var n int
	if must(t, conn.QueryRow(t.Context(), "SELECT 6 * 7").Scan(&n)); n != 42 {
		t.Errorf("got %d", n)
	}
}

func cancelPsycopg(t *testing.T, to target, env []string, _ *rig.Cluster) {
	script, err := filepath.Abs("python/cancel.py")
	must(t, err)
	run(t, to.command(t, env, "/usr/bin/python3", script))
}

func cancelNode(t *testing.T, to target, env []string, _ *rig.Cluster) {
	run(t, to.command(t, env, "node", "--no-deprecation", filepath.Join(nodePrograms(t), "cancel.js")))
}
