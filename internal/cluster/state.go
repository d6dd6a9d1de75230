package cluster

import "time"

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

// State is the agreed truth about the cluster. It is immutable: Apply makes a new one.
type State struct {
	Epoch    uint64    `json:"epoch"`  // raised by every command that changed something
	Format   int       `json:"format"` // level of the encoding
	Backends []Backend `json:"backends"`
	Primary  string    `json:"primary,omitempty"` // name of the backend that takes writes; "" none
	Timeline uint32    `json:"timeline,omitempty"`
	SystemID uint64    `json:"system_id,omitempty"`
	Events   []Event   `json:"events,omitempty"` // the last ones, oldest first
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
