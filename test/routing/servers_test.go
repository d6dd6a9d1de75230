package routing

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// quick is for tests in which servers come and go.
const quick = "interval: 100ms, " + proxytest.Patient

// TestMaxLag: a standby that is further behind than balance.max_lag gets no
// reads, of old sessions neither, and gets them again when it has caught up.
func TestMaxLag(t *testing.T) {
	f := newFixture(t, "CREATE TABLE t (n int)")
	p := f.start(t, proxytest.Options{Balance: "mode: statement, consistency: eventual, max_lag: 500ms", Health: quick})
	old := make([]*pgconn.PgConn, 4)
	for i := range old {
		old[i] = connect(t, p)
		f.spread(t, old[i], 1)
	}
	f.pause(t, "h2")
	must(t, f.Primary().Exec(t.Context(), pgtest.AppDatabase, "INSERT INTO t VALUES (1)"))
	// h3, too, is behind for the moment that it takes to replay.
	await(t, "that h2 is left, and h3 is not", func(context.Context) bool { return f.newSessions(t, p)["h3"] == 8 })
	for _, conn := range old {
		if got := f.spread(t, conn, 10); got["h3"] != 10 {
			t.Errorf("reads of an old session: got %v, want all on h3", got)
		}
	}
	f.pause(t, "h3")
	must(t, f.Primary().Exec(t.Context(), pgtest.AppDatabase, "INSERT INTO t VALUES (2)"))
	await(t, "that h3 is left", func(context.Context) bool { return f.newSessions(t, p)["h1"] == 8 })
	f.resume(t, "h2", "h3")
	await(t, "that both are taken again", func(context.Context) bool {
		got := f.newSessions(t, p)
		return got["h2"] == 4 && got["h3"] == 4
	})
}

// newSessions has 8 new sessions read once each.
func (f *fixture) newSessions(t *testing.T, p *proxytest.Proxy) map[string]int {
	t.Helper()
	f.count(t)
	for i := range 8 {
		conn := connect(t, p)
		must(t, read(t.Context(), conn, i))
		must(t, conn.Close(t.Context()))
	}
	return f.count(t, "/* spread */")[0]
}

// TestStandbyLost: no read fails because a standby goes, and it is used again
// when it is back.
func TestStandbyLost(t *testing.T) {
	f := newFixture(t, "")
	p := f.start(t, proxytest.Options{Balance: "mode: statement", Health: quick})
	for name, end := range map[string]func(context.Context, *pgtest.Server) error{
		"fast":      func(ctx context.Context, s *pgtest.Server) error { return s.Stop(ctx, pgtest.StopFast) },
		"immediate": func(ctx context.Context, s *pgtest.Server) error { return s.Stop(ctx, pgtest.StopImmediate) },
		"kill":      func(ctx context.Context, s *pgtest.Server) error { return s.Kill(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			stop := readOn(t, p)
			must(t, end(t.Context(), f.Server("h2")))
			await(t, "that h2 is down", func(ctx context.Context) bool { return f.node(ctx, t, p, "h2")["status"] == "down" })
			await(t, "that all new sessions read on h3", func(context.Context) bool { return f.newSessions(t, p)["h3"] == 8 })
			must(t, f.Server("h2").Start(t.Context()))
			await(t, "that h2 is taken again", func(context.Context) bool { return f.newSessions(t, p)["h2"] == 4 })
			stop()
		})
	}
}

