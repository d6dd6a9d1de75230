package simulation

import (
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// planFaults draws what is broken and when, and the healing.
func (s *sim) planFaults() {
	for range s.shape.faults {
		s.after(s.between(3*time.Second, s.healed), s.fault)
	}
	if s.shape.switches {
		for range 1 + s.rng.IntN(3) {
			s.after(s.between(3*time.Second, s.healed), s.switchover)
		}
	}
	if s.shape.meddling {
		for range 1 + s.rng.IntN(2) {
			s.after(s.between(3*time.Second, s.healed), s.meddle)
		}
	}
	s.after(s.healed, s.heal)
}

// fault breaks something. Often it is what is in use just now.
func (s *sim) fault() {
	host := s.rng.IntN(len(s.members))
	switch p, l := s.server(s.latest().Primary), s.leader(); s.rng.IntN(4) {
	case 0, 1:
		if p != nil {
			host = p.host
		}
	case 2:
		if l != nil {
			host = l.host
		}
	}
	m, v := s.members[host], s.servers[host]
	switch n := s.rng.IntN(100); {
	case n < 15 && v != nil:
		v.crash()
	case n < 30 && v != nil:
		v.freeze()
		s.after(s.between(500*time.Millisecond, 8*time.Second), v.thaw)
	case n < 45:
		s.trace("h%d: cut off", host+1)
		s.isolate(host, true)
		s.after(s.between(500*time.Millisecond, 14*time.Second), func() {
			s.trace("h%d: joined again", host+1)
			s.isolate(host, false)
		})
	case n < 55:
		s.breakLink(host, (host+1+s.rng.IntN(len(s.members)-1))%len(s.members))
	case n < 68:
		m.crash()
		s.after(s.between(100*time.Millisecond, 5*time.Second), m.restart)
	case n < 82:
		m.pause(s.between(100*time.Millisecond, 5*time.Second))
	case n < 92:
		s.powerOff(host)
	default:
		s.wipe(m)
	}
}

func (s *sim) breakLink(a, b int) {
	both := s.chance(0.6)
	s.trace("h%d: nothing reaches h%d, both ways %t", a+1, b+1, both)
	s.cutLink(a, b, true)
	if both {
		s.cutLink(b, a, true)
	}
	s.after(s.between(500*time.Millisecond, 10*time.Second), func() {
		s.trace("h%d and h%d: joined again", a+1, b+1)
		s.cutLink(a, b, false)
		s.cutLink(b, a, false)
	})
}

// powerOff takes a host down for a while, with all that runs there.
func (s *sim) powerOff(host int) {
	m, v := s.members[host], s.servers[host]
	s.trace("h%d: powered off", host+1)
	m.crash()
	if v != nil {
		v.crash()
		v.powered = false
	}
	s.after(s.between(time.Second, 8*time.Second), func() { s.powerOn(host) })
}

func (s *sim) powerOn(host int) {
	if v := s.servers[host]; v != nil {
		v.powered = true
	}
	s.members[host].restart()
}

// wipe loses a member's disk, while the others are voters and there: of three, one.
func (s *sim) wipe(m *member) {
	voters := s.committed[len(s.committed)-1].voters
	for _, o := range s.members {
		if o != m && !o.up || !slices.Contains(voters, o.raft.id) || !slices.Contains(o.raft.voters(), o.raft.id) {
			return
		}
	}
	m.crash()
	m.wipe()
	s.after(s.between(100*time.Millisecond, time.Second), m.restart)
}

// leader returns the member that leads in the newest term, or nil.
func (s *sim) leader() *member {
	var best *member
	for _, m := range s.members {
		if m.up && m.leads() && m.lease.grantor != nil && (best == nil || m.raft.term > best.raft.term) {
			best = m
		}
	}
	return best
}

// switchover is an operator's wish for another primary.
func (s *sim) switchover() {
	m := s.leader()
	if m == nil || m.paused || m.lease.proposing || m.state.Primary == "" {
		return
	}
	for _, b := range m.state.Backends {
		if b.Role == cluster.RoleStandby && b.Status == cluster.StatusUp {
			m.proposeAll([]cluster.Command{{
				Kind: cluster.KindBegin, At: m.clock(), Expect: m.state.Epoch, Operation: cluster.Switchover,
				Backend: m.state.Primary, Target: b.Name, Reason: "an operator wants it",
			}})
			return
		}
	}
}

// meddle is an operator who does not ask pgproxy.
func (s *sim) meddle() {
	v := s.servers[s.rng.IntN(s.shape.servers)]
	switch a := s.members[v.host].agent; s.rng.IntN(3) {
	case 0:
		s.trace("operator: promotes %s", v.name)
		s.truth.meddled = true
		v.promote("operator", nil)
	case 1:
		s.trace("operator: stops %s", v.name)
		v.shutDown(func() { a.halted = s.members[v.host].up })
		s.after(s.between(time.Second, 8*time.Second), func() { s.startAgain(v) })
	default:
		m := s.leader()
		if m != nil && !m.paused && !m.lease.proposing {
			m.proposeAll([]cluster.Command{{
				Kind: cluster.KindRecover, At: m.clock(), Backend: v.name, Reason: "an operator wants it",
			}})
		}
	}
}

// startAgain is the operator who starts what he stopped.
func (s *sim) startAgain(v *server) {
	a := s.members[v.host].agent
	if !v.up && v.powered && a.task == nil && !a.files.Marker {
		s.trace("operator: starts %s", v.name)
		v.start(func(bool) {})
	}
}

// heal ends all faults.
func (s *sim) heal() {
	s.trace("all is healed")
	for i, m := range s.members {
		s.isolate(i, false)
		s.powerOn(i)
		m.resume()
		if v := s.servers[i]; v != nil {
			v.thaw()
			s.after(10*time.Second, func() {
				if m.agent.halted {
					s.startAgain(v)
				}
			})
		}
	}
}
