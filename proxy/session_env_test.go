package proxy

import (
	"testing"
	"testing/synctest"
	"time"
)

// The clock is read once in a turn, and each turn has its own time.
func TestTimeOfATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := newTest(t, testConfig(t), newFakeCluster(testState("h:1")), Deps{}).sessions
		s := actor(t, sh, "u", stateIdle, false, nil)
		first := s.env.time()
		advance(time.Second)
		if got := s.env.time(); got != first {
			t.Errorf("%v passed within a turn", time.Duration(got-first))
		}
		s.drain()
		if got := s.env.time(); got != first+int64(time.Second) {
			t.Errorf("%v passed until the next turn, want 1s", time.Duration(got-first))
		}
		s.env.tick(7)
		if got := s.env.time(); got != 7 {
			t.Errorf("at %d, the driver says 7", got)
		}
	})
}
