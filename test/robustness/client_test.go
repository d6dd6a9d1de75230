package robustness

import (
	"fmt"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// times is how often what could leak is repeated: more than slack.
const times = 25

// TestClients lets clients leave in every bad way.
func TestClients(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	must(t, r.cluster.Primary().Exec(t.Context(), pgtest.AppDatabase,
		"CREATE TABLE t (v text); INSERT INTO t VALUES ('row'); ALTER TABLE t OWNER TO app"))
	must(t, r.cluster.WaitForCatchup(t.Context()))
	r.run(t, "half-closed", func(t *testing.T) { testHalfClosed(t, r) })
	for _, how := range []struct {
		name  string
		leave func(*wire)
	}{
		{"reset", (*wire).reset},
		{"closed", func(w *wire) { must(w.t, w.Close()) }},
		{"terminated", func(w *wire) { w.send(pgwire.AppendEmpty(nil, pgwire.Terminate)); must(w.t, w.Close()) }},
	} {
		r.run(t, how.name+" in a result", func(t *testing.T) { testLeaveInResult(t, r, how.leave) })
		r.run(t, how.name+" in a transaction", func(t *testing.T) { testLeaveInTransaction(t, r, how.leave) })
		r.run(t, how.name+" in COPY FROM", func(t *testing.T) { testLeaveInCopyIn(t, r, how.leave) })
		r.run(t, how.name+" in COPY TO", func(t *testing.T) { testLeaveInCopyOut(t, r, how.leave) })
		r.run(t, how.name+" in a pipeline", func(t *testing.T) { testLeaveInPipeline(t, r, how.leave) })
		r.run(t, how.name+" in a message", func(t *testing.T) { testLeaveInMessage(t, r, how.leave) })
	}
}

// testHalfClosed ends its own direction behind a question: the answer comes, then
// the end.
func testHalfClosed(t *testing.T, r *rig) {
	for range times {
		w := r.wire(t)
		w.query("SELECT pg_sleep(0.01), v FROM t")
		w.halfClose()
		w.expect(pgwire.DataRow)
		w.expect(pgwire.ReadyForQuery)
		if last := w.ends(); last.typ != 0 {
			t.Errorf("at the end: %s %s", last.code(), last.text())
		}
	}
	// A large answer, and one of a standby, come whole too.
	for _, hint := range []string{"primary", "standby"} {
		w := r.wire(t)
		w.query("/* pgproxy: " + hint + " */ SELECT repeat('x', 1000), generate_series(1, 20000)")
		w.halfClose()
		for range 20_000 {
			w.expect(pgwire.DataRow)
		}
		w.expect(pgwire.ReadyForQuery)
		w.ends()
	}
	// A server never gets the rest of what stops in the middle, and does not run it.
	w := r.wire(t)
	w.exec("BEGIN")
	w.exec("INSERT INTO t VALUES ('half')")
	w.query("COPY t FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	w.halfClose()
	w.ends()
	r.untouched(t)
}

// testLeaveInResult leaves while rows are on the way from either server.
func testLeaveInResult(t *testing.T, r *rig, leave func(*wire)) {
	for i := range times {
		w := r.wire(t)
		w.query([]string{"/* pgproxy: primary */ ", "/* pgproxy: standby */ "}[i%2] + endless)
		w.expect(pgwire.DataRow)
		leave(w)
	}
	for _, s := range r.cluster.Servers {
		r.on(t, s, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%%1000000000%%' AND state = 'active' AND pid <> pg_backend_pid())")
	}
}

// testLeaveInTransaction leaves locks and a change behind, which must go.
func testLeaveInTransaction(t *testing.T, r *rig, leave func(*wire)) {
	for i := range times {
		w := r.wire(t)
		w.exec("BEGIN")
		w.exec("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
		w.exec("UPDATE t SET v = 'lost'")
		w.exec("SELECT pg_advisory_lock(7)")
		if i%2 == 1 {
			w.query("SELECT 1/0")
			w.fails("22012")
			w.expect(pgwire.ReadyForQuery)
		}
		leave(w)
		r.onPrimary(t, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass OR locktype = 'advisory')")
	}
	r.untouched(t)
}

func testLeaveInCopyIn(t *testing.T, r *rig, leave func(*wire)) {
	line := pgwire.AppendMessage(nil, pgwire.CopyData, []byte("copied\n"))
	for i := range times {
		w := r.wire(t)
		w.query("COPY t FROM STDIN")
		w.expect(pgwire.CopyInResponse)
		for range i * 100 {
			w.send(line)
		}
		leave(w)
	}
	r.untouched(t)
}

func testLeaveInCopyOut(t *testing.T, r *rig, leave func(*wire)) {
	for range times {
		w := r.wire(t)
		w.query("COPY (" + endless + ") TO STDOUT")
		w.expect(pgwire.CopyOutResponse)
		w.expect(pgwire.CopyData)
		leave(w)
	}
	r.untouched(t)
}

// testLeaveInPipeline leaves without having sent Sync.
func testLeaveInPipeline(t *testing.T, r *rig, leave func(*wire)) {
	for i := range times {
		w := r.wire(t)
		b := pgwire.AppendParse(nil, "", "INSERT INTO t VALUES ('pipeline')", nil)
		b = pgwire.AppendMessage(b, pgwire.Bind, make([]byte, 8))
		b = pgwire.AppendMessage(b, pgwire.Execute, make([]byte, 5))
		if i%2 == 1 {
			b = pgwire.AppendEmpty(b, pgwire.Flush)
		}
		w.send(b)
		if i%2 == 1 {
			w.expect(pgwire.CommandComplete)
		}
		leave(w)
	}
	r.untouched(t)
}

// testLeaveInMessage leaves in the middle of a message, small and large.
func testLeaveInMessage(t *testing.T, r *rig, leave func(*wire)) {
	for i := range times {
		w := r.wire(t)
		b := pgwire.AppendQuery(nil, fmt.Sprintf("INSERT INTO t VALUES ('%*d')", 1+i*20_000, i))
		w.send(b[:len(b)-1])
		leave(w)
	}
	r.untouched(t)
}

// untouched waits until no session of clients has anything open on the primary, and
// checks that what they left half done did not happen.
func (r *rig) untouched(t *testing.T) {
	t.Helper()
	r.onPrimary(t, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND pid <> pg_backend_pid())")
	r.onPrimary(t, "SELECT count(*) <= 1 FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'") // the witness
	got, err := r.cluster.Primary().QueryValue(t.Context(), pgtest.AppDatabase, "SELECT string_agg(v, ' ') FROM t")
	must(t, err)
	if got != "row" {
		t.Errorf("table t has %q", got)
	}
}
