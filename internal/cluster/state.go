package cluster

import (
	"fmt"
	"time"
)

// Backend is one PostgreSQL server of the cluster.
type Backend struct {
	Name           string    `json:"name"`
	Address        string    `json:"address"` // host:port, or a socket directory and :port
	Weight         int       `json:"weight"`
	Agent          string    `json:"agent,omitempty"`
	MaxConnections int       `json:"max_connections,omitempty"` // of one member on that server; 0: no bound
	Status         Status    `json:"status"`
	Role           Role      `json:"role"`
	Rebuild        bool      `json:"rebuild,omitempty"`  // never routed to, comes back only by a base backup
	Recovery       *Recovery `json:"recovery,omitempty"` // of StatusRecovering only; never changed in place
	Since          time.Time `json:"since"`              // when Status or Role last changed
}

// Format is the highest level of the encoding of State and Command that this
// program reads. A State is written at its own level, which KindFormat raises
// when every member's program reads the higher one.
const Format = 2

// pauseFormat is the first level that has State.Paused.
const pauseFormat = 2

// MaxEvents bounds State.Events.
const MaxEvents = 100

// State is the agreed truth about the cluster. It is immutable: Apply makes a new one.
type State struct {
	Epoch    uint64    `json:"epoch"`  // raised by every command that changed something
	Format   int       `json:"format"` // level of the encoding
	Backends []Backend `json:"backends"`
	Primary  string    `json:"primary,omitempty"` // name of the backend that takes writes; "" none
	// Former is the last primary while there is none. Of all servers it alone may
	// be the primary again on the recorded timeline.
	Former   string `json:"former,omitempty"`
	Timeline uint32 `json:"timeline,omitempty"` // of Primary or Former; never goes back
	// History is that of Timeline, oldest first; nil where nobody could read it.
	History     []Fork     `json:"history,omitempty"`
	Reigns      []Reign    `json:"reigns,omitempty"`    // the last MaxReigns, oldest first
	SystemID    uint64     `json:"system_id,omitempty"` // of all backends; 0 until a primary was adopted
	Sync        Sync       `json:"sync,omitzero"`
	Operation   *Operation `json:"operation,omitempty"` // under way; never changed in place
	Addresses   []Address  `json:"addresses,omitempty"`
	FailoverOff bool       `json:"failover_off,omitempty"` // an operator wants no failover
	Paused      *Pause     `json:"paused,omitempty"`       // an operator has the primary rest; never changed in place
	Events      []Event    `json:"events,omitempty"`       // the last MaxEvents, oldest first
}

// Address returns the virtual address of that text, or nil.
func (s *State) Address(address string) *Address {
	for i := range s.Addresses {
		if s.Addresses[i].Address == address {
			return &s.Addresses[i]
		}
	}
	return nil
}

// Of returns the backend whose agent is that member, or nil.
func (s *State) Of(agent string) *Backend {
	for i := range s.Backends {
		if s.Backends[i].Agent == agent && agent != "" {
			return &s.Backends[i]
		}
	}
	return nil
}

// Ancestor tells whether a server on that timeline with its log ending at end has
// a history that the recorded timeline continues: it can follow the primary
// without a rewind.
func (s *State) Ancestor(timeline uint32, end LSN) bool {
	if timeline == s.Timeline {
		return true
	}
	for _, f := range s.History {
		if f.Timeline == timeline {
			return end <= f.End
		}
	}
	return false
}

// Pause says since when nothing new begins on the primary by an operator's order, and
// who ordered it.
type Pause struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// Holds tells whether members let nothing new begin on the primary, although there is
// one: a switchover waits for what runs there, or an operator has paused it.
func (s *State) Holds() bool {
	return s.Paused != nil || s.Operation != nil && s.Operation.Phase == PhaseDrain
}

// Event is one line of the cluster's history.
type Event struct {
	At      time.Time `json:"at"`
	Epoch   uint64    `json:"epoch"`
	Backend string    `json:"backend,omitempty"`
	Text    string    `json:"text"`
}

// Backend returns the backend of that name, or nil.
func (s *State) Backend(name string) *Backend {
	for i := range s.Backends {
		if s.Backends[i].Name == name {
			return &s.Backends[i]
		}
	}
	return nil
}

// Usurped tells whether a server that was a primary on that timeline was it beside the
// recorded one: what it wrote then has positions that the other's writes have too, so
// that no comparison of histories can tell them apart (S6).
func (s *State) Usurped(timeline uint32, backend string) bool {
	for _, r := range s.Reigns {
		if r.Timeline == timeline {
			return r.Backend != backend
		}
	}
	return false
}

// Continues is Ancestor for a server whose own history is known: two timelines may
// have the same number, and are the same one only where all before them were left
// at the same positions.
func (s *State) Continues(timeline uint32, end LSN, history []Fork) bool {
	return s.Ancestor(timeline, end) && !s.Differs(history)
}

