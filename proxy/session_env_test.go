package proxy

import (
	"testing"

	"github.com/pgproxy/pgproxy/lb"
)

// TestSessionsKeepTheirStandby: also one that the session could not read from yet, so that
// among all sessions each standby keeps its share.
func TestSessionsKeepTheirStandby(t *testing.T) {
	s := newTest(t, testConfig(t), newFakeCluster(testState("h:1", "h:2", "h:3")), Deps{})
	standbys := []lb.Candidate{{Name: "h2", Weight: 1, Usable: true}, {Name: "h3", Weight: 3, Usable: true}}
	s.sessions.routing.Store(&routing{standbys: standbys, all: standbys, standbyWeight: 4, hasPrimary: true})
	now := monotonic()
	got := make(map[string]int)
	for range 64 {
		env := actor(t, s.sessions, "u", stateIdle, false, nil).env
		env.tick(now)
		first := env.Choose("", false, lb.ToAny)
		got[first]++
		for n := range 5 {
			env.tick(now + int64(n+1)*int64(homeTime))
			if again := env.Choose("", false, lb.ToAny); again != first {
				t.Fatalf("%s, and then %s", first, again)
			}
		}
	}
	if got["h2"] != 16 || got["h3"] != 48 {
		t.Errorf("sessions by standby %v", got)
	}
}

// TestReadsShunTheLineForBoth: a session that a standby has shown data needs a connection to
// the primary and one to the standby before the primary may answer. While either has a line
// it would keep the one and stand in the line for the other, so it stays where it is.
func TestReadsShunTheLineForBoth(t *testing.T) {
	s := newTest(t, testConfig(t), newFakeCluster(testState("h:1", "h:2")), Deps{})
	all := []lb.Candidate{{Name: "h1", Weight: 1, Usable: true, Primary: true}, {Name: "h2", Weight: 1, Usable: true}}
	s.sessions.routing.Store(&routing{standbys: all[1:], all: all, standbyWeight: 1, primaryWeight: 1, hasPrimary: true})
	p := s.sessions.pools
	p.locked(p.follow)
	env := actor(t, s.sessions, "u", stateIdle, false, nil).env
	now := monotonic()
	onPrimary := func(shown bool) (n int) {
		for range 30 {
			now += int64(homeTime) + 1
			env.tick(now)
			if env.Choose("h2", shown, lb.ToAny) == "" {
				n++
			}
		}
		return n
	}
	onPrimary(false) // the first choice is of all sessions together
	if n := onPrimary(true); n != 15 {
		t.Errorf("without a line the primary had %d of 30 turns", n)
	}
	for _, backend := range []string{"h1", "h2"} {
		var waiting []*waiter
		p.locked(func() []*link {
			for range 2 {
				c := testClient("u")
				c.database = "u"
				w := newWaiter(p.mu.byName[backend].backend, c)
				p.mu.byName[backend].queue(w)
				waiting = append(waiting, w)
			}
			return nil
		})
		if n := onPrimary(true); n != 0 {
			t.Errorf("with a line for %s the primary had %d of 30 turns", backend, n)
		}
		if n := onPrimary(false); n != 15 {
			t.Errorf("with a line for %s and nothing shown the primary had %d of 30 turns", backend, n)
		}
		p.locked(func() []*link {
			for _, w := range waiting {
				p.mu.byName[backend].unqueue(w)
			}
			return nil
		})
	}
}
