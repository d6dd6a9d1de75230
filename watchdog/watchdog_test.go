package watchdog

import (
	"errors"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestMembersAgree(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	leader := g.leader()
	for _, m := range g.running() {
		g.until(m.name+" knows the state", func() bool {
			select {
			case <-m.Ready():
				return true
			default:
				return false
			}
		})
	}
	follower := g.followers(leader)[0]
	s := follower.propose(configure("a", "b"))
	if got := follower.State(); got.Epoch < s.Epoch || s.Epoch == 0 {
		t.Errorf("Propose returned epoch %d, in force is %d", s.Epoch, got.Epoch)
	}
	leader.propose(adopt("a"))
	for _, m := range g.running() {
		g.until(m.name+" has the primary", func() bool { return m.State().Primary == "a" })
		m.leases("a")
		if !m.Until("b").IsZero() || !time.Now().Before(m.Held()) {
			t.Errorf("%s: b until %v, held until %v", m.name, m.Until("b"), m.Held())
		}
	}
	stale := adopt("b")
	stale.Expect = s.Epoch
	if _, err := follower.Propose(g.context(), stale); !errors.Is(err, cluster.ErrEpoch) {
		t.Errorf("a command with an old epoch: %v", err)
	}
	if got := len(leader.Voters()); got != 3 {
		t.Errorf("%d voters", got)
	}
	g.until("the leader has all reports", func() bool { return len(leader.Reports()) == 3 })
	all, err := follower.AllReports(g.context())
	if err != nil || len(all) != 3 || all["h1"].Format != cluster.Format {
		t.Errorf("reports at a follower: %v, %v", all, err)
	}
}
