package lease

import (
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Holder is a member's side: what it may do until when, by its own clock. The zero
// value may nothing. Grants only ever extend it, the applied State only ever takes
// from it; each returns the Holder that follows and leaves h as it was.
type Holder struct {
	term     uint64    // highest that a lease was taken of
	held     time.Time // end of the lease, whether or not there is a primary
	primary  string
	timeline uint32
	until    time.Time // end of the right to hand bytes to primary
}

// Take takes a grant. asked is when this member sent the request that it answers,
// applied the State that this member has applied, which must not be older than the
// grant. The primary is taken only when applied has that very primary, on that
// timeline, with no operation barred. A grant of a leader older than one already heard is
// ignored.
func (h Holder) Take(g Grant, asked time.Time, applied *cluster.State) Holder {
	h = h.Apply(applied)
	if g.Term < h.term {
		return h
	}
	h.term = g.Term
	if applied.Epoch < g.Epoch {
		return h // what it names as this member's, an address above all, may be long another's
	}
	end := asked.Add(shrunk(g.Length))
	h.held = later(h.held, end)
	if g.Primary == "" || !names(applied, g.Primary, g.Timeline) {
		return h
	}
	h.primary, h.timeline, h.until = g.Primary, g.Timeline, later(h.until, end)
	return h
}

// Apply takes the primary away when the State that the member applied next does not
// have it, or not on that timeline, or an operation has it barred.
func (h Holder) Apply(applied *cluster.State) Holder {
	if h.primary != "" && !names(applied, h.primary, h.timeline) {
		h.primary, h.timeline, h.until = "", 0, time.Time{}
	}
	return h
}

// Until returns when the right to hand bytes to that backend, as the primary on that
// timeline, ends: they may be handed over while a fresh reading of the clock is
// before it. The zero time: there is none.
func (h Holder) Until(backend string, timeline uint32) time.Time {
	if backend == "" || backend != h.primary || timeline != h.timeline {
		return time.Time{}
	}
	return h.until
}

// Held returns when the lease itself ends, that is the right to hold virtual
// addresses. The zero time: there was none.
func (h Holder) Held() time.Time { return h.held }

// Primary returns the backend that the lease names and its timeline; "" none.
func (h Holder) Primary() (backend string, timeline uint32) { return h.primary, h.timeline }

// Term returns the highest term of a leader whose grant was taken.
func (h Holder) Term() uint64 { return h.term }

func names(s *cluster.State, primary string, timeline uint32) bool {
	return s.Primary == primary && s.Timeline == timeline && !s.Operation.Barred()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
