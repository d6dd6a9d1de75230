package pcp

import (
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Node is one backend as operators see it: what the cluster has agreed on, and
// what this member observed last.
type Node struct {
	Name             string    `json:"name"`
	Address          string    `json:"address"`
	Status           string    `json:"status"` // of the State; quarantine also where this member alone does not reach it
	Role             string    `json:"role"`
	Weight           int       `json:"weight"`
	Timeline         *uint32   `json:"timeline"`          // null: not known
	LagBytes         *uint64   `json:"lag_bytes"`         // null: not known, or on another timeline; 0 of the primary
	LagSeconds       *float64  `json:"lag_seconds"`       // as LagBytes; an upper bound of the age of what is read there
	ReplicationState string    `json:"replication_state"` // pg_stat_replication.state; "" none
	SyncState        string    `json:"sync_state"`        // pg_stat_replication.sync_state; "" none
	Since            time.Time `json:"since"`             // when status or role last changed in the State
}

// Nodes returns the backends in the order of the configuration.
func Nodes(s *cluster.State, observed map[string]cluster.Observation) []Node {
	nodes := make([]Node, len(s.Backends))
	for i := range s.Backends {
		b := &s.Backends[i]
		o, seen := observed[b.Name]
		seen = seen && o.Address == b.Address && !o.At.IsZero()
		n := Node{
			Name: b.Name, Address: b.Address, Status: b.Status.String(), Role: b.Role.String(),
			Weight: b.Weight, Since: b.Since,
		}
		if seen && !o.Alive && b.Status == cluster.StatusUp {
			n.Status = cluster.StatusQuarantined.String()
		}
		if seen && o.Ready {
			n.observe(s, b, o)
		}
		nodes[i] = n
	}
	return nodes
}

// observe fills in what a server that answers says.
func (n *Node) observe(s *cluster.State, b *cluster.Backend, o cluster.Observation) {
	if o.Timeline != 0 {
		n.Timeline = &o.Timeline
	}
	switch {
	case b.Role == cluster.RolePrimary:
		n.LagBytes, n.LagSeconds = new(uint64), new(float64)
	case o.Role == cluster.RoleStandby && o.Timeline == s.Timeline && s.Primary != "":
		n.LagBytes, n.LagSeconds = &o.LagBytes, &o.LagSeconds
	}
	if b.Role != cluster.RolePrimary {
		n.ReplicationState, n.SyncState = o.ReplicaState, o.SyncState
	}
}
