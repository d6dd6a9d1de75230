package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// leaseLength is how old a confirmation may be when the step that it is for is taken
// (S3): less than L.
const leaseLength = time.Second

// finalError is of an attempt that would end the same way if it were repeated.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func final(format string, args ...any) error { return &finalError{fmt.Errorf(format, args...)} }

// unconfirmedError is of a step that the leader has not confirmed: it is asked again
// soon.
type unconfirmedError struct{ err error }

func (e *unconfirmedError) Error() string {
	return fmt.Sprintf("not confirmed by the leader: %v", e.err)
}
func (e *unconfirmedError) Unwrap() error { return e.err }

var errMoved = errors.New("the cluster state has changed")

// task is a step that is being carried out.
type task struct {
	step   Step
	state  *cluster.State // that it follows from
	ctx    context.Context
	cancel context.CancelFunc
	notes  notes
}

// take carries out a step.
func (a *Agent) take(ctx context.Context, t *task) error {
	// A rebuild begins with what can be taken back, and a promotion with a session.
	if t.step.Action.Irreversible() && t.step.Action != ActionRebuild && t.step.Action != ActionPromote {
		if err := a.confirm(ctx, t); err != nil {
			return err
		}
	}
	source := t.state.Backend(t.step.Source)
	switch t.step.Action {
	case ActionStartPrimary:
		return a.startPrimary(ctx)
	case ActionStartStandby:
		return a.startStandby(ctx, source)
	case ActionRestartPrimary:
		if err := a.stopHard(ctx); err != nil {
			return err
		}
		if err := a.confirm(ctx, t); err != nil { // to stop may have taken long
			return err
		}
		return a.startPrimary(ctx)
	case ActionStopClean:
		if err := a.stopClean(ctx); err != nil {
			return &finalError{err}
		}
		return nil
	case ActionStopHard:
		return errors.Join(a.stopHard(ctx), a.asStandby())
	case ActionKill:
		return errors.Join(a.kill(ctx), a.asStandby())
	case ActionCheckpoint:
		return a.checkpoint(ctx)
	case ActionDetach:
		return a.detach(ctx)
	case ActionPromote:
		return a.promote(ctx, t)
	case ActionFollow:
		return a.follow(ctx, source)
	case ActionRewind:
		return a.rewind(ctx, t, source)
	case ActionRebuild:
		return a.rebuild(ctx, t, source)
	case ActionFence:
		return a.fence(ctx)
	case ActionSettle:
		return a.settle()
	case ActionNone:
	}
	return fmt.Errorf("BUG: take action %d", t.step.Action)
}

// confirm asks the leader whether the state that the task follows from is in force.
func (a *Agent) confirm(ctx context.Context, t *task) error {
	asked := time.Now()
	bounded, cancel := context.WithTimeout(ctx, leaseLength)
	defer cancel()
	if err := a.deps.Confirm(bounded, t.step.String()); err != nil {
		return &unconfirmedError{err}
	}
	if time.Since(asked) >= leaseLength {
		return &unconfirmedError{errors.New("the answer came too late")}
	}
	// The leader has confirmed what is applied now.
	if !sameOrder(t, a.deps.State(), a.deps.Backend) {
		return &unconfirmedError{errMoved}
	}
	return nil
}

// sameOrder tells whether a state still asks for the task.
func sameOrder(t *task, now *cluster.State, self string) bool {
	was := t.state
	if t.step.Action == ActionRebuild {
		// A copy takes long. It is good for as long as this server is no primary and not
		// about to be one; a rewind makes up for a primary that has changed.
		b := now.Backend(self)
		return b != nil && now.Primary != self && (now.Operation == nil || now.Operation.Candidate != self) &&
			(t.step.Recovery == 0 || b.Recovery != nil && b.Recovery.ID == t.step.Recovery)
	}
	if was.Primary != now.Primary || was.Former != now.Former || was.Timeline != now.Timeline {
		return false
	}
	o, p := was.Operation, now.Operation
	if o == nil || p == nil {
		return o == p
	}
	return o.ID == p.ID && o.Phase == p.Phase && o.Candidate == p.Candidate
}

func (a *Agent) startPrimary(ctx context.Context) error {
	if err := setSignal(a.dataDir(), false); err != nil {
		return err
	}
	if err := a.start(ctx); err != nil {
		return err
	}
	return a.files.setFenced(false)
}

// startStandby starts it as a standby of source; nil is as its files say.
func (a *Agent) startStandby(ctx context.Context, source *cluster.Backend) error {
	if source != nil {
		if err := setReplication(a.dataDir(), a.conninfo(source), a.slotOn(source)); err != nil {
			return err
		}
	}
	if err := a.asStandby(); err != nil {
		return err
	}
	return a.start(ctx)
}

// fence restarts the primary as a standby of nobody (S7). That it was this agent is
// written down first, so that it can be taken back.
func (a *Agent) fence(ctx context.Context) error {
	if err := a.files.setFenced(true); err != nil {
		return err
	}
	if err := a.stopHard(ctx); err != nil {
		return err
	}
	if err := setReplication(a.dataDir(), "", ""); err != nil {
		return err
	}
	return a.startStandby(ctx, nil)
}

// settle ends what stood until the server streams, or is the primary again.
func (a *Agent) settle() error {
	if err := a.files.setFenced(false); err != nil {
		return err
	}
	if err := a.removeLeft(); err != nil {
		return err
	}
	return a.files.unmark(a.dataDir())
}
