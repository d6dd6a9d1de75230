package pcp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Progress is how far a recovery has come.
type Progress struct {
	Task     string   `json:"task"`     // what the agent does; "" it has not begun
	Progress *float64 `json:"progress"` // 0 to 1; null: not known
	Detail   string   `json:"detail"`
}

// recover has a backend rebuilt, and follows until that is done or has failed.
func (s *Server) recover(ctx context.Context, r *request) error {
	o, err := r.node()
	if err != nil {
		return err
	}
	if !s.deps.Managed {
		return conflict("pgproxy rebuilds only with failover.mode: managed")
	}
	next, _, err := s.proposeRecovery(ctx, r, o)
	if err != nil {
		return err
	}
	b := next.Backend(o.Node)
	if b == nil || b.Recovery == nil {
		return fmt.Errorf("BUG: the recovery of %s has begun and is not under way", o.Node)
	}
	id, agent := b.Recovery.ID, b.Agent
	var last []byte
	return s.follow(ctx, r, func(state *cluster.State) (bool, error) {
		over, err := recovered(state, id, o.Node)
		switch {
		case err != nil:
			return true, err
		case over:
			return true, r.out.end("%s is recovered", o.Node)
		}
		reports, err := s.reports(ctx)
		if err != nil {
			return false, nil // a change of the leader; the State will tell
		}
		p := progressOf(localOf(reports, agent, o.Node), id)
		data, err := json.Marshal(p)
		if err != nil || bytes.Equal(data, last) {
			return false, err
		}
		last = data
		return false, r.out.item(p)
	})
}

func (s *Server) proposeRecovery(ctx context.Context, r *request, o nodeOrder) (cluster.State, bool, error) {
	c := cluster.Command{Kind: cluster.KindRecover, Backend: o.Node, InPlace: o.InPlace}
	// The State's objections come first: they are the better reasons.
	state := s.deps.Cluster.State()
	if _, err := cluster.Apply(*state, c); err == nil {
		if err := s.agents(ctx, state.Backend(o.Node)); err != nil {
			return cluster.State{}, false, err
		}
	}
	return s.propose(ctx, r, c)
}

// progressOf says what an agent does of a recovery. An agent that has not taken it
// up yet may report an earlier task.
func progressOf(l *cluster.Local, id uint64) Progress {
	switch {
	case l == nil:
		return Progress{Detail: "the agent does not report"}
	case l.Recovery == id && l.Rebuilt:
		return Progress{Task: "stream", Detail: "waiting until it streams"}
	case l.Task == "":
		return Progress{Detail: "waiting for the agent"}
	}
	return Progress{Task: l.Task, Progress: &l.Progress, Detail: l.Detail}
}

// recovered tells whether a recovery has ended, and why not well.
func recovered(s *cluster.State, id uint64, node string) (over bool, err error) {
	if s.Epoch < id {
		return false, nil
	}
	b := s.Backend(node)
	switch {
	case b == nil:
		return true, conflict("%s was removed from the configuration", node)
	case b.Recovery == nil:
		return true, nil // nothing else ends one
	case b.Recovery.ID != id:
		for _, e := range since(s, id) {
			if why, ok := strings.CutPrefix(e.Text, "recovery failed: "); ok && e.Backend == node {
				return true, conflict("the recovery of %s has failed and another has begun: %s", node, why)
			}
		}
		return true, conflict("another recovery of %s has begun", node)
	case b.Recovery.Failed != "":
		return true, conflict("the recovery of %s has failed: %s", node, b.Recovery.Failed)
	}
	return false, nil
}
