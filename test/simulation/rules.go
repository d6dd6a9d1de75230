package simulation

import (
	"slices"
	"time"

	real "github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	// confirmBound is for how long a confirmation is good, by any clock (S3).
	confirmBound = length * 102 / 100
	// reachBound is for how long a member must have reached a server that nobody may
	// call lost then: longer than any look is fresh (S4).
	reachBound = 4 * time.Second
)

// truth is what only the simulation knows.
type truth struct {
	acks map[uint64]ack
	// left is the newest timeline whose primary was replaced: what was written on it is
	// acknowledged no more.
	left     uint32
	orders   map[*server]order // of promotions under way
	promoted order             // the last one of an operation
	lost     int               // acknowledged writes that asynchronous replication has lost
	meddled  bool              // an operator promoted a server himself
	count    map[string]int    // of what has happened, for the statistics
}

type ack struct {
	member   string
	backend  string
	timeline uint32
	at       time.Duration
}

// order is what an agent had in mind when it promoted its server.
type order struct {
	operation uint64
	old       string
	timeline  uint32 // of old
}

func newTruth() truth {
	return truth{acks: map[uint64]ack{}, orders: map[*server]order{}, count: map[string]int{}}
}

// assertLeases: at no instant do members hold leases on two servers (S1).
func (s *sim) assertLeases() {
	first := ""
	for _, m := range s.members {
		if !m.up {
			continue
		}
		p, timeline := m.holder.Primary()
		if p == "" || p == first || !m.mayWrite(p, timeline) {
			continue
		}
		if first != "" {
			s.fail("S1: leases on %s and, of %s, on %s on timeline %d", first, m.name, p, timeline)
		}
		first = p
	}
}

// assertHandOver: bytes go to a server only under a lease (S1).
func (s *sim) assertHandOver(m *member, backend string, timeline uint32) {
	if !m.mayWrite(backend, timeline) {
		s.fail("S1: %s hands a write to %s without a lease", m.name, backend)
	}
}

// acknowledged: a client hears that its write is there, under a lease and while
// nobody was promoted in the server's place (S1).
func (s *sim) acknowledged(m *member, id uint64, backend string, timeline uint32) {
	if !m.mayWrite(backend, timeline) {
		s.fail("S1: %s forwards an answer of %s without a lease", m.name, backend)
	}
	if o := s.latest().Operation; timeline <= s.truth.left || o != nil && o.ID == s.truth.promoted.operation {
		s.fail("S2: %s forwards an answer of %s on timeline %d after another was promoted", m.name, backend, timeline)
	}
	s.truth.acks[id] = ack{m.name, backend, timeline, s.now}
	s.truth.count["acknowledged"]++
}

// assertPromoted: no lease names the old primary when a server becomes one in its
// place (S2).
func (s *sim) assertPromoted(v *server) {
	o, ok := s.truth.orders[v]
	delete(s.truth.orders, v)
	s.truth.count["promotions"]++
	if !ok {
		return
	}
	for _, m := range s.members {
		if m.up && m.mayWrite(o.old, o.timeline) {
			s.fail("S2: %s is promoted while %s holds a lease on %s for another %v",
				v.name, m.name, o.old, m.holder.Until(o.old, o.timeline).Sub(m.clock()))
		}
	}
	s.truth.promoted = o
}

// assertStep: what an agent does for an operation is of the one under way, or was so
// within the bound of the confirmation (S3); a server on a newer timeline is left
// alone (S6).
func (s *sim) assertStep(a *agent, step real.Step) {
	if step.Action == real.ActionPromote {
		o := a.m.state.Operation
		s.truth.orders[a.v] = order{o.ID, o.Old, a.m.state.Timeline}
	}
	if step.Action.Irreversible() && step.Operation != 0 && !s.wasSo(func(state *cluster.State) bool {
		o, mine := state.Operation, a.m.state.Operation
		return o != nil && o.ID == step.Operation && (step.Action != real.ActionPromote || o.Phase == mine.Phase && o.Candidate == a.v.name)
	}) {
		s.fail("S3: %s: %s, which is no longer the operation under way", a.m.name, step)
	}
	switch step.Action {
	case real.ActionStopHard, real.ActionKill, real.ActionRewind, real.ActionRebuild:
		s.assertTouched(a, step)
	case real.ActionNone, real.ActionStartPrimary, real.ActionStartStandby, real.ActionRestartPrimary, real.ActionStopClean,
		real.ActionCheckpoint, real.ActionDetach, real.ActionPromote, real.ActionFollow, real.ActionFence, real.ActionSettle:
	}
}

