package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// length is L, of every lease.
const length = time.Second

// sim is one schedule. Instants are real time since its beginning; members have
// clocks of their own.
type sim struct {
	seed   uint64
	mutant mutant
	rng    *rand.Rand
	now    time.Duration
	queue  queue
	shape  shape
	net    network

	members []*member // by host
	servers []*server // by host; nil on the host of a witness

	committed []*entry         // of the raft log, what a leader ever committed
	states    []*cluster.State // states[i] is that after i entries
	changedAt []time.Duration  // when states[i] was committed
	entries   uint64           // made so far
	writes    uint64           // records made so far
	truth     truth
	healed    time.Duration // when the faults end

	violation error
	out       func(string) // of the trace; nil: none
}

// shape is what the seed decides about the whole schedule.
type shape struct {
	servers  int
	sync     string  // synchronous_standby_names
	loss     float64 // of one message
	late     float64 // that a message takes long
	double   float64 // that it arrives again
	faults   int
	pauses   float64       // that a member stops between two steps of a write or a grant
	lagging  float64       // that a member applies an entry late
	belief   time.Duration // for how long a leader believes that it leads without an answer
	skew     time.Duration // of wall clocks
	switches bool          // an operator asks for switchovers
	meddling bool          // an operator promotes and stops servers himself
}

func newSim(seed uint64, m mutant, out func(string)) *sim {
	s := &sim{seed: seed, mutant: m, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), out: out}
	s.shape = s.drawShape()
	s.healed = 16*time.Second + s.between(0, 10*time.Second)
	s.net = newNetwork(3)
	s.states = []*cluster.State{{}}
	s.changedAt = []time.Duration{0}
	s.truth = newTruth()
	for i := range 3 {
		if i < s.shape.servers {
			s.servers = append(s.servers, newServer(s, i))
		} else {
			s.servers = append(s.servers, nil)
		}
		s.members = append(s.members, newMember(s, i))
	}
	s.bootstrap()
	s.planFaults()
	return s
}

func (s *sim) drawShape() shape {
	h := shape{servers: 3, belief: 100 * time.Millisecond}
	if s.chance(0.3) {
		h.servers = 2
	}
	switch n := s.rng.IntN(10); {
	case h.servers == 2 && n < 4:
		h.sync = `h1, h2`
	case n < 2:
		h.sync = `FIRST 1 (h1, h2, h3)`
	case n < 4:
		h.sync = `ANY 1 (h1, h2, h3)`
	case n < 5:
		h.sync = `FIRST 2 (h1, h2, h3)`
	}
	if s.chance(0.3) {
		h.loss = 0.02 * s.rng.Float64()
	}
	if s.chance(0.5) {
		h.late = 0.05 * s.rng.Float64()
	}
	if s.chance(0.3) {
		h.double = 0.05 * s.rng.Float64()
	}
	if s.chance(0.5) {
		h.pauses = 0.002 * s.rng.Float64()
	}
	if s.chance(0.5) {
		h.lagging = 0.3 * s.rng.Float64()
	}
	if s.chance(0.3) {
		h.belief = s.between(100*time.Millisecond, 5*time.Second)
	}
	if s.chance(0.3) {
		h.skew = s.between(0, 10*time.Second)
	}
	h.faults = 2 + s.rng.IntN(10)
	h.switches = s.chance(0.4)
	h.meddling = s.chance(0.2)
	return s.mutant.shape(h)
}

// chance is true with probability p.
func (s *sim) chance(p float64) bool { return p > 0 && s.rng.Float64() < p }

// between returns a duration in [a, b).
func (s *sim) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(s.rng.Int64N(int64(b-a)))
}

// after has f called in d.
func (s *sim) after(d time.Duration, f func()) { s.queue.push(s.now+max(d, 0), f) }

// step plays the next event and asserts the rules.
func (s *sim) step() {
	at, f := s.queue.pop()
	s.now = at
	f()
	s.assertLeases()
}

// run plays until the cluster is whole again after the faults, or a violation.
func (s *sim) run() error {
	const settle = 90 * time.Second
	next := s.healed + time.Second
	for s.violation == nil {
		s.step()
		if s.now < next {
			continue
		}
		why := s.unwell()
		if why == "" {
			break
		}
		if s.now > s.healed+settle {
			s.fail("liveness: %v after the faults %s", settle, why)
		}
		next = s.now + time.Second
	}
	if s.violation == nil {
		s.assertEnd()
	}
	return s.violation
}

// fail notes the first violation.
func (s *sim) fail(format string, args ...any) {
	if s.violation != nil {
		return
	}
	s.violation = fmt.Errorf("at %v: %w", s.now, fmt.Errorf(format, args...))
	s.trace("VIOLATION %v", s.violation)
}

// trace writes a line when somebody reads it.
func (s *sim) trace(format string, args ...any) {
	if s.out != nil {
		s.out(fmt.Sprintf("%9.3f ", s.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

// latest is the newest state that was ever committed.
func (s *sim) latest() *cluster.State { return s.states[len(s.states)-1] }

// queue is a binary heap of events, the first to happen on top; those of one
// instant in the order in which they were made.
type queue struct {
	events []event
	made   uint64
}

type event struct {
	at  time.Duration
	seq uint64
	f   func()
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func (q *queue) push(at time.Duration, f func()) {
	q.made++
	q.events = append(q.events, event{at, q.made, f})
	for i := len(q.events) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.events[i].before(q.events[up]) {
			break
		}
		q.events[i], q.events[up] = q.events[up], q.events[i]
		i = up
	}
}

func (q *queue) pop() (time.Duration, func()) {
	top := q.events[0]
	last := len(q.events) - 1
	q.events[0], q.events[last] = q.events[last], event{}
	q.events = q.events[:last]
	for i := 0; ; {
		least := i
		for _, down := range []int{2*i + 1, 2*i + 2} {
			if down < last && q.events[down].before(q.events[least]) {
				least = down
			}
		}
		if least == i {
			return top.at, top.f
		}
		q.events[i], q.events[least] = q.events[least], q.events[i]
		i = least
	}
}
