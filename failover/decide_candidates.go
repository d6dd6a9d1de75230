package failover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// candidate is a standby that has said how far it got, cut off from the old
// primary.
type candidate struct {
	name     string
	timeline uint32
	end      cluster.LSN
	history  []cluster.Fork
	order    int // in the list of backends: the configured priority
}

// choose returns the standby to promote, or why there is none (S5):
//  1. its history is one that the recorded timeline continues
//  2. with synchronous replication enough standbys have reported that every
//     acknowledged commit is on the newest of them; PostgreSQL may have changed its
//     synchronous standby before that was recorded, so one that is not may have more
//  3. the newest log wins, then the order of the backends
//
// The old primary itself, when it runs as a standby, has all that it acknowledged.
func (p *pass) choose(reported []candidate, old string) (*candidate, string) {
	reported = slices.DeleteFunc(slices.Clone(reported), func(c candidate) bool { return !p.state.Continues(c.timeline, c.end, c.history) })
	if len(reported) == 0 {
		return nil, "no standby with the recorded history can be reached"
	}
	recorded := slices.DeleteFunc(slices.Clone(reported), func(c candidate) bool {
		return !slices.Contains(p.state.Sync.Standbys, c.name) && c.name != old
	})
	switch s := p.state.Sync; s.Method {
	case cluster.SyncFirst:
		if len(recorded) == 0 {
			return nil, fmt.Sprintf("no synchronous standby can be reached; %s may hold what was acknowledged", strings.Join(s.Standbys, ", "))
		}
	case cluster.SyncAny:
		if need := s.Listed - s.Num + 1; len(recorded) < need && !slices.ContainsFunc(recorded, func(c candidate) bool { return c.name == old }) {
			return nil, fmt.Sprintf("%d of %d standbys of the quorum can be reached, %d are needed", len(recorded), s.Listed, need)
		}
	case cluster.SyncNone:
	}
	best := slices.MaxFunc(reported, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.timeline, b.timeline), cmp.Compare(a.end, b.end), cmp.Compare(b.order, a.order))
	})
	return &best, ""
}
