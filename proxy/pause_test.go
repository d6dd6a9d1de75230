package proxy

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func (st *stage) pause(on bool) {
	st.change(func(s *cluster.State) {
		s.Paused = nil
		if on {
			s.Paused = &cluster.Pause{Since: time.Now()}
		}
	})
}

// awaitPaused waits until a pause is in force and so many transactions run.
func (l *leased) awaitPaused(running int) {
	l.t.Helper()
	for deadline := time.Now().Add(testPatience); ; {
		inForce, n := l.Paused()
		if inForce && n == running {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("in force %t, %d transactions run, want %d", inForce, n, running)
		}
	}
}

// execLater runs a statement for which the test does not wait.
func execLater(t *testing.T, conn *pgx.Conn, sql string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), sql)
		done <- err
	}()
	return done
}

// TestPause: what runs ends, what comes waits through a failover, and all of it runs
// behind resume. Nothing of it is acknowledged as a drain.
func TestPause(t *testing.T) {
	l := newLeased(t, 1, func(cfg *Config, _ *Server) { cfg.Balance.Mode = "off" })
	ctx := t.Context()
	running, idle, bound := l.client(), l.client(), l.client()
	tx, err := running.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if inForce, n := l.Paused(); inForce || n != 0 {
		t.Errorf("paused before it was: %t, %d", inForce, n)
	}
	l.pause(true)
	l.awaitPaused(1)
	held := execLater(t, idle, "INSERT INTO t VALUES (2)")
	newcomer := make(chan error, 1)
	go func() {
		conn, err := pgx.Connect(ctx, appDSN(l.Server, ""))
		if err == nil {
			_, err = conn.Exec(ctx, "INSERT INTO t VALUES (3)")
			_ = conn.Close(ctx)
		}
		newcomer <- err
	}()
	l.held(1)
	if err := tx.Commit(ctx); err != nil {
		t.Errorf("the transaction that was open: %v", err)
	}
	l.awaitPaused(0)
	if l.Drained() != 0 {
		t.Errorf("drained for %d", l.Drained())
	}

	if err := l.pg.WaitForCatchup(ctx); err != nil {
		t.Fatal(err)
	}
	l.begin(7, cluster.Failover, cluster.PhaseBarrier)
	l.awaitNudge("barred", func() bool { return l.Barred() == 7 })
	if err := l.pg.Promote(ctx, "h2"); err != nil {
		t.Fatal(err)
	}
	l.adopt("h2", 2)
	l.awaitPaused(0)
	late := execLater(t, bound, "INSERT INTO t VALUES (4)")
	l.held(2)
	if got := l.ask("h2", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"); got != "1" {
		t.Errorf("rows %s while it is paused", got)
	}
	l.pause(false)
	for _, done := range []<-chan error{held, newcomer, late} {
		if err := <-done; err != nil {
			t.Errorf("a statement that was held: %v", err)
		}
	}
	if got := l.ask("h2", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"); got != "1 2 3 4" {
		t.Errorf("rows %s", got)
	}
	if inForce, _ := l.Paused(); inForce {
		t.Error("in force after resume")
	}
}

// TestPauseIsBounded: after hold.timeout a statement that is held is answered, also of
// a session that keeps its connection for a temporary table; both go on afterwards.
func TestPauseIsBounded(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Hold.Timeout = 300 * time.Millisecond })
	ctx := t.Context()
	plain, bound := l.client(), l.client()
	if _, err := bound.Exec(ctx, "CREATE TEMP TABLE x (n int)"); err != nil {
		t.Fatal(err)
	}
	l.pause(true)
	l.awaitPaused(0)
	for _, q := range []struct {
		conn *pgx.Conn
		sql  string
	}{{plain, "INSERT INTO t VALUES (1)"}, {bound, "INSERT INTO x VALUES (1)"}} {
		_, err := q.conn.Exec(ctx, q.sql)
		wantCode(t, err, "57P03")
		contains(t, err, "pgproxy: paused by an operator, no primary within 300ms")
	}
	l.pause(false)
	for _, q := range []struct {
		conn *pgx.Conn
		sql  string
	}{{plain, "INSERT INTO t VALUES (1)"}, {bound, "INSERT INTO x VALUES (1)"}} {
		if _, err := q.conn.Exec(ctx, q.sql); err != nil {
			t.Errorf("%s: %v", q.sql, err)
		}
	}
}
