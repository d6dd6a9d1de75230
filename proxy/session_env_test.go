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

// TestReadsShunLongLines: among the servers that reads are balanced over, the one with a
// much shorter line is chosen, but while lines are short the weights hold.
func TestReadsShunLongLines(t *testing.T) {
	s := newTest(t, testConfig(t), newFakeCluster(testState("h:1", "h:2", "h:3")), Deps{})
	all := []lb.Candidate{{Name: "h2", Weight: 1, Usable: true}, {Name: "h3", Weight: 1, Usable: true}, {Name: "h1", Weight: 1, Usable: true, Primary: true}}
	s.sessions.routing.Store(&routing{standbys: all[:2], all: all, standbyWeight: 2, primaryWeight: 1, hasPrimary: true})
	p := s.sessions.pools
	p.locked(p.follow)
	line := func(backend string, n int) {
		c := testClient("u")
		c.database = "u"
		p.locked(func() []*link {
			for range n {
				p.mu.byName[backend].queue(newWaiter(p.mu.byName[backend].backend, c))
			}
			return nil
		})
	}
	choices := func() map[string]int {
		got := make(map[string]int)
		for range 30 {
			got[actor(t, s.sessions, "u", stateIdle, false, nil).env.Choose("", false, lb.ToAny)]++
		}
		return got
	}
	equal := func(when string, h1, h2, h3 int) {
		t.Helper()
		if got := choices(); got[""] != h1 || got["h2"] != h2 || got["h3"] != h3 {
			t.Errorf("%s: %v", when, got)
		}
	}
	equal("without lines", 10, 10, 10)
	line("h1", 1)
	equal("with a line of one", 10, 10, 10)
	line("h1", 10)
	line("h2", 4)
	equal("with long lines", 0, 0, 30)
	line("h3", 3)
	equal("with a line everywhere", 0, 10, 20)
}
