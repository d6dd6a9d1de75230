package robustness

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// situation is where a session stands when its server is lost.
type situation struct {
	name  string
	enter func(*wire)
	code  string // what the client gets for it; "": nothing
	next  bool   // by its next statement
	open  bool   // and then it has to send Sync
	// inMessage: the client has half a message of the server, so that nothing can be
	// said any more.
	inMessage bool
}

var situations = []situation{
	{name: "idle", enter: func(*wire) {}, code: ""},
	{name: "in a result", code: "40001", enter: func(w *wire) {
		w.query("/* pgproxy: primary */ " + endless)
		for range 100 {
			w.expect(pgwire.DataRow)
		}
	}, inMessage: true},
	{name: "in a statement", code: "08007", enter: func(w *wire) {
		w.query("SELECT pg_sleep(1000)")
	}},
	{name: "in COPY FROM", code: "08007", enter: func(w *wire) {
		w.query("COPY t FROM STDIN")
		w.expect(pgwire.CopyInResponse)
		w.send(pgwire.AppendMessage(nil, pgwire.CopyData, []byte("copied\n")))
	}},
	{name: "in a transaction", code: "40001", next: true, enter: func(w *wire) {
		w.exec("BEGIN")
		w.exec("INSERT INTO t VALUES ('lost')")
	}},
	{name: "in a pipeline", code: "08007", open: true, enter: func(w *wire) {
		b := pgwire.AppendParse(nil, "", "INSERT INTO t VALUES ('pipeline')", nil)
		b = pgwire.AppendMessage(b, pgwire.Bind, make([]byte, 8))
		w.send(pgwire.AppendEmpty(pgwire.AppendMessage(b, pgwire.Execute, make([]byte, 5)), pgwire.Flush))
		w.expect(pgwire.CommandComplete)
	}},
	{name: "with a temporary table", code: "40001", next: true, enter: func(w *wire) { w.exec("CREATE TEMP TABLE x (n int)") }},
}

// losses are the ways in which a primary is lost. told: it says why before it goes.
var losses = []struct {
	name string
	told string // SQLSTATE with which an administrator ends the session; "": the server is lost
	lose func(*testing.T, *rig, string)
	down bool // the server must be started again
}{
	{name: "pg_terminate_backend", told: "57P01", lose: func(t *testing.T, r *rig, pid string) {
		must(t, r.cluster.Primary().Exec(t.Context(), "postgres", "SELECT pg_terminate_backend("+pid+")"))
	}},
	{name: "SIGKILL of the process", lose: func(t *testing.T, _ *rig, pid string) {
		n, err := strconv.Atoi(pid)
		must(t, err)
		must(t, syscall.Kill(n, syscall.SIGKILL))
	}},
	{name: "immediate stop", down: true, lose: func(t *testing.T, r *rig, _ string) {
		must(t, r.cluster.Primary().Stop(t.Context(), pgtest.StopImmediate))
	}},
	{name: "SIGKILL of the postmaster", down: true, lose: func(t *testing.T, r *rig, _ string) {
		must(t, r.cluster.Primary().Kill(t.Context()))
	}},
}

// TestServers loses the primary in every way in every situation. Reads of others on
// the standby go on, and everything is as before when the server is back.
func TestServers(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	must(t, r.cluster.Primary().Exec(t.Context(), pgtest.AppDatabase, "CREATE TABLE t (v text); ALTER TABLE t OWNER TO app"))
	must(t, r.cluster.WaitForCatchup(t.Context()))
	for _, l := range losses {
		t.Run(l.name, func(t *testing.T) {
			var all []*wire
			for _, s := range situations {
				w := r.wire(t)
				pid := w.value("SELECT pg_backend_pid()")
				s.enter(w)
				all = append(all, w)
				if l.told == "" { // it takes all sessions of the server along
					continue
				}
				l.lose(t, r, pid)
				r.lost(t, s, w, l.told)
			}
			if l.told == "" {
				l.lose(t, r, all[0].value("SELECT pg_backend_pid()"))
				if l.down {
					r.readsGoOn(t)
					must(t, r.cluster.Primary().Start(t.Context()))
				}
				for i := len(all) - 1; i >= 0; i-- { // pgproxy knows of the end of the idle one's by then
					r.lost(t, situations[i], all[i], l.told)
				}
			}
			r.servesAgain(t)
		})
	}
}