// readOn has sessions read all the time, until stop is called. Their reads must
// not fail.
func readOn(t *testing.T, p *proxytest.Proxy) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	for i := range 4 {
		conn := connect(t, p)
		g.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				if err := readMarked(context.WithoutCancel(ctx), conn, n, "/* on */"); err != nil {
					return fmt.Errorf("reader %d: %w", i, err)
				}
			}
			return nil
		})
	}
	return func() {
		t.Helper()
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// node returns the row of a server in SHOW pool_nodes.
func (f *fixture) node(ctx context.Context, t *testing.T, p *proxytest.Proxy, name string) map[string]string {
	t.Helper()
	nodes, err := p.Nodes(ctx)
	must(t, err)
	for i, s := range f.Servers {
		if s.Name == name {
			return nodes[i]
		}
	}
	panic("BUG: no server is named " + name)
}

// hang is a read that does not end on a standby.
const hang = `CREATE FUNCTION hang_on_standby() RETURNS text LANGUAGE plpgsql STABLE AS $$BEGIN
	IF pg_is_in_recovery() THEN PERFORM pg_sleep(3600); END IF;
	RETURN 'done'; END$$`

// TestStandbyLostInMidStatement: a read in flight is repeated on another server
// where the client has had no row of it; else it is told to try again.
func TestStandbyLostInMidStatement(t *testing.T) {
	f := newFixture(t, hang)
	p := f.start(t, proxytest.Options{
		Balance: "mode: statement", Weights: map[string]int{"h2": 1}, Health: quick,
	})
	for p2 := range protocols {
		t.Run("no row yet, "+p2.String(), func(t *testing.T) {
			conn := connect(t, p)
			var got string
			var g errgroup.Group
			g.Go(func() (err error) {
				got, err = ask(t.Context(), conn, p2, "s", "SELECT hang_on_standby()")
				return err
			})
			f.awaitHanging(t)
			must(t, f.Server("h2").Kill(t.Context()))
			must(t, g.Wait())
			if got != "done" {
				t.Errorf("got %q, want done", got)
			}
			f.restart(t, p, "h2")
		})
	}
	t.Run("after a row", func(t *testing.T) {
		conn := connect(t, p)
		rows := conn.ExecParams(t.Context(), `SELECT repeat('x', 100), CASE WHEN g = 10000 THEN hang_on_standby() END
			FROM generate_series(1, 10000) g`, nil, nil, nil, nil)
		if !rows.NextRow() {
			t.Fatal("there is no row")
		}
		f.awaitHanging(t)
		must(t, f.Server("h2").Kill(t.Context()))
		for rows.NextRow() {
		}
		if _, err := rows.Close(); code(err) != "40001" {
			t.Errorf("got %v, want 40001", err)
		}
		if got, err := ask(t.Context(), conn, simple, "", "SELECT 1"); err != nil || got != "1" {
			t.Errorf("the session does not go on: %q, %v", got, err)
		}
		f.restart(t, p, "h2")
	})
}

// awaitHanging waits until hang_on_standby hangs on h2.
func (f *fixture) awaitHanging(t *testing.T) {
	t.Helper()
	await(t, "that the statement hangs", func(ctx context.Context) bool {
		n, err := f.Server("h2").QueryValue(ctx, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
		must(t, err)
		return n == "1"
	})
}

// restart starts a standby again and waits until it is used.
func (f *fixture) restart(t *testing.T, p *proxytest.Proxy, name string) {
	t.Helper()
	must(t, f.Server(name).Start(t.Context()))
	await(t, "that "+name+" is taken again", func(context.Context) bool { return f.newSessions(t, p)[name] > 0 })
}

// TestPrimaryLost: without a primary reads go on, of new sessions too; writes
// wait for it, for hold.timeout.
func TestPrimaryLost(t *testing.T) {
	f := newFixture(t, "CREATE TABLE t (n int)")
	p := f.start(t, proxytest.Options{
		Balance: "mode: statement", Health: quick, Sections: "hold: {timeout: 1s}\nauth: {cache: 0s}\n",
	})
	for name, end := range map[string]func(context.Context) error{
		"fast":      func(ctx context.Context) error { return f.Primary().Stop(ctx, pgtest.StopFast) },
		"immediate": func(ctx context.Context) error { return f.Primary().Stop(ctx, pgtest.StopImmediate) },
		"kill":      func(ctx context.Context) error { return f.Primary().Kill(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			old := connect(t, p)
			// A session whose last answer is the primary's could not go back in time without it.
			await(t, "that the session reads on a standby", func(context.Context) bool { return f.spread(t, old, 1)["h1"] == 0 })
			must(t, end(t.Context()))
			await(t, "that h1 is down", func(ctx context.Context) bool { return f.node(ctx, t, p, "h1")["status"] == "down" })
			if got := f.newSessions(t, p); got["h2"] != 4 || got["h3"] != 4 {
				t.Errorf("reads of new sessions: got %v, want 4 on each standby", got)
			}
			sessions := map[string]*pgconn.PgConn{"new": connect(t, p), "old": old}
			for age, conn := range sessions {
				if _, err := ask(t.Context(), conn, simple, "", "INSERT INTO t VALUES (1)"); code(err) != "57P03" {
					t.Errorf("write of the %s session: got %v, want 57P03", age, err)
				}
				if err := read(t.Context(), conn, 1); err != nil {
					t.Errorf("read of the %s session: %v", age, err)
				}
			}
			must(t, f.Primary().Start(t.Context()))
			await(t, "that h1 is up", func(ctx context.Context) bool { return f.node(ctx, t, p, "h1")["role"] == "primary" })
			for age, conn := range sessions {
				if _, err := ask(t.Context(), conn, simple, "", "INSERT INTO t VALUES (2)"); err != nil {
					t.Errorf("write of the %s session when the primary is back: %v", age, err)
				}
			}
			must(t, f.WaitForStreaming(t.Context()))
		})
	}
}

// TestWritesWaitForThePrimary: what comes while there is none is done when there
// is one again.
func TestWritesWaitForThePrimary(t *testing.T) {
	f := newFixture(t, "CREATE TABLE t (n int)")
	p := f.start(t, proxytest.Options{Balance: "mode: statement", Health: quick, Sections: "hold: {timeout: 10m}\n"})
	must(t, f.Primary().Kill(t.Context()))
	await(t, "that h1 is down", func(ctx context.Context) bool { return f.node(ctx, t, p, "h1")["status"] == "down" })
	const writers = 16
	g, ctx := errgroup.WithContext(t.Context())
	for i := range writers {
		conn := connect(t, p)
		must(t, read(t.Context(), conn, i))
		g.Go(func() error {
			_, err := ask(ctx, conn, protocol(i%int(protocols)), "s", fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
			return err
		})
	}
	must(t, f.Primary().Start(t.Context()))
	must(t, g.Wait())
	n, err := f.Primary().QueryValue(t.Context(), pgtest.AppDatabase, "SELECT count(*) FROM t")
	must(t, err)
	if n != fmt.Sprint(writers) {
		t.Errorf("%s rows are there, want %d", n, writers)
	}
}
