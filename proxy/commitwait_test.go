package proxy

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// newWaiting is a Server in front of a primary whose commits wait for a standby that
// does not exist, and whose State knows of synchronous standbys if recorded.
func newWaiting(t *testing.T, recorded bool, change func(*Config, *Server)) *leased {
	t.Helper()
	l := newLeased(t, 0, change)
	if recorded {
		l.change(func(s *cluster.State) { s.Sync = cluster.Sync{Method: cluster.SyncFirst, Num: 1} })
	}
	l.exec("h1", "postgres", "GRANT pg_monitor TO "+pgtest.MonitorUser)
	l.synchronous("nobody")
	return l
}

// synchronous sets synchronous_standby_names.
func (l *leased) synchronous(names string) {
	l.t.Helper()
	l.exec("h1", "postgres", "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	l.exec("h1", "postgres", "SELECT pg_reload_conf()")
	l.await("h1", "SELECT current_setting('synchronous_standby_names')", names)
}

// run runs a statement in the background.
func (l *leased) run(conn *pgx.Conn, sql string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(l.t.Context()), sql, pgx.QueryExecModeSimpleProtocol)
		done <- err
	}()
	return done
}

// end waits for the end of a statement.
func (l *leased) end(done <-chan error) error {
	l.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(testPatience):
		l.t.Fatal("the statement does not end")
		return nil
	}
}

func (l *leased) cancelRequest(conn *pgx.Conn) {
	l.t.Helper()
	if err := conn.PgConn().CancelRequest(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

const waitsForStandby = "wait_event = 'SyncRep'"

func isCanceled(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "57014"
}

func TestCancelOfACommitThatWaitsForAStandby(t *testing.T) {
	l := newWaiting(t, true, nil)
	conn := l.client()
	for i, commit := range []string{"INSERT INTO t VALUES (1)", "BEGIN; INSERT INTO t VALUES (2); COMMIT", "COMMIT"} {
		if commit == "COMMIT" {
			for _, sql := range []string{"BEGIN", "INSERT INTO t VALUES (3)"} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.cancelInVain(conn, commit, i+1); err != nil {
			t.Errorf("%s: %v", commit, err)
		}
	}
}

// cancelInVain runs what waits for a standby at its end, has it cancelled meanwhile, which
// is the n-th cancel of the test and must not be passed on, and lets it end.
func (l *leased) cancelInVain(conn *pgx.Conn, sql string, n int) error {
	l.t.Helper()
	done := l.run(conn, sql)
	l.await("h1", ofClients(waitsForStandby), "1")
	l.cancelRequest(conn)
	// A cancel that is passed on is dealt with before the request ends.
	l.await("h1", ofClients(waitsForStandby), "1")
	wantOutcomes(l.t, l.cancels, map[string]int{cancelCommit: n, cancelForwarded: 0})
	l.synchronous("")
	defer l.synchronous("nobody")
	return l.end(done)
}

func TestCancelOfAWriteThatDoesNotWait(t *testing.T) {
	l := newWaiting(t, true, nil)
	conn := l.client()
	const slow = "INSERT INTO t SELECT 1 FROM pg_sleep(3600)"
	for _, begin := range []string{"", "BEGIN"} {
		if _, err := conn.Exec(t.Context(), begin); err != nil {
			t.Fatal(err)
		}
		done := l.run(conn, slow)
		l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")
		l.cancelRequest(conn)
		if err := l.end(done); !isCanceled(err) {
			t.Errorf("behind %q: %v, want 57014", begin, err)
		}
	}
	wantOutcomes(t, l.cancels, map[string]int{cancelCommit: 0, cancelForwarded: 2})
	// The second one was known not to be a commit; so there was one look, on a
	// connection that is kept.
	if n := l.ask("h1", "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%coalesce(wait_event%' AND pid <> pg_backend_pid()"); n != "1" {
		t.Errorf("%s connections to look at what processes wait for", n)
	}
}

func TestCancelWhenNobodyKnowsWhatTheServerWaitsFor(t *testing.T) {
	l := newWaiting(t, true, nil)
	conn := l.client()
	l.exec("h1", "postgres", "SET synchronous_commit = local; REVOKE pg_monitor FROM "+pgtest.MonitorUser)
	for i, reason := range []string{"the monitor may not see it", "the monitor is not let in"} {
		if i == 1 {
			wrong := *l.lookups.rules.Load()
			wrong.credential = auth.NewPasswordCredential("wrong")
			l.lookups.rules.Store(&wrong)
		}
		if err := l.cancelInVain(conn, "DELETE FROM t; INSERT INTO t VALUES (1)", i+1); err != nil {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

func TestCancelWithoutSynchronousStandbysAsksNobody(t *testing.T) {
	l := newWaiting(t, false, func(_ *Config, s *Server) {
		if s != nil {
			s.waits.lookups = nil
		}
	})
	conn := l.client()
	done := l.run(conn, "INSERT INTO t VALUES (1)")
	l.await("h1", ofClients(waitsForStandby), "1")
	l.cancelRequest(conn)
	l.end(done)
	wantOutcomes(t, l.cancels, map[string]int{cancelCommit: 0, cancelForwarded: 1})
}

func TestKillOfACommitThatWaitsForAStandby(t *testing.T) {
	l := newWaiting(t, true, nil)
	conn := l.client()
	done := l.run(conn, "INSERT INTO t VALUES (1)")
	l.await("h1", ofClients(waitsForStandby), "1")
	if err := l.Kill(l.Sessions()[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := l.end(done); err == nil {
		t.Error("the commit is acknowledged")
	}
	l.await("h1", ofClients(waitsForStandby), "1")
	wantOutcomes(t, l.cancels, map[string]int{cancelCommit: 1, cancelForwarded: 0})
}
