package proxy

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// TestCancelOfWhatWaits cancels statements that no server has yet.
func TestCancelOfWhatWaits(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) {
		cfg.Pool.Mode, cfg.Pool.Size, cfg.Pool.Wait, cfg.Hold.Timeout = PoolTransaction, 1, time.Hour, time.Hour
	})
	conn, other := l.client(), l.client()
	canceled := func(what, sql string) {
		t.Helper()
		done := l.run(conn, sql)
		l.held(1)
		l.cancelRequest(conn)
		if err := l.end(done); !isCanceled(err) {
			t.Errorf("%s: %v, want 57014", what, err)
		}
	}
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	canceled("behind another session", "INSERT INTO t VALUES (2)")
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (3)"); err != nil {
		t.Errorf("the session does not go on: %v", err)
	}

	l.begin(7, cluster.Switchover, cluster.PhaseDrain)
	canceled("during a switchover", "INSERT INTO t VALUES (4)")
	l.begin(7, cluster.Switchover, cluster.PhaseBarrier)
	l.awaitNudge("barred", func() bool { return l.Barred() == 7 })
	canceled("without a primary", "INSERT INTO t VALUES (5)")
	l.adopt("h1", 1)
	for _, c := range []*pgx.Conn{conn, other} {
		if got := value(t, c, "(SELECT string_agg(n::text, ' ' ORDER BY n) FROM t)"); got != "1 3" {
			t.Errorf("rows %s", got)
		}
	}
	wantOutcomes(t, l.cancels, map[string]int{cancelWaited: 3, cancelForwarded: 0, cancelIdle: 0})
}

// TestCancelOfWhatIsHeldBesideThePrimary: the session cannot give its connection back,
// and nothing new begins on it.
func TestCancelOfWhatIsHeldBesideThePrimary(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Hold.Timeout = time.Hour })
	conn := l.client()
	if _, err := conn.Exec(t.Context(), "CREATE TEMPORARY TABLE mine (n int)"); err != nil {
		t.Fatal(err)
	}
	l.begin(7, cluster.Switchover, cluster.PhaseDrain)
	done := l.run(conn, "INSERT INTO mine VALUES (1)")
	l.held(1)
	l.cancelRequest(conn)
	if err := l.end(done); !isCanceled(err) {
		t.Errorf("%v, want 57014", err)
	}
	l.change(func(s *cluster.State) { s.Operation = nil })
	if got := value(t, conn, "(SELECT count(*)::text FROM mine)"); got != "0" {
		t.Errorf("%s rows", got)
	}
	wantOutcomes(t, l.cancels, map[string]int{cancelWaited: 1})
}
