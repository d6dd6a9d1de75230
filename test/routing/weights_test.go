package routing

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/test/proxytest"
)

const (
	sessions = 64
	reads    = 10_000
	// onPrimary is how many of the reads the primary may be given although it has
	// weight 0, where nobody writes: none.
	onPrimary = 0
	// tolerance is how far a standby's number of reads may be from its weight's share.
	tolerance = 0.03
)

var weights = map[string]int{"h1": 0, "h2": 1, "h3": 3}

// load is what all sessions together do.
type load struct {
	name string
	// next says whether a session that has done this many reads does another one.
	next func(session, done int) bool
	// writeEvery: a session writes before each of so many reads; 0: it does not.
	writeEvery int
}

// loads are made anew for each run: some count.
func loads() []load {
	each := func(session, done int) bool {
		n := reads / sessions
		if session < reads%sessions {
			n++
		}
		return done < n
	}
	var taken atomic.Int64
	return []load{
		{name: "each session the same number", next: each},
		{name: "each session as fast as it can", next: func(int, int) bool { return taken.Add(1) <= reads }},
		{name: "with writes", next: each, writeEvery: 20},
	}
}

func TestReadsAreSplitByWeight(t *testing.T) {
	f := newFixture(t, `CREATE TABLE item (id int PRIMARY KEY, v text NOT NULL);
		INSERT INTO item SELECT g, 'item ' || g FROM generate_series(1, 1000) g;
		CREATE TABLE hit (session int, n int)`)
	for _, l := range loads() {
		t.Run(l.name, func(t *testing.T) {
			p := f.start(t, proxytest.Options{Balance: "mode: statement", Weights: weights})
			before := selects(t, p)
			f.count(t)
			writes := l.run(t, p)
			got := f.split(t)
			delta := selects(t, p)
			delta["h1"]-- // the SHOW before: a server answers it, as a SELECT
			for name, n := range before {
				delta[name] -= n
			}
			t.Logf("reads in the servers' logs %v, select_cnt %v, writes %v, sessions %v", got.reads, delta, got.writes, got.sessions)
			l.check(t, got)
			if !maps.Equal(delta, got.reads) {
				t.Errorf("select_cnt of SHOW pool_backend_stats rose by %v, the servers' logs have %v", delta, got.reads)
			}
			if want := map[string]int{"h1": writes, "h2": 0, "h3": 0}; !maps.Equal(got.writes, want) {
				t.Errorf("writes: got %v, want %v", got.writes, want)
			}
		})
	}
}

// split is what the servers' logs say, by server.
type split struct {
	reads, writes map[string]int
	sessions      map[string]int // those whose standby it is
}

var readOf = regexp.MustCompile(`/\* read of (\d+) \*/`)

// split counts what the servers have logged since the last count. A session reads from one
// standby.
func (f *fixture) split(t *testing.T) split {
	t.Helper()
	got := split{make(map[string]int), make(map[string]int), make(map[string]int)}
	home := make(map[string]string) // by session
	for _, s := range f.Servers {
		log := f.log(t, s)
		got.writes[s.Name] = bytes.Count(log, []byte("INSERT INTO hit VALUES"))
		got.reads[s.Name] = 0
		for _, m := range readOf.FindAllSubmatch(log, -1) {
			session := string(m[1])
			got.reads[s.Name]++
			if s == f.Primary() {
				continue
			}
			if was := home[session]; was != "" && was != s.Name {
				t.Fatalf("session %s has read from %s and %s", session, was, s.Name)
			}
			home[session] = s.Name
		}
	}
	for _, standby := range home {
		got.sessions[standby]++
	}
	return got
}

// run runs the load and returns the number of writes.
func (l load) run(t *testing.T, p *proxytest.Proxy) int {
	t.Helper()
	var writes atomic.Int64
	g, ctx := errgroup.WithContext(t.Context())
	for i := range sessions {
		g.Go(func() error {
			conn, err := connectPgx(ctx, p)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for done := 0; l.next(i, done); done++ {
				if l.writeEvery > 0 && (done+i)%l.writeEvery == 0 {
					if _, err := conn.Exec(ctx, "INSERT INTO hit VALUES ($1, $2)", i, done); err != nil {
						return fmt.Errorf("write of session %d: %w", i, err)
					}
					writes.Add(1)
				}
				if err := readItem(ctx, conn, i, done); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	return int(writes.Load())
}

// readItem reads one row: half of the sessions by simple queries, half by
// prepared statements.
func readItem(ctx context.Context, conn *pgx.Conn, session, done int) error {
	mode := pgx.QueryExecModeCacheStatement
	if session%2 == 0 {
		mode = pgx.QueryExecModeSimpleProtocol
	}
	id := 1 + (session*31+done)%1000
	var v string
	if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT v FROM item WHERE id = $1 /* read of %d */", session), mode, id).Scan(&v); err != nil {
		return fmt.Errorf("read of session %d: %w", session, err)
	}
	if want := "item " + strconv.Itoa(id); v != want {
		return fmt.Errorf("read of session %d: got %q, want %q", session, v, want)
	}
	return nil
}

// check compares what the servers were given with the weights: the sessions exactly, the
// reads of the standbys within the tolerance.
func (l load) check(t *testing.T, got split) {
	t.Helper()
	if total := got.reads["h1"] + got.reads["h2"] + got.reads["h3"]; total != reads {
		t.Errorf("%d reads were made, want %d: each on one server", total, reads)
	}
	if l.writeEvery == 0 && got.reads["h1"] > onPrimary {
		t.Errorf("the primary was given %d reads, want at most %d", got.reads["h1"], onPrimary)
	}
	standbys := got.reads["h2"] + got.reads["h3"]
	if standbys < reads/2 {
		t.Errorf("the standbys were given %d reads of %d, want at least half", standbys, reads)
	}
	all := weights["h2"] + weights["h3"]
	for _, name := range []string{"h2", "h3"} {
		if n, want := got.sessions[name], sessions*weights[name]/all; n != want {
			t.Errorf("%s is the standby of %d sessions, want %d", name, n, want)
		}
		want := float64(standbys*weights[name]) / float64(all)
		if off := math.Abs(float64(got.reads[name])-want) / want; off > tolerance {
			t.Errorf("%s was given %d reads, want %.0f within %.0f %%", name, got.reads[name], want, 100*tolerance)
		}
	}
}

// selects returns select_cnt of SHOW pool_backend_stats by server.
func selects(t *testing.T, p *proxytest.Proxy) map[string]int {
	t.Helper()
	conn := connect(t, p)
	results, err := conn.Exec(t.Context(), "SHOW pool_backend_stats").ReadAll()
	must(t, err)
	must(t, conn.Close(t.Context()))
	counts := make(map[string]int)
	for i, row := range results[0].Rows {
		for j, field := range results[0].FieldDescriptions {
			if field.Name == "select_cnt" {
				n, err := strconv.Atoi(string(row[j]))
				must(t, err)
				counts[fmt.Sprintf("h%d", i+1)] = n
			}
		}
	}
	return counts
}
