package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

func TestJudge(t *testing.T) {
	const s = int64(time.Second)
	all := LimitConfig{Query: 10 * time.Second, Transaction: 30 * time.Second, IdleInTransaction: 20 * time.Second, Idle: time.Minute}
	at := func(state sessionState, since, transaction int64) doing {
		return doing{state, since * s, transaction * s}
	}
	for _, c := range []struct {
		name      string
		entry     LimitConfig
		doing     doing
		cancelled int64 // since and when, in s
		when      int64
		now       int64 // in s
		want      string
		next      int64 // in s; -1 never
	}{
		{"idle", all, at(stateIdle, 100, 0), 0, 0, 120, "", 160},
		{"idle for too long", all, at(stateIdle, 100, 0), 0, 0, 160, "end idle", 160},
		{"no bound for idle", LimitConfig{Query: 1}, at(stateIdle, 100, 0), 0, 0, 999, "", -1},
		{"a statement", all, at(stateActive, 100, 0), 0, 0, 109, "", 110},
		{"a long one", all, at(stateActive, 100, 0), 0, 0, 110, "cancel query", 110},
		{"cancelled", all, at(stateActive, 100, 0), 100, 110, 114, "", 114},
		{"cancelled in vain", all, at(stateActive, 100, 0), 100, 110, 115, "end query", 115},
		{"the next one after a cancelled one", all, at(stateActive, 111, 0), 100, 110, 117, "", 121},
		{"and it is long, too", all, at(stateActive, 111, 0), 100, 110, 121, "cancel query", 121},
		{"held", all, at(stateHeld, 100, 0), 0, 0, 999, "", -1},
		{"in a transaction", all, at(stateInTransaction, 105, 100), 0, 0, 106, "", 125},
		{"idle in it", all, at(stateInTransaction, 105, 100), 0, 0, 125, "end idle_in_transaction", 125},
		{"a long transaction", all, at(stateInTransaction, 125, 100), 0, 0, 131, "end transaction", 131},
		{"both", all, at(stateInTransaction, 109, 100), 0, 0, 140, "end idle_in_transaction", 140}, // it was first
		{"a statement in a transaction", all, at(stateActive, 125, 100), 0, 0, 129, "", 130},
		{"in a long one", all, at(stateActive, 125, 100), 0, 0, 130, "cancel transaction", 130},
		{"which does not end", all, at(stateActive, 125, 100), 125, 130, 135, "end transaction", 135},
		{"a pipeline without Sync", all, at(stateInTransaction, 100, 0), 0, 0, 120, "end idle_in_transaction", 120},
		{"no bounds", LimitConfig{MaxClients: 1}, at(stateInTransaction, 100, 100), 0, 0, 999, "", -1},
	} {
		w := &watched{entry: &c.entry, cancelled: c.cancelled * s, cancelledAt: c.when * s}
		b, next := w.judge(c.doing, c.now*s)
		got := string(b.limit)
		if b.cancel {
			got = "cancel " + got
		} else if got != "" {
			got = "end " + got
		}
		want := c.next * s
		if c.next < 0 {
			want = never
		}
		if got != c.want || next != want {
			t.Errorf("%s: %q, next look at %v, want %q, %v", c.name, got, time.Duration(next), c.want, time.Duration(want))
		}
	}
}

func TestClock(t *testing.T) {
	var c clock
	now := int64(time.Hour)
	tick := func() int64 { now += int64(time.Second); return now }
	want := func(since, transaction int64) {
		t.Helper()
		if c.since.Load() != since || c.transaction.Load() != transaction {
			t.Errorf("since %d, transaction %d, want %d, %d", c.since.Load(), c.transaction.Load(), since, transaction)
		}
	}
	first := now
	c.note(now, stateHeld, stateIdle, false)
	want(first, 0)
	tick()
	c.note(now, stateIdle, stateIdle, false) // something came that is no whole message
	want(first, 0)
	own := tick()
	c.told = true
	c.note(now, stateIdle, stateIdle, false)
	want(own, 0)
	asked := tick()
	c.note(now, stateIdle, stateActive, false)
	want(asked, 0)
	tick()
	c.told = true
	c.note(now, stateActive, stateActive, false) // more of an answer
	want(asked, 0)
	began := tick()
	c.answered = true
	c.note(now, stateActive, stateInTransaction, true)
	want(began, began)
	next := tick()
	c.note(now, stateInTransaction, stateActive, true)
	want(next, began)
	last := tick()
	c.answered = true
	c.note(now, stateActive, stateActive, true) // the next statement of a pipeline is being answered
	want(last, began)
	chained := tick()
	c.answered, c.committed = true, true
	c.note(now, stateActive, stateInTransaction, true)
	want(chained, chained)
	ended := tick()
	c.note(now, stateInTransaction, stateIdle, false)
	want(ended, 0)
}

