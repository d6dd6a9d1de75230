package robustness

import (
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// sleeping is a read that ends only when it is cancelled.
const sleeping = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b"

// TestCancel cancels through pgproxy.
func TestCancel(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	r.run(t, "the right session only", func(t *testing.T) { testCancelOne(t, r) })
	r.run(t, "a read on a standby", func(t *testing.T) { testCancelRead(t, r) })
	r.run(t, "a wrong key", func(t *testing.T) { testCancelWrongKey(t, r) })
	r.run(t, "too late", func(t *testing.T) { testCancelLate(t, r) })
}

// cancel sends a CancelRequest and waits until pgproxy has closed its connection: the
// server has been signalled.
func (r *rig) cancel(t *testing.T, pid uint32, secret []byte) {
	t.Helper()
	w := r.dialRaw(t)
	w.send(pgwire.AppendCancelRequest(nil, pid, secret))
	if got := w.endsRaw(); len(got) > 0 {
		t.Errorf("a cancel request was answered by %q", got)
	}
}

func testCancelOne(t *testing.T, r *rig) {
	const sessions = 5
	var all []*wire
	for range sessions {
		w := r.wire(t)
		w.query("/* pgproxy: primary */ " + sleeping)
		all = append(all, w)
	}
	r.onPrimary(t, "SELECT count(*) = %d FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'", sessions)
	for i, w := range all {
		r.cancel(t, w.pid, w.secret)
		if m := w.fails("57014"); m.text() != "canceling statement due to user request" {
			t.Errorf("the client is told %q", m.text())
		}
		w.expect(pgwire.ReadyForQuery)
		r.onPrimary(t, "SELECT count(*) = %d FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'", sessions-1-i)
		if got := w.value("SELECT 1"); got != "1" {
			t.Errorf("after the cancel: %q", got)
		}
	}
}

func testCancelRead(t *testing.T, r *rig) {
	w := r.standbyWire(t)
	w.query("/* pgproxy: standby */ " + sleeping)
	r.on(t, r.cluster.Standbys()[0], "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
	r.cancel(t, w.pid, w.secret)
	w.fails("57014")
	w.expect(pgwire.ReadyForQuery)
	r.on(t, r.cluster.Standbys()[0], "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
	r.onPrimary(t, "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
}

// testCancelWrongKey tries what somebody who guesses would try; the length of a key
// is not to matter.
func testCancelWrongKey(t *testing.T, r *rig) {
	w := r.wire(t)
	w.query("/* pgproxy: primary */ " + sleeping)
	r.onPrimary(t, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
	wrong := append([]byte(nil), w.secret...)
	wrong[0] ^= 1
	for _, secret := range [][]byte{wrong, nil, w.secret[:3], append(w.secret, 0), make([]byte, 32)} {
		r.cancel(t, w.pid, secret)
		r.cancel(t, w.pid+1, secret)
	}
	r.cancel(t, w.pid+1, w.secret)
	r.onPrimary(t, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
	r.cancel(t, w.pid, w.secret)
	w.fails("57014")
	w.expect(pgwire.ReadyForQuery)
}

// testCancelLate cancels sessions that have just ended their statement, or
// themselves: whoever has the server connection now must not notice.
func testCancelLate(t *testing.T, r *rig) {
	for range times {
		first := r.wire(t)
		first.query("SELECT 1")
		first.expect(pgwire.ReadyForQuery)
		// The cancel and the end of the session run against each other.
		late := r.dialRaw(t)
		late.send(pgwire.AppendCancelRequest(nil, first.pid, first.secret))
		first.send(pgwire.AppendEmpty(nil, pgwire.Terminate))
		next := r.wire(t)
		for range 5 {
			if got := next.value("SELECT count(*) FROM generate_series(1, 10000)"); got != "10000" {
				t.Errorf("the next session got %q", got)
			}
		}
		late.endsRaw()
		first.ends()
		r.cancel(t, first.pid, first.secret) // the key means nothing any more
		if got := next.value("SELECT count(*) FROM generate_series(1, 10000)"); got != "10000" {
			t.Errorf("the next session got %q", got)
		}
		must(t, next.Close())
	}
}

// TestCancelEqualProcessIDs gives all server processes one process id, as those of
// different servers may have: the keys tell the sessions apart.
func TestCancelEqualProcessIDs(t *testing.T) {
	c := startCluster(t, 0)
	m := newMasquerade(t, c.Primary().Address())
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{Address: m.addressOf})}
	var all []*wire
	for range 3 {
		w := r.wire(t)
		if w.pid != samePID {
			t.Fatalf("process id %d, want %d", w.pid, samePID)
		}
		w.query(sleeping)
		all = append(all, w)
	}
	r.onPrimary(t, "SELECT count(*) = 3 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
	for i, w := range all {
		r.cancel(t, w.pid, w.secret)
		w.fails("57014")
		w.expect(pgwire.ReadyForQuery)
		r.onPrimary(t, "SELECT count(*) = %d FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'", 2-i)
	}
}
