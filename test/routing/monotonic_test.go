package routing

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

const counterTables = `CREATE TABLE counter (n int NOT NULL); INSERT INTO counter VALUES (0);
	CREATE TABLE note (reader int, n int)`

// TestCounterNeverGoesBack: what one session has seen of a counter that another
// one increments, it never sees undone, from whatever servers it reads.
func TestCounterNeverGoesBack(t *testing.T) {
	f := newFixture(t, counterTables)
	for _, c := range []struct {
		name    string
		weights map[string]int
	}{
		{"the standbys read", map[string]int{"h1": 0, "h2": 1, "h3": 1}},
		{"the primary reads too", map[string]int{"h1": 1, "h2": 1, "h3": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := f.start(t, proxytest.Options{
				// A standby that has fallen behind is left, and taken again.
				Balance: "mode: statement, max_lag: 300ms", Weights: c.weights, Health: quick,
			})
			f.count(t)
			seen := f.watch(t, p, func(t *testing.T, n int) {
				switch n {
				case 1000:
					f.pause(t, "h2")
				case 2000:
					f.resume(t, "h2")
				case 3000:
					f.pause(t, "h3")
				case 4000:
					f.resume(t, "h3")
				}
			}, 5000)
			texts := []string{"/* watch "}
			for _, b := range seen {
				texts = append(texts, b.before(), b.after())
			}
			counts := f.count(t, texts...)
			got := counts[0]
			t.Logf("reads: %v", got)
			for i, b := range seen {
				t.Errorf("the counter went from %d, read on %v, to %d, read on %v", b.from, counts[1+2*i], b.to, counts[2+2*i])
			}
			for _, s := range f.Servers {
				if got[s.Name] == 0 {
					t.Errorf("no read went to %s: this has shown less than it should", s.Name)
				}
			}
		})
	}
}

// TestCounterCanGoBack: the same check finds it where nothing is promised.
func TestCounterCanGoBack(t *testing.T) {
	f := newFixture(t, counterTables)
	p := f.start(t, proxytest.Options{
		Balance: "mode: statement, consistency: eventual",
		Weights: map[string]int{"h1": 1, "h2": 1, "h3": 1},
	})
	f.pause(t, "h2", "h3")
	if seen := f.watch(t, p, func(*testing.T, int) {}, 200); len(seen) == 0 {
		t.Error("the counter was never seen to go back, although no standby replays and sessions change servers")
	}
	f.resume(t, "h2", "h3")
}

// TestCounterNeverGoesBackToThePrimary: PostgreSQL shows a commit on a standby
// before it does on the primary, for as long as the committing process takes from
// the flush of its record to the end of its transaction. Here that lasts until h3
// replays, for which the commit waits. A session that has seen it on h2 must not
// be answered by the primary meanwhile.
func TestCounterNeverGoesBackToThePrimary(t *testing.T) {
	f := newFixture(t, counterTables)
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'h3'", "SELECT pg_reload_conf()"} {
		must(t, f.Primary().Exec(t.Context(), "postgres", sql))
	}
	await(t, "that h3 is synchronous", func(ctx context.Context) bool {
		state, err := f.Primary().QueryValue(ctx, "postgres", "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'h3'")
		must(t, err)
		return state == "sync"
	})
	p := f.start(t, proxytest.Options{Balance: "mode: statement", Weights: map[string]int{"h2": 1}})
	f.pause(t, "h3")
	conn, err := f.Primary().Conn(t.Context(), pgtest.AppDatabase, pgtest.AppUser)
	must(t, err)
	var g errgroup.Group
	g.Go(func() error {
		defer conn.Close(context.WithoutCancel(t.Context()))
		return conn.PgConn().Exec(t.Context(), "SET synchronous_commit = remote_apply; UPDATE counter SET n = 1").Close()
	})
	defer func() {
		f.resume(t, "h3")
		must(t, g.Wait())
	}()
	reader := connect(t, p)
	await(t, "that h2 shows the increment", func(ctx context.Context) bool {
		n, err := ask(ctx, reader, simple, "", "SELECT n FROM counter")
		must(t, err)
		return n == "1"
	})
	if _, err := ask(t.Context(), reader, simple, "", "INSERT INTO note VALUES (1, 1)"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		n, err := ask(t.Context(), reader, simple, "", "SELECT n FROM counter")
		must(t, err)
		if n != "1" {
			t.Fatalf("the counter went from 1 to %s", n)
		}
	}
}

// step is a step back in time that a reader has seen.
type step struct {
	reader, read int // the second of the two reads
	from, to     int
}

// watchTag marks a read of a reader.
func watchTag(reader, read int) string { return fmt.Sprintf("/* watch %d.%d */", reader, read) }

func (s step) before() string { return watchTag(s.reader, s.read-1) }
func (s step) after() string  { return watchTag(s.reader, s.read) }

// watch increments the counter that often, calling at before each step, while
// readers look at it, and returns the steps back that they saw.
func (f *fixture) watch(t *testing.T, p *proxytest.Proxy, at func(*testing.T, int), increments int) []step {
	t.Helper()
	const readers = 6
	var back [readers][]step
	var done atomic.Bool
	g, ctx := errgroup.WithContext(t.Context())
	for i := range readers {
		g.Go(func() (err error) {
			back[i], err = readCounter(ctx, p, i, &done)
			return err
		})
	}
	func() {
		defer done.Store(true)
		conn, err := f.Primary().Conn(t.Context(), pgtest.AppDatabase, pgtest.AppUser)
		must(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		for n := range increments {
			at(t, n)
			if n%500 == 0 { // 500 each way
				_, err := conn.Exec(t.Context(), fmt.Sprintf("SET synchronous_commit = %v", n%1000 == 0))
				must(t, err)
			}
			_, err := conn.Exec(t.Context(), "UPDATE counter SET n = n + 1")
			must(t, err)
		}
	}()
	must(t, g.Wait())
	return slices.Concat(back[:]...)
}

// readCounter reads the counter until done, and returns the steps back. Now and
// then it writes, which makes it change servers.
func readCounter(ctx context.Context, p *proxytest.Proxy, reader int, done *atomic.Bool) (back []step, err error) {
	conn, err := connectPgx(ctx, p)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	last := -1
	for i := 0; !done.Load(); i++ {
		if i%50 == reader*7 {
			if _, err := conn.Exec(ctx, "INSERT INTO note VALUES ($1, $2)", reader, i); err != nil {
				return back, fmt.Errorf("write of reader %d: %w", reader, err)
			}
		}
		var n int
		sql := "SELECT n FROM counter " + watchTag(reader, i)
		if err := conn.QueryRow(ctx, sql, pgx.QueryExecModeExec).Scan(&n); err != nil {
			return back, fmt.Errorf("read of reader %d: %w", reader, err)
		}
		if n < last {
			back = append(back, step{reader: reader, read: i, from: last, to: n})
		}
		last = n
	}
	return back, nil
}
