package lb

import (
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Candidate is a backend that reads could go to.
type Candidate struct {
	Name       string
	Weight     int // share of the reads; 0: none
	Primary    bool
	Usable     bool
	LagSeconds float64
	LagBytes   uint64
}

// UsableStandbys returns the standbys that may serve reads: agreed to be up and
// standbys, seen ready and as such by this member, compatible with the primary, and
// not behind by more than maxLag (0: no limit). A standby on a timeline newer than
// the recorded one has left the cluster's history and gets none. The order is that
// of the state.
func UsableStandbys(state *cluster.State, observations map[string]cluster.Observation, maxLag time.Duration) []Candidate {
	var out []Candidate
	for i := range state.Backends {
		b := &state.Backends[i]
		if b.Status != cluster.StatusUp || b.Role != cluster.RoleStandby || b.Rebuild {
			continue
		}
		o, seen := observations[b.Name]
		if !seen || !o.Ready || o.Role != cluster.RoleStandby || o.Incompatible != "" {
			continue
		}
		if state.Timeline != 0 && o.Timeline > state.Timeline {
			continue
		}
		if state.SystemID != 0 && o.SystemID != 0 && o.SystemID != state.SystemID {
			continue
		}
		if maxLag > 0 && !(o.LagSeconds <= maxLag.Seconds()) { // so that NaN is too much
			continue
		}
		out = append(out, Candidate{
			Name:       b.Name,
			Weight:     b.Weight,
			Usable:     true,
			LagSeconds: o.LagSeconds,
			LagBytes:   o.LagBytes,
		})
	}
	return out
}

// Wheel gives sessions to backends by weight: among any run of sessions as long as
// the sum of the weights, each backend gets its weight exactly (smooth weighted
// round robin, as nginx has it). One Wheel serves all sessions; it is safe for
// concurrent use, and equal calls in equal order give equal choices.
type Wheel struct {
	mu struct {
		sync.Mutex
		credit map[string]int64 // by backend: what it is owed, in weights
	}
}

// Next returns the index of the next backend among the usable ones with a weight,
// or -1 when there is none.
func (w *Wheel) Next(candidates []Candidate) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.credit == nil {
		w.mu.credit = make(map[string]int64)
	}
	best, total := -1, int64(0)
	for i, c := range candidates {
		if !c.Usable || c.Weight <= 0 {
			// Away, it neither saves up nor keeps a debt: it comes back as a stranger.
			delete(w.mu.credit, c.Name)
			continue
		}
		total += int64(c.Weight)
		w.mu.credit[c.Name] += int64(c.Weight)
		if best < 0 || w.mu.credit[c.Name] > w.mu.credit[candidates[best].Name] {
			best = i
		}
	}
	if best >= 0 {
		w.mu.credit[candidates[best].Name] -= total
	}
	return best
}

// Turn decides for each read of a session between the primary and the session's
// standby, so that after any number of reads the primary's share differs from its
// weight by less than one read (error diffusion). It belongs to one session.
type Turn struct {
	phase uint32
}

// NewTurn returns the Turn of the session with that number. Sessions that follow
// each other start at phases far apart, so that they do not go to the primary in
// lockstep (multiples of the golden ratio are spread evenly).
func NewTurn(session uint64) Turn {
	const golden = 0x9E3779B9 // 2^32 / golden ratio
	return Turn{phase: uint32(session) * golden}
}

// Primary tells whether the next read goes to the primary. standbys is the total
// weight of the usable standbys. When nobody has a weight the primary takes it.
func (t *Turn) Primary(primary, standbys int) bool {
	if primary <= 0 {
		return standbys <= 0
	}
	if standbys <= 0 {
		return true
	}
	step := uint32((uint64(primary) << 32) / (uint64(primary) + uint64(standbys)))
	before := t.phase
	t.phase += step
	return t.phase < before
}

// TotalWeight sums the weights of the usable candidates.
func TotalWeight(candidates []Candidate) int {
	total := 0
	for _, c := range candidates {
		if c.Usable && c.Weight > 0 {
			total += c.Weight
		}
	}
	return total
}