// Differs tells whether a history left a timeline at another position than the
// recorded one.
func (s *State) Differs(history []Fork) bool {
	for _, f := range history {
		for _, own := range s.History {
			if f.Timeline == own.Timeline && f.End != own.End {
				return true
			}
		}
	}
	return false
}

// check returns the first invariant that s breaks:
//  1. the names of the backends are unique and not empty
//  2. Primary is "" or names the only backend with RolePrimary, which is not
//     Rebuild, Detached or Recovering
//  3. Former is "" when there is a primary, else "" or the name of a backend
//  4. a primary has a timeline and a system identifier
//  5. there are at most MaxEvents events, of rising epochs not above Epoch
//  6. from the barrier of an operation on there is no primary, and its candidate
//     is a backend that is not Rebuild
//  7. the virtual addresses are unique
//  8. a backend has a Recovery exactly while it is recovering
//  9. an operation's old primary is Primary before its barrier and Former behind it
func (s *State) check() error {
	names := make(map[string]bool, len(s.Backends))
	for i := range s.Backends {
		b := &s.Backends[i]
		if b.Name == "" || names[b.Name] {
			return fmt.Errorf("backend %d: name %q is empty or not unique", i, b.Name)
		}
		names[b.Name] = true
		if (b.Role == RolePrimary) != (b.Name == s.Primary) {
			return fmt.Errorf("backend %s is %s, the primary is %q", b.Name, b.Role, s.Primary)
		}
		if b.Role == RolePrimary && (b.Rebuild || b.Status == StatusDetached || b.Status == StatusRecovering) {
			return fmt.Errorf("primary %s has status %s, rebuild %t", b.Name, b.Status, b.Rebuild)
		}
	}
	if err := s.checkRecoveries(); err != nil {
		return err
	}
	if s.Primary != "" && !names[s.Primary] {
		return fmt.Errorf("primary %s is not a backend", s.Primary)
	}
	if s.Former != "" && (s.Primary != "" || !names[s.Former]) {
		return fmt.Errorf("former primary %s is not a backend, or the primary is %q", s.Former, s.Primary)
	}
	if s.Primary != "" && (s.Timeline == 0 || s.SystemID == 0) {
		return fmt.Errorf("primary %s has timeline %d, system identifier %d", s.Primary, s.Timeline, s.SystemID)
	}
	if err := s.checkOperation(); err != nil {
		return err
	}
	addresses := make(map[string]bool, len(s.Addresses))
	for _, a := range s.Addresses {
		if a.Address == "" || addresses[a.Address] {
			return fmt.Errorf("address %q is empty or not unique", a.Address)
		}
		addresses[a.Address] = true
	}
	if len(s.Events) > MaxEvents {
		return fmt.Errorf("%d events", len(s.Events))
	}
	var last uint64
	for _, e := range s.Events {
		if e.Epoch < last || e.Epoch > s.Epoch {
			return fmt.Errorf("event of epoch %d after %d, epoch of the state %d", e.Epoch, last, s.Epoch)
		}
		last = e.Epoch
	}
	return nil
}

func (s *State) checkRecoveries() error {
	for i := range s.Backends {
		if b := &s.Backends[i]; (b.Status == StatusRecovering) != (b.Recovery != nil) {
			return fmt.Errorf("backend %s is %s, its recovery %+v", b.Name, b.Status, b.Recovery)
		}
	}
	return nil
}

func (s *State) checkOperation() error {
	o := s.Operation
	if o == nil {
		return nil
	}
	switch {
	case o.ID == 0 || o.ID > s.Epoch:
		return fmt.Errorf("operation %d, epoch of the state %d", o.ID, s.Epoch)
	case o.Kind == OperationUnknown || o.Phase == PhaseUnknown:
		return fmt.Errorf("operation %d is a %s in phase %s", o.ID, o.Kind, o.Phase)
	case s.Backend(o.Old) == nil:
		return fmt.Errorf("operation %d: old primary %q is not a backend", o.ID, o.Old)
	case o.Barred() != (s.Primary == ""):
		return fmt.Errorf("operation %d in phase %s, the primary is %q", o.ID, o.Phase, s.Primary)
	case o.Old != s.Primary+s.Former: // never both
		return fmt.Errorf("operation %d: old primary %s, but %q is or was the last", o.ID, o.Old, s.Primary+s.Former)
	case (o.Phase == PhasePromote) != (o.Candidate != ""):
		return fmt.Errorf("operation %d in phase %s, the candidate is %q", o.ID, o.Phase, o.Candidate)
	case o.Candidate != "":
		if c := s.Backend(o.Candidate); c == nil || c.Rebuild {
			return fmt.Errorf("operation %d: candidate %q cannot be one", o.ID, o.Candidate)
		}
	}
	return nil
}
