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
		first := env.Choose("", lb.ToAny)
		got[first]++
		for n := range 5 {
			env.tick(now + int64(n+1)*int64(homeTime))
			if again := env.Choose("", lb.ToAny); again != first {
				t.Fatalf("%s, and then %s", first, again)
			}
		}
	}
	if got["h2"] != 16 || got["h3"] != 48 {
		t.Errorf("sessions by standby %v", got)
	}
}
