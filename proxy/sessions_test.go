package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// TestRoutingFollows changes all that the routing is made of.
func TestRoutingFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := always{time.Now().Add(time.Second)}
		s := newTest(t, testConfig(t), newFakeCluster(testState("h:1", "h:2")), Deps{Lease: lease})
		sh := s.sessions
		seen := make(chan struct{})
		standby := cluster.Observation{Ready: true, Role: cluster.RoleStandby, Timeline: 1, LagSeconds: 5}
		observations := map[string]cluster.Observation{}
		sh.observed = func() map[string]cluster.Observation { return observations }
		sh.seen = func() <-chan struct{} { return seen }
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { sh.run(ctx); close(ended) }()
		check := func(when string, standbys int, primary bool) {
			t.Helper()
			synctest.Wait()
			if r := sh.routing.Load(); len(r.standbys) != standbys || r.hasPrimary != primary {
				t.Errorf("%s: %d standbys, primary %v; want %d, %v", when, len(r.standbys), r.hasPrimary, standbys, primary)
			}
		}
		check("at the start", 0, true)
		observations = map[string]cluster.Observation{"h2": standby}
		old := seen
		seen = make(chan struct{})
		close(old)
		check("with a standby that was seen", 1, true)
		cfg := *sh.cfg.Load()
		cfg.Balance.MaxLag = time.Second
		sh.reconfigure(&cfg)
		check("with another bound of the lag", 0, true)
		advance(time.Second)
		check("when the lease has run out", 0, false)
		stop()
		<-ended
	})
}