// assertTouched: a server on a timeline newer than the recorded one is stopped,
// rewound or rebuilt only when it is marked, or on an operator's order (S6).
func (s *sim) assertTouched(a *agent, step real.Step) {
	now := s.latest()
	b := now.Backend(a.v.name)
	if a.v.timeline > now.Timeline && b != nil && !b.Rebuild && b.Recovery == nil {
		s.fail("S6: %s: %s, but it is on timeline %d and the recorded one is %d", a.m.name, step, a.v.timeline, now.Timeline)
	}
}

// wasSo tells whether a committed state within the bound had a property.
func (s *sim) wasSo(is func(*cluster.State) bool) bool {
	for i := len(s.states) - 1; i >= 0; i-- {
		if is(s.states[i]) {
			return true
		}
		if s.now-s.changedAt[i] > confirmBound {
			return false
		}
	}
	return false
}

// assertChange looks at what was just committed.
func (s *sim) assertChange(prev, next *cluster.State, c *cluster.Command) {
	s.truth.count[c.Kind.String()]++
	switch c.Kind {
	case cluster.KindBegin:
		if c.Operation == cluster.Failover && prev.Primary == c.Backend {
			s.assertLost(c.Backend)
		}
	case cluster.KindAdoptPrimary:
		s.assertAdopted(prev, next, c)
	case cluster.KindClearPrimary:
		if v := s.server(prev.Primary); v.writable() && v.timeline == prev.Timeline && s.now-v.since > reachBound {
			s.fail("S4: %s is no longer the primary, and was one all the time: %s", prev.Primary, c)
		}
	default:
	}
	for i := range next.Backends {
		b := &next.Backends[i]
		if v := s.server(b.Name); v.corrupt && !b.Rebuild && (b.Status == cluster.StatusUp || b.Name == next.Primary) {
			s.fail("S6: %s is in use, and its log is a mixture of two", b.Name)
		}
	}
}

// assertLost: a majority of the voters could not reach a primary that is given up
// (S4). One that has asked and was answered all the time could.
func (s *sim) assertLost(backend string) {
	voters := s.committed[len(s.committed)-1].voters
	var reach []string
	v := s.server(backend)
	if !v.up || v.frozen || s.now-v.since < reachBound {
		return
	}
	for _, m := range s.members {
		g := m.sights[backend]
		if !m.up || m.paused || g == nil || !slices.Contains(voters, m.raft.id) {
			continue
		}
		if s.connected(m.host, v.host, reachBound) && m.clock().Sub(m.since) > reachBound && s.now-g.failed > reachBound && g.sight.Alive && m.clock().Sub(g.at) < 2*healthInterval {
			reach = append(reach, m.name)
		}
	}
	if len(reach) > len(voters)/2 {
		s.fail("S4: a failover of %s begins, and %v reach it", backend, reach)
	}
}

// assertDecision: the candidate is the newest of the standbys that have said how far
// they got (S5), and none that is to be rebuilt (S6).
func (s *sim) assertDecision(m *member, commands []cluster.Command) {
	state := m.state
	for _, c := range commands {
		o := state.Operation
		if c.Kind != cluster.KindAdvance || c.Phase != cluster.PhasePromote || o == nil {
			continue
		}
		best := s.server(c.Backend)
		if b := state.Backend(c.Backend); b.Rebuild || b.Recovery != nil {
			s.fail("S6: %s is the candidate and is to be rebuilt", c.Backend)
		}
		if o.Kind != cluster.Failover || s.shape.sync != "" {
			continue
		}
		for _, b := range state.Backends {
			v := s.server(b.Name)
			l := m.lease.reports[b.Agent].Local
			if b.Rebuild || b.Status == cluster.StatusDetached || l == nil || l.Marker || l.Operation != o.ID || !l.Detached ||
				!state.Ancestor(v.timeline, v.end()) || m.clock().Sub(m.lease.reports[b.Agent].At) > length/2 {
				continue
			}
			if len(v.log) > len(best.log) {
				s.fail("S5: %s with %d records is the candidate, and %s has %d", best.name, len(best.log), v.name, len(v.log))
			}
		}
	}
}

