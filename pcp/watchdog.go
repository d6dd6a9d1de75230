package pcp

import (
	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Watchdog is the group of members as operators see it.
type Watchdog struct {
	Leader   string   `json:"leader"` // name of a member; "" none is known
	Term     uint64   `json:"term"`
	Quorum   bool     `json:"quorum"`   // a majority of the voters is connected with the leader
	Failover bool     `json:"failover"` // false: an operator has switched it off
	Paused   *Pause   `json:"paused"`   // null: nothing is
	Members  []Member `json:"members"`
}

// Pause is since when the primary rests, and by whose order.
type Pause = cluster.Pause

// Member is one pgproxy of the watchdog.
type Member struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	State   string   `json:"state"` // leader, follower, joining, lost, not a member; unknown without a leader
	VIP     []string `json:"vip"`   // virtual addresses that the State gives it
	Witness bool     `json:"witness"`
	Differs string   `json:"differs"` // how its configuration file differs from the State; "" it does not
}

// The states of members that orders depend on.
const (
	stateLeader   = "leader"
	stateFollower = "follower"
	stateNone     = "not a member" // it only stands in a configuration file
)

// WatchdogStatus is what the watchdog knows.
type WatchdogStatus struct {
	Leader  string
	Term    uint64
	Quorum  bool
	Members []MemberStatus
}

// MemberStatus is one member, or one that only stands in a configuration file.
type MemberStatus struct {
	Name    string
	Address string
	Witness bool
	State   string // as Member.State
}

// newWatchdog joins what is known about the members.
func newWatchdog(status WatchdogStatus, s *cluster.State, reports map[string]cluster.Reported) Watchdog {
	w := Watchdog{
		Leader: status.Leader, Term: status.Term, Quorum: status.Quorum,
		Failover: !s.FailoverOff, Paused: s.Paused, Members: make([]Member, len(status.Members)),
	}
	for i, m := range status.Members {
		r := reports[m.Name]
		w.Members[i] = Member{
			Name: m.Name, Address: m.Address, State: m.State, VIP: []string{},
			Witness: m.Witness || r.Witness, Differs: r.Differs,
		}
		for _, a := range s.Addresses {
			if a.Holder == m.Name {
				w.Members[i].VIP = append(w.Members[i].VIP, a.Address)
			}
		}
	}
	return w
}
