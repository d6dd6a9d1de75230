package lb

import (
	"math"
	"sync/atomic"
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
// the sum of the weights, each backend gets its weight exactly; the first goes to the
// first backend that has a weight. One Wheel serves all sessions; it is safe for
// concurrent use, and equal calls in equal order give equal choices.
type Wheel struct {
	_     [128]byte // all sessions write turns, and read what lies beside a Wheel
	turns atomic.Uint64
	_     [120]byte
}

// Next returns the index of the next backend among the usable ones with a weight,
// or -1 when there is none.
func (w *Wheel) Next(candidates []Candidate) int {
	total := uint64(TotalWeight(candidates))
	if total == 0 {
		return -1
	}
	// The weights lie side by side on a circle of that circumference. Steps that have no
	// divisor in common with it meet each place once in a round, and steps near the golden
	// section spread the places of one backend over it.
	at := int((w.turns.Add(1) - 1) % total * step(total) % total)
	for i := range candidates {
		c := &candidates[i]
		if !c.Usable || c.Weight <= 0 {
			continue
		}
		if at < c.Weight {
			return i
		}
		at -= c.Weight
	}
	panic("BUG: a place on the wheel that belongs to no backend")
}

// step returns the step of a wheel with that many places.
func step(places uint64) uint64 {
	best := uint64(math.Round(float64(places) * (math.Phi - 1)))
	for off := uint64(0); ; off++ {
		switch {
		case gcd(best+off, places) == 1:
			return best + off
		case off < best && gcd(best-off, places) == 1:
			return best - off
		}
	}
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
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
