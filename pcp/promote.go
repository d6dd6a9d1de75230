package pcp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// promote is a switchover. It waits until the operation has ended.
func (s *Server) promote(ctx context.Context, r *request) error {
	o, err := r.node()
	if err != nil {
		return err
	}
	if err := s.mayPromote(ctx, o.Node); err != nil {
		return err
	}
	state := s.deps.Cluster.State()
	next, _, err := s.propose(ctx, r, cluster.Command{
		Kind: cluster.KindBegin, Backend: state.Primary, Operation: cluster.Switchover, Target: o.Node,
	})
	if err != nil {
		return err
	}
	op := next.Operation
	if op == nil {
		return errors.New("BUG: a switchover has begun and is not under way")
	}
	limit := time.Now().Add(promoteWait)
	send := s.sendEvents(r, op.ID-1)
	return s.follow(ctx, r, func(state *cluster.State) (bool, error) {
		if _, err := send(state); err != nil {
			return true, err
		}
		over, err := switched(state, op.ID, o.Node)
		switch {
		case err != nil:
			return true, err
		case over:
			return true, r.out.end("%s is the primary on timeline %d", o.Node, state.Timeline)
		case time.Now().After(limit):
			return true, fmt.Errorf("the switchover has not ended after %v and goes on; see events", promoteWait)
		}
		return false, nil
	})
}

// mayPromote refuses what nobody could carry out. What the State allows is left to
// cluster.Apply.
func (s *Server) mayPromote(ctx context.Context, node string) error {
	if !s.deps.Managed {
		return conflict("pgproxy promotes only with failover.mode: managed")
	}
	state := s.deps.Cluster.State()
	old, target := state.Backend(state.Primary), state.Backend(node)
	switch {
	case target == nil:
		return conflict("no backend %q", node)
	case state.Operation != nil:
		return conflict("a %s is under way", state.Operation.Kind)
	case old == nil:
		return conflict("there is no primary to take over from")
	case old == target:
		return conflict("%s is the primary already", node)
	}
	return s.agents(ctx, old, target)
}

// agents refuses when one of the backends has no agent that answers.
func (s *Server) agents(ctx context.Context, backends ...*cluster.Backend) error {
	for _, b := range backends {
		if b.Agent == "" {
			return conflict("%s has no agent", b.Name)
		}
	}
	late := time.NewTimer(reportWait)
	defer late.Stop()
	again := time.NewTicker(reportWait / 20)
	defer again.Stop()
	for {
		reports, err := s.reports(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(backends, func(b *cluster.Backend) bool { return localOf(reports, b.Agent, b.Name) == nil })
		if i < 0 {
			return nil
		}
		select {
		case <-again.C:
		case <-late.C:
			return conflict("the agent of %s, member %s, does not report", backends[i].Name, backends[i].Agent)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reportWait is how long the agents are awaited: a leader that has just been elected
// has not heard of all members yet.
const reportWait = 2 * time.Second

// switched tells whether a switchover has ended, and why not well.
func switched(s *cluster.State, id uint64, target string) (over bool, err error) {
	if s.Epoch < id || s.Operation != nil && s.Operation.ID == id {
		return false, nil
	}
	var why string
	for _, e := range since(s, id) {
		switch {
		case strings.HasPrefix(e.Text, "switchover: restart"), strings.Contains(e.Text, "given up"),
			strings.HasPrefix(e.Text, "promotion abandoned"):
			why = e.Text
		case strings.HasPrefix(e.Text, "primary on timeline"):
			if e.Backend == target {
				return true, nil
			}
			if why == "" {
				why = e.Text
			}
			return true, conflict("the switchover to %s has failed, %s is the primary: %s", target, e.Backend, why)
		}
	}
	switch {
	case why != "":
		return true, conflict("the switchover to %s has failed: %s", target, why)
	case s.Primary == target:
		return true, nil
	}
	return true, conflict("the switchover to %s has ended, the primary is %q", target, s.Primary)
}
