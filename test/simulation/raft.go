package simulation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	heartbeatEvery  = 60 * time.Millisecond
	electionTimeout = 200 * time.Millisecond
	commitWithin    = 2 * time.Second // or the leader exits
)

// entry is one of the log. Entries are shared by all logs and never change, so
// that equal pointers are equal entries.
type entry struct {
	number uint64
	term   uint64
	cmd    *cluster.Command
	voters []string // in force from this entry on, also where it is not about them
	change bool     // it is about the voters
}

// disk is what a member's raft keeps: the id, which a wiped disk changes, too.
type disk struct {
	id    string // name#incarnation
	term  uint64
	voted string
	log   []*entry
	// snapshot is how many entries the state has that a new process starts with.
	snapshot int
}

// raft is a member's part in the log, as the thesis has it, but that the whole log
// is sent each time.
type raft struct {
	disk
	leader    string // id; "" unknown
	heard     time.Time
	patience  time.Duration
	commit    int
	applied   int
	applying  bool
	votes     map[string]bool
	preVotes  map[string]bool
	match     map[string]int
	answered  map[string]time.Time // of followers, by the leader's clock
	elected   time.Time
	proposals map[uint64]func(*cluster.State, error) // by number
}

func name(id string) string { n, _, _ := strings.Cut(id, "#"); return n }

func (d *disk) voters() []string {
	if len(d.log) == 0 {
		return nil
	}
	return d.log[len(d.log)-1].voters
}

func (d *disk) lastTerm() uint64 {
	if len(d.log) == 0 {
		return 0
	}
	return d.log[len(d.log)-1].term
}

func (m *member) leads() bool { return m.raft.leader == m.raft.id }

// bootstrap gives all members the first entry.
func (s *sim) bootstrap() {
	var ids []string
	for _, m := range s.members {
		ids = append(ids, m.raft.id)
	}
	first := &entry{number: 0, voters: ids, change: true}
	s.commitTo([]*entry{first})
	for _, m := range s.members {
		m.raft.log = []*entry{first}
		m.start()
	}
}

// send sends to a member whose id is known; one with another disk is not it.
func (m *member) send(id string, f func(to *member)) {
	for _, to := range m.sim.members {
		if to.name != name(id) {
			continue
		}
		m.sim.send(m.host, to.host, func() {
			to.guard(func() {
				if to.raft.id == id {
					f(to)
				}
			})()
		})
	}
}

// startRaft begins the loops of the process.
func (m *member) startRaft() {
	r := &m.raft
	m.raft = raft{disk: r.disk, heard: m.clock(), commit: r.snapshot, applied: r.snapshot}
	m.drawPatience()
	m.every(heartbeatEvery, m.tickRaft)
}

func (m *member) drawPatience() {
	m.raft.patience = electionTimeout + m.sim.between(0, electionTimeout)
}

func (m *member) tickRaft() {
	r := &m.raft
	now := m.clock()
	if m.leads() {
		if !m.isMajority(func(id string) bool { return id == r.id || now.Sub(r.answered[id]) < m.sim.shape.belief+heartbeatEvery }) {
			m.sim.trace("%s: leads no more, term %d", m.name, r.term)
			m.follow(r.term, "")
			return
		}
		m.replicate()
		return
	}
	if slices.Contains(r.voters(), r.id) && now.Sub(r.heard) > r.patience {
		m.campaign()
	} else if !slices.Contains(r.voters(), r.id) {
		m.askToJoin()
	}
}

func (m *member) isMajority(of func(id string) bool) bool {
	n := 0
	for _, id := range m.raft.voters() {
		if of(id) {
			n++
		}
	}
	return n > len(m.raft.voters())/2
}

// follow steps down, or back.
func (m *member) follow(term uint64, leader string) {
	r := &m.raft
	if term > r.term {
		r.term, r.voted = term, ""
	}
	if m.leads() {
		m.endLeadership()
	}
	r.leader = leader
	r.votes, r.preVotes = nil, nil
}

// campaign asks whether it would be elected (pre-vote).
func (m *member) campaign() {
	r := &m.raft
	m.follow(r.term, "")
	m.drawPatience()
	r.heard = m.clock()
	r.preVotes = map[string]bool{r.id: true}
	m.askVotes(r.term+1, true)
	m.counted(r.term+1, true)
}

