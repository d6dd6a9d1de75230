package simulation

import (
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/watchdog/lease"
)

const (
	reconcileEvery = 100 * time.Millisecond
	reconcileGap   = 5 * time.Millisecond // between two looks for events
	roundTimeout   = 400 * time.Millisecond
	askEvery       = 1500 * time.Millisecond

	healthInterval = time.Second
	healthTimeout  = time.Second
	healthRetries  = 1
)

// leading is what a leader has in memory only.
type leading struct {
	grantor *lease.Grantor // nil: the own term's first entry is not applied yet
	reports map[string]cluster.Reported
	heard   map[string]heard // by member: its last request
	waiting []request        // for the next round
	round   *round

	asked      map[string]time.Time // backends that all were asked to probe
	proposing  bool
	looked     time.Time
	lookingFor bool
	why        string // Decision.Waiting
}

// heard is a request of a member.
type heard struct {
	run    int // of its process
	number uint64
}

// request is what is answered after a round; f gets when its nonce was sent.
type request struct {
	f func(sent time.Time)
}

// round is one of S1.
type round struct {
	sent    time.Time
	echoes  map[string]bool
	batch   []request
	expired bool
}

func (m *member) beginLeadership(term uint64) {
	m.lease = leading{
		grantor: lease.NewGrantor(length, term, m.raft.elected),
		reports: map[string]cluster.Reported{}, heard: map[string]heard{}, asked: map[string]time.Time{},
	}
	if m.sim.mutant == noWaitAfterElection {
		m.lease.grantor = lease.NewGrantor(length, term, m.raft.elected.Add(-time.Hour))
	}
	m.sim.trace("%s: its leadership begins, term %d", m.name, term)
	g := m.lease.grantor
	var tick func()
	tick = func() {
		if m.lease.grantor == g {
			m.reconcile()
			m.in(reconcileEvery, tick)
		}
	}
	tick()
}

func (m *member) endLeadership() {
	m.lease = leading{}
	m.raft.proposals = nil
}

// request comes in from a member that wants its lease for longer, with its report.
func (m *member) request(from *member, run int, number uint64, report cluster.Report, reply func(lease.Grant)) {
	l := &m.lease
	if !m.leads() || l.grantor == nil {
		return
	}
	h := l.heard[from.name]
	if run < h.run || run == h.run && number <= h.number {
		return // overtaken by a later one
	}
	l.heard[from.name] = heard{run, number}
	l.reports[from.name] = cluster.Reported{Report: report, At: m.clock()}
	l.grantor.Acknowledge(from.name, report.Barred)
	m.lookSoon()
	m.serve(func(sent time.Time) {
		if l.grantor == nil || l.heard[from.name] != (heard{run, number}) {
			return
		}
		state, now, g := m.state, m.clock(), l.grantor
		if state.Epoch < report.Epoch {
			return // behind its own log
		}
		m.soon(func() {
			if l.grantor != g || g == nil {
				return
			}
			if grant, err := g.Grant(from.name, state, sent, now); err == nil {
				reply(grant)
			}
		})
	})
}

// serve calls f when a round that covers it has passed.
func (m *member) serve(f func(sent time.Time)) {
	l := &m.lease
	if m.sim.mutant == grantWithoutRound {
		f(m.clock())
		return
	}
	l.waiting = append(l.waiting, request{f})
	if l.round == nil {
		m.beginRound()
	}
}

// beginRound sends a fresh nonce to every voter.
func (m *member) beginRound() {
	l, id, term := &m.lease, m.raft.id, m.raft.term
	r := &round{sent: m.clock(), echoes: map[string]bool{id: true}, batch: l.waiting}
	l.round, l.waiting = r, nil
	for _, voter := range m.raft.voters() {
		if voter == id {
			continue
		}
		m.send(voter, func(to *member) {
			if to.raft.term > term {
				return
			}
			to.send(id, func(m *member) {
				r.echoes[voter] = true
				m.roundEnds(r)
			})
		})
	}
	m.in(roundTimeout, func() {
		r.expired = true
		m.roundEnds(r)
	})
	m.roundEnds(r)
}

func (m *member) roundEnds(r *round) {
	l := &m.lease
	passed := m.isMajority(func(id string) bool { return r.echoes[id] })
	if l.round != r || !passed && !r.expired {
		return
	}
	l.round = nil
	if passed {
		for _, q := range r.batch {
			q.f(r.sent)
		}
	}
	if len(l.waiting) > 0 && l.round == nil {
		m.beginRound()
	}
}

// confirm tells an agent that this member still leads, and at which epoch (S3).
func (m *member) confirm(reply func(epoch uint64)) {
	if m.leads() && m.lease.grantor != nil {
		m.serve(func(time.Time) { reply(m.state.Epoch) })
	}
}

// lookSoon has the leader look again because something has changed.
func (m *member) lookSoon() {
	l := &m.lease
	if l.lookingFor || l.grantor == nil {
		return
	}
	l.lookingFor = true
	g := l.grantor
	m.in(max(0, reconcileGap-m.clock().Sub(l.looked)), func() {
		if l.grantor == g {
			l.lookingFor = false
			m.reconcile()
		}
	})
}

// reconcile looks once, as failover.Reconciler does.
func (m *member) reconcile() {
	l := &m.lease
	if l.proposing || l.grantor == nil {
		return
	}
	l.looked = m.clock()
	in := m.sim.mutant.input(m.input())
	d := m.sim.mutant.decision(in, failover.Decide(in))
	if l.why != d.Waiting && d.Waiting != "" {
		m.sim.trace("%s: waiting: %s", m.name, d.Waiting)
	}
	l.why = d.Waiting
	for _, b := range d.Ask {
		if at, ok := l.asked[b]; !ok || m.clock().Sub(at) > askEvery {
			l.asked[b] = m.clock()
			m.ask(b)
		}
	}
	m.sim.assertDecision(m, d.Commands)
	m.proposeAll(d.Commands)
}

func (m *member) input() failover.Input {
	l := &m.lease
	in := failover.Input{
		Now: m.clock(), Since: m.raft.elected, Known: m.known, Self: m.name,
		State: m.state, Reports: l.reports,
		Backends: m.sim.specs(),
		Mode:     failover.ModeManaged, Retries: healthRetries, Interval: healthInterval, Timeout: healthTimeout,
		StartWait: 10 * time.Second, RestartWait: 2 * time.Second, PromoteWait: 5 * time.Second,
		StopWait: 4 * time.Second, Drain: 500 * time.Millisecond, SlotKeep: 1 << 40,
	}
	for _, id := range m.raft.voters() {
		in.Voters = append(in.Voters, name(id))
	}
	slices.Sort(in.Voters)
	if o := m.state.Operation; o.Barred() {
		in.Barred, _ = l.grantor.Barred(o, m.clock())
		in.Barred = in.Barred || m.sim.mutant == noBarrier
	}
	return in
}

// proposeAll proposes one after the other, each when the one before is applied.
func (m *member) proposeAll(all []cluster.Command) {
	l := &m.lease
	if len(all) == 0 {
		return
	}
	g := l.grantor
	l.proposing = true
	m.propose(&all[0], nil, func(_ *cluster.State, err error) {
		if l.grantor != g {
			return
		}
		l.proposing = false
		if err == nil {
			m.proposeAll(all[1:])
		}
		m.lookSoon()
	})
}

// ask has every member look at a backend now.
func (m *member) ask(backend string) {
	for _, to := range m.sim.members {
		m.sim.send(m.host, to.host, func() {
			to.guard(func() { to.probe(m.sim.server(backend), to.nudge) })()
		})
	}
}
