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
	Rebuild        bool      `json:"rebuild,omitempty"` // never routed to, comes back only by a base backup
	Since          time.Time `json:"since"`             // when Status or Role last changed
}

// Format is the level of the encoding of State and Command that this program
// writes, and the highest that it reads.
const Format = 1

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
	Former   string  `json:"former,omitempty"`
	Timeline uint32  `json:"timeline,omitempty"`  // of Primary or Former; never goes back
	SystemID uint64  `json:"system_id,omitempty"` // of all backends; 0 until a primary was adopted
	Events   []Event `json:"events,omitempty"`    // the last MaxEvents, oldest first
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

// check returns the first invariant that s breaks:
//  1. the names of the backends are unique and not empty
//  2. Primary is "" or names the only backend with RolePrimary, which is not
//     Rebuild, Detached or Recovering
//  3. Former is "" when there is a primary, else "" or the name of a backend
//  4. a primary has a timeline and a system identifier
//  5. there are at most MaxEvents events, of rising epochs not above Epoch
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
	if s.Primary != "" && !names[s.Primary] {
		return fmt.Errorf("primary %s is not a backend", s.Primary)
	}
	if s.Former != "" && (s.Primary != "" || !names[s.Former]) {
		return fmt.Errorf("former primary %s is not a backend, or the primary is %q", s.Former, s.Primary)
	}
	if s.Primary != "" && (s.Timeline == 0 || s.SystemID == 0) {
		return fmt.Errorf("primary %s has timeline %d, system identifier %d", s.Primary, s.Timeline, s.SystemID)
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