// assertAdopted: a new primary has every acknowledged write, but for what
// asynchronous replication had not sent when the old one was lost (S5, S6).
func (s *sim) assertAdopted(prev, next *cluster.State, c *cluster.Command) {
	v := s.server(c.Backend)
	o := prev.Operation
	if next.Timeline > prev.Timeline {
		s.truth.left = prev.Timeline
	}
	missing := s.missing(v)
	was := prev.Primary + prev.Former
	lossy := o != nil && o.Kind == cluster.Failover && o.Old != c.Backend && s.shape.sync == "" ||
		o == nil && was != c.Backend && s.truth.meddled
	if len(missing) > 0 && !lossy {
		a := s.truth.acks[missing[0]]
		s.fail("S5: %s is the primary on timeline %d without %d acknowledged writes, one of %v by %s on %s, timeline %d",
			c.Backend, next.Timeline, len(missing), a.at, a.member, a.backend, a.timeline)
	}
	for _, id := range missing {
		if s.truth.acks[id].timeline >= next.Timeline {
			s.fail("S6: write %d was acknowledged on timeline %d and is not on %s", id, next.Timeline, c.Backend)
		}
		delete(s.truth.acks, id)
	}
	s.truth.lost += len(missing)
	s.truth.count["lost"] += len(missing)
}

// missing returns the acknowledged writes that a server does not have.
func (s *sim) missing(v *server) []uint64 {
	has := make(map[uint64]bool, len(v.log))
	for _, r := range v.log {
		has[r.id] = true
	}
	var all []uint64
	for id := range s.truth.acks {
		if !has[id] {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

// assertFollows: a standby goes on from what it has, whatever the numbers say (S6).
func (s *sim) assertFollows(v, from *server) {
	if b := s.latest().Backend(v.name); v.corrupt && b != nil && !b.Rebuild {
		s.fail("S6: %s streams from %s, and their logs differ before record %d", v.name, from.name, len(v.log))
	}
}

// unwell says what is not as it should be when nothing is broken any more; "" all is
// well.
func (s *sim) unwell() string {
	m := s.leader()
	if m == nil {
		return "nobody leads"
	}
	state := s.latest()
	excused := func(why string) bool { return s.truth.meddled && why != "" }
	if state.Primary == "" || state.Operation != nil {
		if excused(m.lease.why) {
			return ""
		}
		return "there is no primary: " + m.lease.why
	}
	p := s.server(state.Primary)
	if !p.writable() || p.timeline != state.Timeline {
		return p.name + " is the primary and is none"
	}
	for _, b := range state.Backends {
		v := s.server(b.Name)
		a := s.members[v.host].agent
		if v == p || excused(real.Report(a.view()).Trouble) {
			continue
		}
		if b.Status != cluster.StatusUp || b.Role != cluster.RoleStandby || !v.standby || v.receiver == nil || v.receiver.from != p {
			return b.Name + " does not follow " + p.name + ": it is " + b.Status.String() + " and " + b.Role.String() +
				"; its agent: " + real.Next(a.view()).String()
		}
	}
	for _, m := range s.members {
		if m.agent != nil && !m.mayWrite(p.name, p.timeline) {
			return m.name + " holds no lease on " + p.name
		}
	}
	return ""
}

// assertEnd: all that was acknowledged is on the primary, and the standbys have no
// other log.
func (s *sim) assertEnd() {
	p := s.server(s.latest().Primary)
	if p == nil {
		return
	}
	if missing := s.missing(p); len(missing) > 0 {
		s.fail("S6: %s lacks %d acknowledged writes at the end", p.name, len(missing))
	}
	for _, v := range s.servers {
		if v == nil || v == p || v.receiver == nil || v.receiver.from != p {
			continue
		}
		if n := min(len(v.log), len(p.log)); !slices.Equal(v.log[:n], p.log[:n]) {
			s.fail("S6: the log of %s is not that of %s", v.name, p.name)
		}
	}
}
