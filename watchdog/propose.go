package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// applyTimeout bounds the wait for an entry to be committed and applied.
const applyTimeout = 5 * time.Second

// proposeRequest carries a Command as cluster.EncodeCommand writes it.
type proposeRequest struct {
	Command json.RawMessage `json:"command"`
}

// proposeAnswer carries the State that the command made.
type proposeAnswer struct {
	State json.RawMessage `json:"state"`

	state *cluster.State // the same where it did not cross the network
}

// Propose has c applied after all commands proposed before it, by the leader whoever
// that is, and returns the State that it made when that is in force here too. An error
// of cluster.Apply (errors.Is cluster.ErrEpoch) and ErrNoLeader mean that nothing has
// changed; after another one c may have been applied or may yet be.
func (w *Watchdog) Propose(ctx context.Context, c cluster.Command) (cluster.State, error) {
	data, err := cluster.EncodeCommand(c)
	if err != nil {
		return cluster.State{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout+applyTimeout)
	defer cancel()
	q := proposeRequest{Command: data}
	answer, err := askPatiently(ctx, w, "propose", q, func(ctx context.Context, l *leadership) (proposeAnswer, error) {
		return l.propose(ctx, q)
	})
	if err != nil {
		return cluster.State{}, fmt.Errorf("propose %s: %w", c.Kind, err)
	}
	if answer.state == nil {
		s, err := cluster.DecodeState(answer.State)
		if err != nil {
			return cluster.State{}, fmt.Errorf("propose %s: %w", c.Kind, err)
		}
		answer.state = &s
	}
	if err := w.waitEpoch(ctx, answer.state.Epoch); err != nil {
		return cluster.State{}, fmt.Errorf("propose %s: %w", c.Kind, err)
	}
	return *answer.state, nil
}

// ProposeLeading is Propose for what this member has decided as the leader: by what it
// alone knows, and what the next leader may see otherwise. It is never handed on;
// ErrNotLeader means that nothing has changed.
func (w *Watchdog) ProposeLeading(ctx context.Context, c cluster.Command) (cluster.State, error) {
	data, err := cluster.EncodeCommand(c)
	if err != nil {
		return cluster.State{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	l := w.leader.Load()
	if l == nil {
		return cluster.State{}, fmt.Errorf("propose %s: %w", c.Kind, ErrNotLeader)
	}
	answer, err := l.propose(ctx, proposeRequest{Command: data})
	if err != nil {
		return cluster.State{}, fmt.Errorf("propose %s: %w", c.Kind, err)
	}
	return *answer.state, nil
}

// waitEpoch waits until a State of that epoch or a newer one is in force here.
func (w *Watchdog) waitEpoch(ctx context.Context, epoch uint64) error {
	for {
		changed := w.changed.wait()
		if w.State().Epoch >= epoch {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for epoch %d: %w", epoch, ctx.Err())
		}
	}
}

// propose writes the command to the log. What Apply refuses on the present State is
// not written; above all nothing that the members' programs would stop at.
func (l *leadership) propose(ctx context.Context, q proposeRequest) (proposeAnswer, error) {
	c, err := cluster.DecodeCommand(q.Command)
	if err != nil {
		return proposeAnswer{}, err
	}
	if _, err := cluster.Apply(*l.w.State(), c); err != nil {
		return proposeAnswer{}, err
	}
	done := make(chan error, 1)
	var result applied
	go func() { // ends with raft at the latest
		future := l.n.raft.Apply(q.Command, applyTimeout)
		err := future.Error()
		if err == nil {
			result, _ = future.Response().(applied)
		}
		done <- err
	}()
	select {
	case <-ctx.Done():
		return proposeAnswer{}, fmt.Errorf("write the log: %w", ctx.Err())
	case err = <-done:
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return proposeAnswer{}, ErrNotLeader // refused before it was written
	case err != nil:
		return proposeAnswer{}, fmt.Errorf("write the log: %w", err)
	case result.err != nil:
		return proposeAnswer{}, result.err
	}
	// A follower learns that an entry is committed from the next one.
	go func() { l.n.raft.Barrier(time.Second).Error() }()
	s := result.state
	data, err := cluster.EncodeState(s)
	return proposeAnswer{State: data, state: &s}, err
}

// Check is what must still be so for a step that cannot be undone (S3).
type Check struct {
	Operation uint64        `json:"operation,omitempty"` // ID of the operation under way; 0 not asked about
	Phase     cluster.Phase `json:"phase,omitempty"`     // of Operation
	Candidate string        `json:"candidate,omitempty"` // of Operation, in PhasePromote
	Idle      bool          `json:"idle,omitempty"`      // no operation is under way
	Primary   string        `json:"primary,omitempty"`   // the backend is the primary; "" not asked about
	Vacant    bool          `json:"vacant,omitempty"`    // there is no primary, and Former and Timeline are those of the last
	Former    string        `json:"former,omitempty"`    // of Vacant; "" nobody
	Timeline  uint32        `json:"timeline,omitempty"`  // of Vacant
	Backend   string        `json:"backend,omitempty"`   // the backend is being recovered; "" not asked about
	Recovery  uint64        `json:"recovery,omitempty"`  // ID of its recovery
}

// Confirm asks the leader whether c is so, by a State that it looks at after a quorum
// round of its own. nil: it was so at an instant within the call, which took less than
// L; the caller takes its step at once.
func (w *Watchdog) Confirm(ctx context.Context, c Check) error {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Lease)
	defer cancel()
	_, err := ask(ctx, w, "confirm", c, func(ctx context.Context, l *leadership) (struct{}, error) {
		return struct{}{}, l.check(ctx, c)
	})
	if err == nil && time.Since(asked) >= w.cfg.Lease {
		err = fmt.Errorf("the answer took %v", time.Since(asked))
	}
	if err != nil {
		return fmt.Errorf("confirm with the leader: %w", err)
	}
	return nil
}

func (l *leadership) check(ctx context.Context, c Check) error {
	if _, err := l.confirm(ctx); err != nil {
		return err
	}
	return c.in(l.w.State())
}

// in returns what of c is not so in s.
func (c Check) in(s *cluster.State) error {
	o := s.Operation
	switch {
	case c.Operation == 0 && !c.Idle && c.Primary == "" && !c.Vacant && c.Backend == "":
		return errors.New("nothing to confirm")
	case c.Operation != 0 && (o == nil || o.ID != c.Operation):
		return fmt.Errorf("operation %d is not under way", c.Operation)
	case c.Operation != 0 && o.Phase != c.Phase:
		return fmt.Errorf("operation %d is in phase %s, not %s", c.Operation, o.Phase, c.Phase)
	case c.Operation != 0 && o.Candidate != c.Candidate:
		// Phases come again: another standby may be promoted in the same operation.
		return fmt.Errorf("operation %d has candidate %q, not %q", c.Operation, o.Candidate, c.Candidate)
	case c.Idle && o != nil:
		return fmt.Errorf("a %s is under way", o.Kind)
	case c.Primary != "" && (s.Primary != c.Primary || o.Barred()):
		return fmt.Errorf("%s is not the primary", c.Primary)
	case c.Vacant && (s.Primary != "" || s.Former != c.Former || s.Timeline != c.Timeline):
		return fmt.Errorf("the primary is %q, after %q on timeline %d", s.Primary, s.Former, s.Timeline)
	}
	if c.Backend == "" {
		return nil
	}
	if b := s.Backend(c.Backend); b == nil || b.Status != cluster.StatusRecovering || b.Recovery == nil || b.Recovery.ID != c.Recovery {
		return fmt.Errorf("recovery %d of %s is not under way", c.Recovery, c.Backend)
	}
	return nil
}