// TestEnforce has sessions do one thing for long.
func TestEnforce(t *testing.T) {
	bound := LimitConfig{
		User: "bound", Query: time.Second, Transaction: 3 * time.Second, IdleInTransaction: 2 * time.Second, Idle: time.Minute,
	}
	for _, c := range []struct {
		state       sessionState
		transaction bool
		after       time.Duration // no earlier than
		want        string
	}{
		{stateIdle, false, time.Minute, "57P05 pgproxy: terminating connection: idle for longer than 1m0s"},
		{stateInTransaction, true, 2 * time.Second, "25P03 pgproxy: terminating connection: idle in a transaction for longer than 2s"},
		{
			stateActive, false, time.Second + cancelGrace,
			"57014 pgproxy: terminating connection: a statement ran for longer than 1s, and the server does not cancel it: its outcome is unknown",
		},
		{
			stateActive, true, time.Second + cancelGrace,
			"57014 pgproxy: terminating connection: a statement ran for longer than 1s, and the server does not cancel it: its outcome is unknown",
		},
	} {
		t.Run(fmt.Sprint(c.state, c.transaction), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sh := newTest(t, configWith(t, bound), newFakeCluster(testState("h:1")), Deps{}).sessions
				ctx, stop := context.WithCancel(t.Context())
				enforced := make(chan struct{})
				go func() { sh.enforce(ctx); close(enforced) }()
				var free []*clientSession
				for state := stateIdle; state <= stateHeld; state++ {
					free = append(free, actor(t, sh, "free", state, c.transaction, nil))
				}
				type end struct {
					how string
					at  time.Time
				}
				ended := make(chan end, 1)
				began := time.Now()
				s := actor(t, sh, "bound", c.state, c.transaction, func(conn net.Conn) {
					var buf []byte
					typ, body, err := readMessage(conn, &buf, 1000)
					ended <- end{fmt.Sprintf("%s %s", pgwire.ErrorField(body, 'C'), pgwire.ErrorField(body, 'M')), time.Now()}
					if typ != pgwire.ErrorResponse || err != nil {
						t.Errorf("message %q, %v", typ, err)
					}
				})
				got := <-ended
				late := got.at.Sub(began) - c.after
				if got.how != c.want || late < 0 || late > 2*minSweep {
					t.Errorf("%q, %v late, want %q", got.how, late, c.want)
				}
				synctest.Wait()
				if !s.mu.core.Closed() || !s.mu.over {
					t.Error("the session goes on")
				}
				for _, s := range free {
					if s.mu.core.Closed() {
						t.Errorf("a session without limits was ended that is %v", s.state.Load())
					}
				}
				stop()
				<-enforced
			})
		})
	}
}

func configWith(t *testing.T, entries ...LimitConfig) Config {
	cfg := testConfig(t)
	cfg.Limits = entries
	return cfg
}

// actor is a session that says that it does something, and does nothing.
func actor(t *testing.T, sh *sessions, user string, state sessionState, transaction bool, client func(net.Conn)) *clientSession {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	c := testClient(user)
	c.conn, c.raw = near, near
	s := sh.newSession(t.Context(), c)
	if err := s.mover.begin(); err != nil {
		t.Fatal(err)
	}
	s.state.store(state)
	if transaction {
		s.clock.transaction.Store(monotonic())
	}
	sh.add(s)
	if client != nil {
		go client(far)
	}
	return s
}

// TestLimitsChange puts limits in force and out of it while sessions run.
func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newTest(t, configWith(t), newFakeCluster(testState("h:1")), Deps{}).sessions
		ctx, stop := context.WithCancel(t.Context())
		enforced := make(chan struct{})
		go func() { sh.enforce(ctx); close(enforced) }()
		s := actor(t, sh, "u", stateIdle, false, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		over := func() bool {
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.mu.over
		}
		advance(time.Hour)
		if over() {
			t.Fatal("ended without a limit")
		}
		sh.setLimits([]LimitConfig{{Idle: 3 * time.Hour}})
		advance(time.Hour)
		sh.setLimits(nil)
		advance(2 * time.Hour)
		if over() {
			t.Fatal("ended by a limit that is not in force any more")
		}
		sh.setLimits([]LimitConfig{{User: "another", Idle: time.Second}, {Idle: 5 * time.Hour}})
		advance(time.Hour - time.Second)
		if over() {
			t.Fatal("ended by a limit of somebody else")
		}
		advance(2 * time.Second)
		if !over() {
			t.Error("not ended after 5 hours")
		}
		stop()
		<-enforced
	})
}

// TestStalled looks at a client that takes something, nothing, and nothing any more.
func TestStalled(t *testing.T) {
	const s = int64(time.Second)
	w := &watched{entry: &LimitConfig{Stalled: 60 * time.Second}}
	for i, c := range []struct {
		now           int64
		writes, taken uint64
		late          bool
		next          int64
	}{
		{100, 1, 0, false, 115},
		{115, 1, 0, false, 130},
		{159, 1, 0, false, 160},
		{160, 1, 0, true, 160},
		{160, 1, 1, false, 175}, // it has taken a byte
		{219, 1, 1, false, 220},
		{219, 3, 1, false, 234}, // a write has ended and the next one begun
		{279, 3, 1, true, 279},
	} {
		if late, next := w.stalled(c.writes, c.taken, c.now*s); late != c.late || next != c.next*s {
			t.Errorf("%d: late %v, next %v, want %v, %d s", i, late, time.Duration(next), c.late, c.next)
		}
	}
}
