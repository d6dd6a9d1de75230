package simulation

import (
	"errors"
	"fmt"
	"time"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/watchdog/lease"
)

// member is one pgproxy.
type member struct {
	process
	name         string
	raft         raft
	lease        leading // while it leads
	grant        pending
	state        *cluster.State
	holder       lease.Holder
	since        time.Time // start of the process
	primarySince time.Time // when it learnt of the primary
	known        failover.Known

	requests uint64
	nudged   bool
	sights   map[string]*sighting
	syncs    map[string]string // sync state by backend, as the primary said last

	client client
	barred uint64 // operation for which the connections are closed
	agent  *agent // nil: a witness
	wipes  int
}

// pending is a grant whose epoch is not applied yet.
type pending struct {
	grant lease.Grant
	asked time.Time
}

// sighting is what a member saw of a server last.
type sighting struct {
	sight  cluster.Sight
	at     time.Time
	number uint64 // of the probe; a late answer is none
	asked  uint64
	failed time.Duration // real, when a probe failed last
}

func newMember(s *sim, host int) *member {
	m := &member{name: fmt.Sprintf("h%d", host+1)}
	m.sim, m.host = s, host
	m.rate = 990 + s.rng.Int64N(21)
	m.offset = s.between(0, s.shape.skew)
	m.raft.id = newID(m.name, 0)
	if s.servers[host] != nil {
		m.agent = newAgent(m, s.servers[host])
	}
	return m
}

// start begins a process, with what is on its disk.
func (m *member) start() {
	s := m.sim
	m.up, m.paused, m.pending = true, false, nil
	m.run++
	m.since = m.clock()
	m.lease, m.holder, m.grant, m.barred, m.nudged = leading{}, lease.Holder{}, pending{}, 0, false
	m.sights, m.syncs = map[string]*sighting{}, map[string]string{}
	m.client = client{}
	m.startRaft()
	m.state, m.primarySince = s.states[m.raft.applied], m.clock()
	m.known = failover.Known{}.Learn(&cluster.State{}, m.state, m.clock())
	m.every(length/4, m.renew)
	m.everyServer(func(v *server) {
		m.in(s.between(0, healthInterval), func() {
			m.probe(v, nil)
			m.every(healthInterval, func() { m.probe(v, nil) })
		})
	})
	if m.agent != nil {
		m.agent.start()
		m.startClient()
	}
}

// crash ends the process.
func (m *member) crash() {
	if !m.up {
		return
	}
	m.sim.trace("%s: pgproxy crashed", m.name)
	m.raft.snapshot = int(m.sim.between(time.Duration(m.raft.snapshot), time.Duration(m.raft.applied+1)))
	m.up, m.paused, m.pending = false, false, nil
	m.lease = leading{}
	if m.agent != nil {
		m.agent.crash()
	}
}

func (m *member) restart() {
	if !m.up {
		m.sim.trace("%s: pgproxy started", m.name)
		m.start()
	}
}

// wipe loses the disk of a process that does not run.
func (m *member) wipe() {
	m.sim.trace("%s: disk wiped", m.name)
	m.sim.truth.count["members wiped"]++
	m.wipes++
	if m.sim.mutant == wipedVoterVotes {
		m.raft.disk = disk{id: m.raft.id, log: m.sim.committed[:1:1]}
		return
	}
	m.raft.disk = disk{id: newID(m.name, m.wipes)}
}

// applied takes the newest state; those between it and the last are not seen.
func (m *member) applied(state *cluster.State) {
	if state == m.state {
		return
	}
	if state.Primary != m.state.Primary || state.Timeline != m.state.Timeline {
		m.primarySince = m.clock()
	}
	m.known = m.known.Learn(m.state, state, m.clock())
	m.state = state
	if m.sim.mutant != acknowledgeEarly {
		m.holder = m.holder.Apply(state)
	}
	if p := m.grant; p.grant.Epoch != 0 && state.Epoch >= p.grant.Epoch {
		m.granted(p.grant, p.asked)
	}
	if o := state.Operation; o.Barred() && m.barred != o.ID {
		m.soon(func() { m.closeConnections(o.ID) })
	}
	m.lookSoon()
	if m.agent != nil {
		m.agent.lookSoon()
	}
}

// closeConnections ends what runs on the old primary and says so.
func (m *member) closeConnections(id uint64) {
	m.client.generation++
	m.client.running = 0
	m.barred = id
	m.nudge()
}

