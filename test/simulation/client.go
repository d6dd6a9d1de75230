package simulation

import (
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const writeEvery = 100 * time.Millisecond

// client writes through one member, one record at a time.
type client struct {
	generation int // of the connections; raised when they are closed
	running    int // writes handed over and not answered
}

// startClient has a client write again and again.
func (m *member) startClient() {
	m.every(writeEvery, func() {
		if m.client.running == 0 {
			m.write()
		}
	})
}

// write hands one record to the primary, if the member may. What it finds out and
// what it does next are two things: it may be stopped between them.
func (m *member) write() {
	s := m.sim
	p, timeline := m.holder.Primary()
	if p == "" && s.mutant != routeWithoutLease {
		return
	}
	if o := m.state.Operation; o != nil && o.Phase == cluster.PhaseDrain {
		return // held
	}
	if s.mutant == routeWithoutLease {
		p, timeline = m.state.Primary, m.state.Timeline
		if p == "" {
			return
		}
	} else if !m.mayWrite(p, timeline) {
		return
	}
	s.assertHandOver(m, p, timeline)
	generation, v := m.client.generation, s.server(p)
	m.client.running++
	s.writes++
	id := s.writes
	m.soon(func() {
		s.carry(m.host, v.host, func() {
			v.write(id, func() {
				s.carry(v.host, m.host, func() {
					m.guard(func() { m.answered(id, p, timeline, generation) })()
				})
			})
		})
	})
	// A connection that brings no answer is closed in the end.
	m.in(3*time.Second, func() {
		if m.client.generation == generation && m.client.running > 0 {
			m.client.generation++
			m.client.running = 0
		}
	})
}

// answered forwards the server's answer when the lease still runs.
func (m *member) answered(id uint64, backend string, timeline uint32, generation int) {
	s := m.sim
	if m.client.generation != generation {
		return
	}
	m.client.running = 0
	m.nudgeDrained()
	if s.mutant != forwardWithoutLease && !m.mayWrite(backend, timeline) {
		return
	}
	s.acknowledged(m, id, backend, timeline)
}

func (m *member) nudgeDrained() {
	if o := m.state.Operation; o != nil && o.Phase == cluster.PhaseDrain {
		m.nudge()
	}
}

// drained returns the operation for which nothing runs on the primary any more.
func (c *client) drained(o *cluster.Operation) uint64 {
	if o == nil || c.running > 0 {
		return 0
	}
	return o.ID
}
