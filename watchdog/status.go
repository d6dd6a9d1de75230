package watchdog

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Status is the watchdog as the leader sees it, or this member when there is none.
type Status struct {
	Leader  string         `json:"leader"` // "" none
	Term    uint64         `json:"term"`
	Quorum  bool           `json:"quorum"` // a majority is connected
	Members []MemberStatus `json:"members"`
}

// MemberStatus is one member in a Status.
type MemberStatus struct {
	Name    string      `json:"name"`
	Address string      `json:"address"`
	State   MemberState `json:"state"`
	Witness bool        `json:"witness,omitempty"`
}

// MemberState is a word for operators.
type MemberState string

// The states of a member.
const (
	StateLeader   MemberState = "leader"
	StateFollower MemberState = "follower" // it has asked for a lease within L
	StateLost     MemberState = "lost"     // it has not
	StateJoining  MemberState = "joining"  // without a vote yet
	StateNoMember MemberState = "not a member"
	StateUnknown  MemberState = "unknown" // nobody leads who would know
)

// Status returns what the leader says, or, when none answers, what is known here.
func (w *Watchdog) Status(ctx context.Context) Status {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	s, err := ask(ctx, w, "status", struct{}{}, func(_ context.Context, l *leadership) (Status, error) {
		return l.status(), nil
	})
	if err == nil {
		return s
	}
	n := w.node.Load()
	if n == nil {
		return Status{}
	}
	_, id := n.raft.LeaderWithID()
	return w.status(n, nameOf(id), func(string) MemberState { return StateUnknown })
}

func (l *leadership) status() Status {
	now := time.Now()
	return l.w.status(l.n, l.w.deps.Name, func(id string) MemberState {
		l.mu.Lock()
		defer l.mu.Unlock()
		h := l.mu.members[l.w.memberOf(id)]
		if h == nil || h.id != id || now.Sub(h.connected) > l.w.cfg.Lease {
			return StateLost
		}
		return StateFollower
	})
}

// status lists raft's servers and then what only the file has.
func (w *Watchdog) status(n *node, leader string, state func(id string) MemberState) Status {
	s := Status{Leader: leader, Term: n.raft.CurrentTerm(), Quorum: leader != ""}
	listed := map[string]bool{}
	for _, server := range n.servers() {
		name := w.memberOf(string(server.ID))
		_, address := splitAddress(server.Address)
		m := MemberStatus{Name: name, Address: address}
		switch {
		case name == leader:
			m.State = StateLeader
		case server.Suffrage != raft.Voter:
			m.State = StateJoining
		default:
			m.State = state(string(server.ID))
		}
		if c := w.cfg.member(name); c != nil {
			m.Witness = c.Witness
		}
		if r, ok := w.Reports()[name]; ok {
			m.Witness = r.Witness
		}
		listed[name] = true
		s.Members = append(s.Members, m)
	}
	for _, m := range w.cfg.Members {
		if !listed[m.Name] {
			s.Members = append(s.Members, MemberStatus{Name: m.Name, Address: m.Address, State: StateNoMember, Witness: m.Witness})
		}
	}
	slices.SortStableFunc(s.Members, func(a, b MemberStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}
