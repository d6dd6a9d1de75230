package proxy

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// lostModes are the modes of the pools in which a server is lost.
var lostModes = []PoolMode{PoolSession, PoolTransaction}

// TestServerStops: a session goes on behind a server that stops and starts again, and is
// told what became of what was under way.
func TestServerStops(t *testing.T) {
	for _, mode := range lostModes {
		for _, stop := range []string{"fast", "immediate", "kill"} {
			t.Run(fmt.Sprintf("%s, %s", mode, stop), func(t *testing.T) { testServerStops(t, mode, stop) })
		}
	}
}

func testServerStops(t *testing.T, mode PoolMode, stop string) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Pool.Mode = mode })
	ctx := t.Context()
	idle, open, writing, aware := l.client(), l.client(), l.client(), l.client()
	for conn, statements := range map[*pgx.Conn][]string{
		idle:  {"SET application_name = 'idle'", "PREPARE p AS SELECT 40 + 2"},
		open:  {"BEGIN", "INSERT INTO t VALUES (1)"},
		aware: {"CREATE TEMP TABLE x (n int)"},
	} {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := idle.Prepare(ctx, "q", "SELECT 42"); err != nil {
		t.Fatal(err)
	}
	wrote := l.run(writing, "INSERT INTO t SELECT 2 FROM pg_sleep(3600)")
	l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")

	server := l.pg.Primary()
	var err error
	switch stop {
	case "fast":
		err = server.Stop(ctx, pgtest.StopFast)
	case "immediate":
		err = server.Stop(ctx, pgtest.StopImmediate)
	default:
		err = server.Kill(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.end(wrote), "08007")
	held := l.run(idle, "INSERT INTO t VALUES (3)")
	l.held(1)
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	l.change(func(*cluster.State) {})
	if err := l.end(held); err != nil {
		t.Errorf("what was held: %v", err)
	}
	_, err = open.Exec(ctx, "INSERT INTO t VALUES (4)")
	wantCode(t, err, "40001")
	_, err = open.Exec(ctx, "SELECT 1")
	wantCode(t, err, "25P02")
	if tag, err := open.Exec(ctx, "COMMIT"); err != nil || tag.String() != "ROLLBACK" {
		t.Errorf("COMMIT says %s, %v", tag, err)
	}
	_, err = aware.Exec(ctx, "SELECT 1")
	wantCode(t, err, "40001")
	for i, conn := range []*pgx.Conn{open, writing, aware} {
		if _, err := conn.Exec(ctx, "INSERT INTO t VALUES ($1)", 10+i); err != nil {
			t.Errorf("session %d: %v", i, err)
		}
	}
	if got := value(t, idle, "current_setting('application_name')"); got != "idle" {
		t.Errorf("application_name %q", got)
	}
	for _, sql := range []string{"EXECUTE p", "q"} {
		var n int
		if err := idle.QueryRow(ctx, sql).Scan(&n); err != nil || n != 42 {
			t.Errorf("%s: %d, %v", sql, n, err)
		}
	}
	if got := l.ask("h1", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"); got != "3 10 11 12" {
		t.Errorf("rows %s", got)
	}
}

// TestKilledServerIsLostOnce: who has lost a connection to a server that was killed is not
// lent another one whose server process has not noticed yet.
func TestKilledServerIsLostOnce(t *testing.T) {
	var l *leased
	l = newLeased(t, 0, func(cfg *Config, s *Server) {
		cfg.Pool.Mode = PoolTransaction
		if s != nil {
			s.pools.goesOn = func(ctx context.Context, _ string, _ uint64) bool {
				conn, err := l.pg.Primary().Conn(ctx, "postgres", pgtest.Superuser)
				return err == nil && conn.Close(ctx) == nil
			}
		}
	})
	ctx := t.Context()
	loser, other := l.client(), l.client()
	for _, conn := range []*pgx.Conn{loser, other} {
		if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
			t.Fatal(err)
		}
	}
	slow, err := strconv.Atoi(value(t, other, "pg_backend_pid()"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	awaitUsed(t, l.Server, 1)
	if err := syscall.Kill(slow, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	notices := sync.OnceFunc(func() { _ = syscall.Kill(slow, syscall.SIGCONT) }) // it may be gone
	t.Cleanup(notices)
	server := l.pg.Primary()
	if err := server.KillPostmaster(); err != nil {
		t.Fatal(err)
	}
	for err == nil { // until its server process has noticed
		_, err = loser.Exec(ctx, "INSERT INTO t SELECT 1 + count(*) FROM t")
	}
	wantCode(t, err, "40001")
	if _, err := loser.Exec(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	held := l.run(loser, "INSERT INTO t VALUES (1)")
	l.held(1)
	notices()
	if err := server.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	l.change(func(*cluster.State) {})
	if err := l.end(held); err != nil {
		t.Errorf("a second error: %v", err)
	}
}

// TestTerminated: what an administrator ends is over.
func TestTerminated(t *testing.T) {
	l := newLeased(t, 0, func(_ *Config, s *Server) {
		if s != nil {
			s.sessions.goesOn = func(context.Context, string, uint64) bool { return true }
		}
	})
	for _, begin := range []string{"", "BEGIN"} {
		conn := l.client()
		if _, err := conn.Exec(t.Context(), begin); err != nil {
			t.Fatal(err)
		}
		done := l.run(conn, "SELECT pg_sleep(3600)")
		l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")
		l.exec("h1", "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
		wantCode(t, l.end(done), "57P01")
		if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("the session goes on")
		}
	}
}

// TestCancelledWait: a commit of which no standby has heard is not called successful.
func TestCancelledWait(t *testing.T) {
	l := newWaiting(t, true, nil)
	conn := l.client()
	const cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE " + waitsForStandby
	for i, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		for j, block := range []bool{false, true} {
			n := 2*i + j
			done := make(chan error, 1)
			go func() {
				ctx := context.WithoutCancel(t.Context())
				if block {
					_, err := conn.Exec(ctx, "BEGIN")
					if err != nil {
						done <- err
						return
					}
				}
				_, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO t VALUES (%d)", n), mode)
				if block && err == nil {
					_, err = conn.Exec(ctx, "COMMIT", mode)
				}
				done <- err
			}()
			l.await("h1", ofClients(waitsForStandby), "1")
			l.exec("h1", "postgres", cancel)
			wantCode(t, l.end(done), "08007")
			if status := conn.PgConn().TxStatus(); status != 'I' {
				t.Errorf("status %c", status)
			}
			if got := l.ask("h1", fmt.Sprintf("SELECT count(*)::text FROM t WHERE n = %d", n)); got != "1" {
				t.Errorf("%s rows", got)
			}
		}
	}
}