func (m *member) elect() {
	r := &m.raft
	r.term++
	r.voted, r.preVotes = r.id, nil
	r.votes = map[string]bool{r.id: true}
	m.askVotes(r.term, false)
	m.counted(r.term, false)
}

func (m *member) askVotes(term uint64, pre bool) {
	r := &m.raft
	id, last, size := r.id, r.lastTerm(), len(r.log)
	for _, voter := range r.voters() {
		if voter == id {
			continue
		}
		m.send(voter, func(to *member) {
			if to.vote(id, term, last, size, pre) {
				to.send(id, func(m *member) {
					votes := m.raft.votes
					if pre {
						votes = m.raft.preVotes
					}
					if votes != nil {
						votes[voter] = true
						m.counted(term, pre)
					}
				})
			}
		})
	}
}

// vote answers a candidate; one who hears a leader knows better.
func (m *member) vote(candidate string, term, last uint64, size int, pre bool) bool {
	r := &m.raft
	if m.leads() || r.leader != "" && m.clock().Sub(r.heard) < electionTimeout {
		return false
	}
	if last < r.lastTerm() || last == r.lastTerm() && size < len(r.log) || term < r.term {
		return false
	}
	if pre {
		return term > r.term
	}
	if term > r.term {
		m.follow(term, "")
	}
	if r.voted != "" && r.voted != candidate {
		return false
	}
	r.voted, r.heard = candidate, m.clock()
	return true
}

func (m *member) counted(term uint64, pre bool) {
	r := &m.raft
	switch {
	case pre && term == r.term+1 && m.isMajority(func(id string) bool { return r.preVotes[id] }):
		m.elect()
	case !pre && term == r.term && !m.leads() && m.isMajority(func(id string) bool { return r.votes[id] }):
		m.lead()
	}
}

// lead begins a leadership with an entry of its term: what is committed before it
// is known when it is.
func (m *member) lead() {
	r := &m.raft
	r.leader, r.votes, r.elected = r.id, nil, m.clock()
	r.match, r.answered = map[string]int{}, map[string]time.Time{}
	for _, id := range r.voters() {
		r.answered[id] = m.clock()
	}
	r.proposals = map[uint64]func(*cluster.State, error){}
	m.sim.trace("%s: elected, term %d", m.name, r.term)
	m.sim.truth.count["leaders"]++
	term := r.term
	if m.sim.mutant == grantBeforeBarrier {
		m.beginLeadership(term)
	}
	m.propose(nil, nil, func(*cluster.State, error) {
		if m.leads() && r.term == term && m.lease.grantor == nil {
			m.beginLeadership(term)
		}
	})
}

// propose appends an entry; done is called when it is applied here. If it is not
// committed in time the process exits: its disk may hang.
func (m *member) propose(c *cluster.Command, voters []string, done func(*cluster.State, error)) {
	r := &m.raft
	m.sim.entries++
	e := &entry{number: m.sim.entries, term: r.term, cmd: c, voters: r.voters()}
	if voters != nil {
		e.voters, e.change = voters, true
	}
	r.log = append(slices.Clip(r.log), e)
	r.proposals[e.number] = done
	term := r.term
	m.in(commitWithin, func() {
		if m.leads() && r.term == term && r.proposals[e.number] != nil {
			m.sim.trace("%s: entry %d is not committed in time", m.name, e.number)
			m.crash()
			m.sim.after(m.sim.between(100*time.Millisecond, time.Second), m.restart)
		}
	})
	m.replicate()
}

// replicate sends the log to all, which is a heartbeat too.
func (m *member) replicate() {
	r := &m.raft
	id, term, log, commit := r.id, r.term, slices.Clip(r.log), r.commit
	r.match[id] = len(log)
	m.advanceCommit()
	for _, voter := range r.voters() {
		if voter == id {
			continue
		}
		m.send(voter, func(to *member) {
			newest, ok := to.appendEntries(id, term, log, commit)
			// The answer goes out when it is on the disk.
			to.in(to.sim.between(0, 3*time.Millisecond), func() {
				to.send(id, func(m *member) { m.appended(voter, term, newest, ok, len(log)) })
			})
		})
	}
}

func (m *member) appendEntries(leader string, term uint64, log []*entry, commit int) (newest uint64, ok bool) {
	r := &m.raft
	if term < r.term {
		return r.term, false
	}
	if term > r.term || r.leader != leader {
		m.follow(term, leader)
	}
	r.heard = m.clock()
	if n := len(log); n > len(r.log) || r.log[n-1] != log[n-1] {
		r.log = log
	}
	m.committed(min(commit, len(log)))
	return r.term, true
}