// nudge has a report sent at once.
func (m *member) nudge() {
	if m.nudged {
		return
	}
	m.nudged = true
	m.in(time.Millisecond, func() {
		m.nudged = false
		m.renew()
	})
}

// renew asks the leader for a lease.
func (m *member) renew() {
	if m.raft.leader == "" {
		return
	}
	report := m.report()
	m.requests++
	asked, number, run, id := m.clock(), m.requests, m.run, m.raft.id
	m.soon(func() {
		m.send(m.raft.leader, func(leader *member) {
			leader.request(m, run, number, report, func(g lease.Grant) {
				leader.send(id, func(m *member) {
					if m.run == run {
						m.soon(func() { m.granted(g, asked) })
					}
				})
			})
		})
	})
}

func (m *member) granted(g lease.Grant, asked time.Time) {
	if m.sim.mutant == countFromReceipt {
		asked = m.clock()
	}
	if m.sim.mutant == takeUnapplied && g.Primary != "" {
		s := *m.state
		s.Epoch, s.Primary, s.Timeline, s.Operation = max(s.Epoch, g.Epoch), g.Primary, g.Timeline, nil
		m.holder = lease.Holder{}.Take(g, asked, &s)
		return
	}
	before := m.holder
	m.holder = m.holder.Take(g, asked, m.state)
	m.grant = pending{}
	if m.state.Epoch < g.Epoch {
		m.grant = pending{g, asked}
	}
	if was, _ := before.Primary(); was == "" && m.holder != before {
		if now, timeline := m.holder.Primary(); now != "" {
			m.sim.trace("%s: holds a lease on %s, timeline %d", m.name, now, timeline)
		}
	}
}

// mayWrite tells whether bytes may be handed to the primary now.
func (m *member) mayWrite(backend string, timeline uint32) bool {
	return m.clock().Before(m.holder.Until(backend, timeline))
}

func (m *member) report() cluster.Report {
	now := m.clock()
	r := cluster.Report{
		Member: m.name, Witness: m.agent == nil, Format: cluster.Format, Up: now.Sub(m.since), Epoch: m.state.Epoch,
		Barred: m.barred,
		Links:  []cluster.Link{{Address: "10.0.0.1/24", Carrier: true, Gateway: true}},
	}
	m.everyServer(func(v *server) {
		if g := m.sights[v.name]; g != nil && !g.at.IsZero() {
			out := g.sight
			out.Age = now.Sub(g.at)
			if v.name == m.state.Primary && out.Age+out.Took > now.Sub(m.primarySince) {
				return
			}
			out.SyncState = m.syncs[v.name]
			r.Sights = append(r.Sights, out)
		}
	})
	if m.agent != nil {
		r.Local = m.agent.report()
		r.Drained = m.client.drained(m.state.Operation)
	}
	return r
}

func (m *member) everyServer(f func(*server)) {
	for _, v := range m.sim.servers {
		if v != nil {
			f(v)
		}
	}
}

var (
	errTimeout = errors.New("timeout")
	errRefused = errors.New("connection refused")
)

// probe looks at a server; then is called when the look has ended.
func (m *member) probe(v *server, then func()) {
	g := m.sights[v.name]
	if g == nil {
		g = &sighting{}
		m.sights[v.name] = g
	}
	g.asked++
	number, asked, run := g.asked, m.clock(), m.run
	end := func(o cluster.Sight) {
		if g.number >= number {
			return
		}
		g.number, g.at = number, m.clock()
		o.Backend, o.Address, o.Took = v.name, v.name, g.at.Sub(asked)
		o.Seen = o.Alive || g.sight.Seen
		if !o.Alive {
			o.Failures = g.sight.Failures + 1
			g.failed = m.sim.now
		}
		changed := o.Alive != g.sight.Alive || o.Role != g.sight.Role || o.Timeline != g.sight.Timeline
		g.sight = o
		if then != nil {
			then()
		} else if changed {
			m.nudge()
		}
	}
	m.sim.carry(m.host, v.host, func() {
		v.look(func(o cluster.Sight, syncs map[string]string) {
			m.sim.carry(v.host, m.host, func() {
				m.guard(func() {
					if m.run == run && m.clock().Sub(asked) < healthTimeout {
						if o.Role == cluster.RolePrimary && m.state.Primary == v.name {
							m.syncs = syncs
						}
						end(o)
					}
				})()
			})
		})
	})
	m.in(healthTimeout, func() { end(cluster.Sight{Error: errTimeout.Error()}) })
}