// lost checks what a session is told that has lost its server, and that it goes on.
func (r *rig) lost(t *testing.T, s situation, w *wire, told string) {
	t.Helper()
	if told != "" && !s.inMessage { // a server whose client reads nothing has no last words
		if last := w.ends(); last.code() != told {
			t.Errorf("%s: SQLSTATE %s (%s), want %q", s.name, last.code(), last.text(), told)
		}
		return
	}
	if s.next {
		w.query("SELECT 1")
	}
	for got := ""; got != s.code; {
		m, err := w.read()
		if err != nil && s.inMessage {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if m.typ == pgwire.ReadyForQuery && s.next { // the server was not lost yet
			w.query("SELECT 1")
		}
		if m.typ == pgwire.ErrorResponse {
			if m.code() == told {
				return
			}
			if got = m.code(); got != s.code {
				t.Fatalf("%s: SQLSTATE %s (%s), want %q", s.name, got, m.text(), s.code)
			}
		}
	}
	if s.open {
		w.send(pgwire.AppendEmpty(nil, pgwire.Sync))
	}
	if s.code != "" {
		w.ready()
	}
	w.exec("ROLLBACK")
	w.exec("INSERT INTO t SELECT 'x' WHERE false")
}

// readsGoOn reads from the standby while there is no primary.
func (r *rig) readsGoOn(t *testing.T) {
	t.Helper()
	await(t, func() error {
		_, err := r.runOnce(t, "SELECT count(*) FROM t")
		return err
	})
}

// runOnce runs SQL in a session of its own.
func (r *rig) runOnce(t *testing.T, sql string) ([]*pgconn.Result, error) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	conn, err := pgconn.Connect(ctx, r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	return conn.Exec(ctx, sql).ReadAll()
}

// servesAgain writes through pgproxy and finds nothing of the lost sessions.
func (r *rig) servesAgain(t *testing.T) {
	t.Helper()
	await(t, func() error {
		results, err := r.runOnce(t, "CREATE TEMP TABLE again AS SELECT 1; SELECT count(*) FROM t")
		if err != nil {
			return err
		}
		if n := string(results[1].Rows[0][0]); n != "0" {
			return fmt.Errorf("%s rows of lost sessions", n)
		}
		return nil
	})
	must(t, r.cluster.WaitForStreaming(t.Context()))
}

// TestStandbyLost kills the standby under reads.
func TestStandbyLost(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	idle, rows, waiting, readOnly := r.standbyWire(t), r.standbyWire(t), r.standbyWire(t), r.standbyWire(t)
	rows.query("/* pgproxy: standby */ " + endless)
	rows.expect(pgwire.DataRow)
	waiting.query("/* pgproxy: standby */ SELECT count(*) FROM generate_series(1, 3000) a, generate_series(1, 10000) b")
	readOnly.exec("BEGIN READ ONLY")
	readOnly.value("SELECT count(*) FROM generate_series(1, 10)")
	r.on(t, r.cluster.Standbys()[0], "SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'")
	must(t, r.cluster.Standbys()[0].Stop(t.Context(), pgtest.StopImmediate)) // at once, even in a computation

	if got := idle.value("SELECT count(*) FROM generate_series(1, 10)"); got != "10" {
		t.Errorf("an idle session got %q", got)
	}
	// A read that had sent no row runs again; one that had is told to.
	row := waiting.expect(pgwire.DataRow)
	waiting.expect(pgwire.ReadyForQuery)
	if got := string(row.head[6:]); got != "30000000" {
		t.Errorf("a waiting read got %q", got)
	}
	for {
		m, err := rows.read()
		if err != nil { // in the middle of a row there is no way to say it
			break
		}
		if m.typ == pgwire.ErrorResponse {
			if m.code() != "40001" {
				t.Errorf("a read with rows under way: SQLSTATE %s", m.code())
			}
			break
		}
	}
	readOnly.query("SELECT 1")
	readOnly.fails("40001")
	readOnly.ready()
	readOnly.exec("ROLLBACK")
	must(t, r.cluster.Standbys()[0].Start(t.Context()))
	must(t, r.cluster.WaitForStreaming(t.Context()))
}