func (m *member) appended(voter string, term, newest uint64, ok bool, size int) {
	r := &m.raft
	if newest > r.term {
		m.follow(newest, "")
	}
	if !ok || !m.leads() || r.term != term {
		return
	}
	r.answered[voter] = m.clock()
	r.match[voter] = max(r.match[voter], size)
	m.advanceCommit()
}

// advanceCommit counts copies of the newest entry of the own term that a majority
// has (thesis, 3.6.2).
func (m *member) advanceCommit() {
	r := &m.raft
	for n := len(r.log); n > r.commit && r.log[n-1].term == r.term; n-- {
		if m.isMajority(func(id string) bool { return r.match[id] >= n }) {
			m.sim.commitTo(r.log[:n])
			m.committed(n)
			return
		}
	}
}

// committed has the entries up to n applied, by and by.
func (m *member) committed(n int) {
	r := &m.raft
	r.commit = max(r.commit, n)
	if r.applied >= r.commit || r.applying {
		return
	}
	r.applying = true
	late := m.sim.between(0, 2*time.Millisecond)
	if m.sim.now < m.sim.healed && m.sim.chance(m.sim.shape.lagging) {
		late = m.sim.between(0, 1500*time.Millisecond)
	}
	m.in(late, func() {
		r.applying = false
		for r.applied < r.commit {
			r.applied++
			if done := r.proposals[r.log[r.applied-1].number]; done != nil {
				delete(r.proposals, r.log[r.applied-1].number)
				prev := m.sim.states[r.applied-1]
				if _, err := m.sim.outcome(prev, r.log[r.applied-1]); err != nil {
					done(prev, err)
				} else {
					done(m.sim.states[r.applied], nil)
				}
			}
		}
		m.applied(m.sim.states[r.applied])
	})
}

// outcome is the state after an entry.
func (s *sim) outcome(prev *cluster.State, e *entry) (*cluster.State, error) {
	if e.cmd == nil {
		return prev, nil
	}
	next, err := cluster.Apply(*prev, *e.cmd)
	if err != nil || next.Epoch == prev.Epoch {
		return prev, err
	}
	return &next, nil
}

// commitTo notes what is committed for ever.
func (s *sim) commitTo(log []*entry) {
	for i, e := range log {
		if i < len(s.committed) {
			if s.committed[i] != e {
				s.fail("raft: two entries %d are committed", i)
				return
			}
			continue
		}
		prev := s.latest()
		next, err := s.outcome(prev, e)
		s.committed, s.states, s.changedAt = append(s.committed, e), append(s.states, next), append(s.changedAt, s.now)
		switch {
		case err != nil:
			s.trace("refused: %v", err)
		case e.cmd != nil && next != prev:
			s.trace("epoch %d: %s", next.Epoch, e.cmd)
			s.assertChange(prev, next, e.cmd)
		case e.change:
			s.trace("voters %v", e.voters)
		}
	}
}

// askToJoin tells everybody that a member with an empty disk is there.
func (m *member) askToJoin() {
	id := m.raft.id
	for _, to := range m.sim.members {
		if to != m {
			m.sim.send(m.host, to.host, func() { to.guard(func() { to.admit(id) })() })
		}
	}
}

// admit replaces the old self of a member that lost its disk, one step at a time.
func (m *member) admit(id string) {
	r := &m.raft
	if !m.leads() || m.lease.grantor == nil || slices.ContainsFunc(r.voters(), func(v string) bool { return name(v) == name(id) && v >= id }) {
		return // it is one, or its successor is
	}
	for i := len(r.log); i > r.commit; i-- {
		if r.log[i-1].change {
			return
		}
	}
	voters := slices.Clone(r.voters())
	if i := slices.IndexFunc(voters, func(v string) bool { return name(v) == name(id) }); i >= 0 {
		voters = slices.Delete(voters, i, i+1)
	} else {
		voters = append(voters, id)
	}
	m.propose(nil, voters, func(*cluster.State, error) {})
}

// newID returns the id of a member after its disk was lost.
func newID(m string, incarnation int) string { return fmt.Sprintf("%s#%02d", m, incarnation) }
