package routing

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/test/proxytest"
)

const writesTable = `CREATE TABLE own (n int PRIMARY KEY)`

// TestOwnWrites: what a session has written is in what it reads next, 10,000
// times of 10,000.
func TestOwnWrites(t *testing.T) {
	f := newFixture(t, writesTable)
	p := f.start(t, proxytest.Options{Balance: "mode: statement"})
	w := newWriter(t, p)
	for _, phase := range []struct {
		name          string
		writes        int
		begin, end    func()
		standbysAsked bool // they answered some of the reads
	}{
		{"all replay", 4000, nil, nil, true},
		{
			"synchronous_commit is off", 3000,
			func() { w.exec(t, "SET synchronous_commit = off") },
			func() { w.exec(t, "SET synchronous_commit = on") }, false,
		},
		{
			"no standby replays", 3000,
			func() { f.pause(t, "h2", "h3") },
			func() { f.resume(t, "h2", "h3") }, false,
		},
	} {
		t.Run(phase.name, func(t *testing.T) {
			if phase.begin != nil {
				phase.begin()
			}
			f.count(t)
			if unseen := w.writeAndRead(t, phase.writes); unseen != 0 {
				t.Errorf("%d writes of %d were not seen", unseen, phase.writes)
			}
			got := f.count(t, "/* own */")[0]
			t.Logf("reads: %v", got)
			if phase.standbysAsked && got["h2"]+got["h3"] == 0 {
				t.Error("no read went to a standby: this has shown nothing")
			}
			if phase.end != nil {
				phase.end()
			}
		})
	}
}

// TestOwnWritesOfTheLastSession: a user's next session sees what the last one wrote.
func TestOwnWritesOfTheLastSession(t *testing.T) {
	f := newFixture(t, writesTable)
	p := f.start(t, proxytest.Options{Balance: "mode: statement"})
	for _, phase := range []struct {
		name   string
		paused []string
	}{
		{"all replay", nil},
		{"one standby replays", []string{"h2"}},
		{"no standby replays", []string{"h2", "h3"}},
	} {
		t.Run(phase.name, func(t *testing.T) {
			f.pause(t, phase.paused...)
			f.count(t)
			for n := range 100 {
				conn := connect(t, p)
				_, err := ask(t.Context(), conn, simple, "", fmt.Sprintf("INSERT INTO own VALUES (%d)", n))
				must(t, err)
				must(t, conn.Close(t.Context()))
				conn = connect(t, p)
				got, err := ask(t.Context(), conn, protocol(n%int(protocols)), "s", fmt.Sprintf("SELECT count(*) FROM own WHERE n = %d /* own */", n))
				must(t, err)
				if got != "1" {
					t.Errorf("the next session does not see the write %d", n)
				}
				must(t, conn.Close(t.Context()))
			}
			got := f.count(t, "/* own */")[0]
			t.Logf("reads: %v", got)
			if len(phase.paused) == 0 && got["h2"]+got["h3"] == 0 {
				t.Error("no read went to a standby: this has shown nothing")
			}
			must(t, f.Primary().Exec(t.Context(), "app", "TRUNCATE own"))
			f.resume(t, phase.paused...)
			must(t, f.WaitForCatchup(t.Context()))
		})
	}
}

// TestOwnWritesCanBeMissed: the same check finds what is missing where nothing is
// promised.
func TestOwnWritesCanBeMissed(t *testing.T) {
	f := newFixture(t, writesTable)
	p := f.start(t, proxytest.Options{Balance: "mode: statement, consistency: eventual"})
	f.pause(t, "h2", "h3")
	if unseen := newWriter(t, p).writeAndRead(t, 100); unseen != 100 {
		t.Errorf("%d writes of 100 were not seen, want all: no standby replays, and every read goes to one", unseen)
	}
	f.resume(t, "h2", "h3")
}

// pause stops the replay of standbys.
func (f *fixture) pause(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, f.PauseReplay(t.Context(), name))
	}
}

// resume ends pause.
func (f *fixture) resume(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, f.ResumeReplay(t.Context(), name))
	}
}

// writer is a session that reads what it has just written.
type writer struct {
	conn *pgx.Conn
	n    int // the last number written
}

func newWriter(t *testing.T, p *proxytest.Proxy) *writer {
	t.Helper()
	conn, err := connectPgx(t.Context(), p)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &writer{conn: conn}
}

func (w *writer) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := w.conn.Exec(t.Context(), sql, args...)
	must(t, err)
}

// writeAndRead writes numbers, reads each at once, and returns how many were not
// seen. It takes turns with the protocols, and with the ways to write.
func (w *writer) writeAndRead(t *testing.T, writes int) (unseen int) {
	t.Helper()
	modes := []pgx.QueryExecMode{
		pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement,
	}
	for range writes {
		w.n++
		mode := modes[w.n%len(modes)]
		if w.n%5 == 0 {
			w.exec(t, "BEGIN", mode)
			w.exec(t, "INSERT INTO own VALUES ($1)", mode, w.n)
			w.exec(t, "COMMIT", mode)
		} else {
			w.exec(t, "INSERT INTO own VALUES ($1)", mode, w.n)
		}
		var seen int
		row := w.conn.QueryRow(t.Context(), "SELECT count(*) FROM own WHERE n = $1 /* own */", mode, w.n)
		must(t, row.Scan(&seen))
		if seen != 1 {
			unseen++
		}
	}
	return unseen
}
