package pcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Of streams: how often what is not the State is looked at, and how long a stream
// is silent at most.
const (
	lookEvery  = time.Second
	aliveEvery = 5 * time.Second
)

// Progress is how far a recovery has come.
type Progress struct {
	Task     string   `json:"task"`     // what the agent does; "" it has not begun
	Progress *float64 `json:"progress"` // 0 to 1; null: not known
	Detail   string   `json:"detail"`
}

// follow calls look at once, when the State has changed, and every lookEvery,
// until look says that it is over.
func (s *Server) follow(ctx context.Context, r *request, look func(*cluster.State) (over bool, err error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		changed := s.deps.Cluster.Changed()
		if over, err := look(s.deps.Cluster.State()); over || err != nil {
			return err
		}
		if now := time.Now(); now.Sub(last) >= aliveEvery {
			if err := r.out.alive(); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return s.left(ctx, r)
		case <-changed:
		case <-tick.C:
		}
	}
}

// left says why a stream ends before what it follows.
func (s *Server) left(ctx context.Context, r *request) error {
	switch {
	case !errors.Is(context.Cause(ctx), errStopping):
		return errLeft
	case r.Method == http.MethodPost:
		return fmt.Errorf("%s stops; what was ordered goes on", s.deps.Member)
	}
	return fmt.Errorf("%s stops", s.deps.Member)
}

// watchNodes sends the rows when they are others.
func (s *Server) watchNodes(ctx context.Context, r *request) error {
	var last []byte
	return s.follow(ctx, r, func(*cluster.State) (bool, error) {
		rows := s.rows()
		data, err := json.Marshal(rows)
		if err != nil || bytes.Equal(data, last) {
			return false, err
		}
		last = data
		return false, r.out.item(rows)
	})
}

// followEvents sends what happened, and then what happens.
func (s *Server) followEvents(ctx context.Context, r *request) error {
	return s.follow(ctx, r, s.sendEvents(r, 0))
}

// sendEvents returns a look that sends the events after that epoch. All events of
// one epoch come into the State together.
func (s *Server) sendEvents(r *request, after uint64) func(*cluster.State) (bool, error) {
	return func(state *cluster.State) (bool, error) {
		for _, e := range since(state, after) {
			if err := r.out.item(e); err != nil {
				return true, err
			}
			after = e.Epoch
		}
		return false, nil
	}
}

// since returns the events after that epoch.
func since(s *cluster.State, epoch uint64) []cluster.Event {
	for i, e := range s.Events {
		if e.Epoch > epoch {
			return s.Events[i:]
		}
	}
	return nil
}

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
	reports, err := s.reports(ctx)
	if err != nil {
		return err
	}
	for _, b := range backends {
		if localOf(reports, b.Agent, b.Name) == nil {
			return conflict("the agent of %s, member %s, does not report", b.Name, b.Agent)
		}
	}
	return nil
}

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
