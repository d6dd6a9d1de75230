package cluster

import (
	"errors"
	"fmt"
	"slices"
)

// errExpect guards the steps of an operation: each is decided on one State (S3).
var errExpect = errors.New("the epoch it was decided on is missing")

// begin starts an operation. A failover starts with the barrier, so that from the
// same entry on there is no primary (S2); a switchover with a primary that still
// works.
func (e *edit) begin(old *Backend, c Command) error {
	if e.Operation != nil {
		return fmt.Errorf("a %s is under way", e.Operation.Kind)
	}
	o := Operation{Kind: c.Operation, Old: old.Name, Target: c.Target, Began: e.at, Since: e.at, Reason: c.Reason}
	switch c.Operation {
	case Failover:
		if old.Name != e.Primary+e.Former { // never both
			return fmt.Errorf("%s is not the primary", old.Name)
		}
		o.Phase = PhaseBarrier
		e.clearPrimary(c.Reason)
		if old.Status == StatusUp {
			e.put(old, StatusDown, RoleUnknown)
		}
	case Switchover:
		if err := e.mayTarget(old, c.Target); err != nil {
			return err
		}
		o.Phase = PhaseDrain
	case OperationUnknown:
		return fmt.Errorf("no kind of operation: %w", ErrUnknown)
	default:
		return fmt.Errorf("operation %d: %w", c.Operation, ErrUnknown)
	}
	e.changes(old.Name, c.Operation.String()+" begins", c.Reason)
	o.ID = e.Epoch
	e.Operation = &o
	return nil
}

func (e *edit) mayTarget(old *Backend, target string) error {
	t := e.Backend(target)
	switch {
	case old.Name != e.Primary:
		return fmt.Errorf("%s is not the primary", old.Name)
	case t == nil:
		return fmt.Errorf("no backend %q", target)
	case t.Name == e.Primary:
		return fmt.Errorf("%s is the primary", t.Name)
	case t.Status != StatusUp || t.Role != RoleStandby || t.Rebuild:
		return fmt.Errorf("%s is %s and %s, not a standby that is up", t.Name, t.Status, t.Role)
	}
	return nil
}

// advance goes to the next phase.
func (e *edit) advance(c Command) error {
	if c.Expect == 0 {
		return errExpect
	}
	if e.Operation == nil {
		return errors.New("no operation is under way")
	}
	o := *e.Operation
	if !o.follows(c.Phase) || o.Phase == PhasePromote {
		return fmt.Errorf("a %s in phase %s does not go to %s", o.Kind, o.Phase, c.Phase)
	}
	text := fmt.Sprintf("%s: %s", o.Kind, c.Phase)
	if c.Phase == PhasePromote {
		b := e.Backend(c.Backend)
		switch {
		case b == nil:
			return fmt.Errorf("no backend %q", c.Backend)
		case b.Rebuild || b.Status == StatusDetached || b.Status == StatusRecovering:
			return fmt.Errorf("%s cannot be promoted: %s, rebuild %t", b.Name, b.Status, b.Rebuild)
		case o.Kind == Switchover && b.Name != o.Target:
			return fmt.Errorf("%s is not the target %s", b.Name, o.Target)
		}
		o.Candidate = b.Name
	}
	if o.Phase == PhaseDrain {
		e.clearPrimary(o.Kind.String())
	}
	o.Phase, o.Since = c.Phase, e.at
	e.Operation = &o
	e.changes(c.Backend, text, c.Reason)
	return nil
}

// abandon gives a candidate up that was told to promote itself: it may do so yet,
// on a timeline that another candidate will take too, and so comes back only by a
// base backup (S6).
func (e *edit) abandon(b *Backend, c Command) error {
	if c.Expect == 0 {
		return errExpect
	}
	if e.Operation == nil || e.Operation.Phase != PhasePromote || e.Operation.Candidate != b.Name {
		return fmt.Errorf("%s is not being promoted", b.Name)
	}
	o := *e.Operation
	o.Phase, o.Candidate, o.Since = PhaseDetach, "", e.at
	if o.Kind == Switchover {
		// The old primary was stopped and others may have less: from here on it is as if
		// it had been lost.
		o.Kind, o.Target = Failover, ""
	}
	e.Operation = &o
	b.Rebuild = true
	if b.Status != StatusDown {
		e.put(b, StatusQuarantined, b.Role)
	}
	e.changes(b.Name, "promotion abandoned, to be rebuilt", c.Reason)
	return nil
}

// end gives the operation up. While a candidate may be promoting itself it cannot
// be: nobody would know whose timeline is the next one.
func (e *edit) end(c Command) error {
	if c.Expect == 0 {
		return errExpect
	}
	o := e.Operation
	if o == nil {
		return errors.New("no operation is under way")
	}
	if o.Phase == PhasePromote {
		return fmt.Errorf("%s is being promoted", o.Candidate)
	}
	e.Operation = nil
	e.changes(o.Old, o.Kind.String()+" given up", c.Reason)
	return nil
}

// hold gives a virtual address to a member.
func (e *edit) hold(c Command) error {
	i := slices.IndexFunc(e.Addresses, func(a Address) bool { return a.Address == c.Address })
	if i < 0 {
		return fmt.Errorf("no virtual address %q", c.Address)
	}
	if e.Addresses[i].Holder == c.Member {
		return nil
	}
	e.Addresses = slices.Clone(e.Addresses)
	e.Addresses[i].Holder, e.Addresses[i].Since = c.Member, e.at
	text := "address " + c.Address + " held by nobody"
	if c.Member != "" {
		text = "address " + c.Address + " held by " + c.Member
	}
	e.changes("", text, c.Reason)
	return nil
}

func (e *edit) sync(c Command) error {
	for _, name := range c.Sync.Standbys {
		if e.Backend(name) == nil {
			return fmt.Errorf("no backend %q", name)
		}
	}
	if e.Operation != nil {
		return fmt.Errorf("a %s is under way", e.Operation.Kind)
	}
	if c.Sync.Method > SyncAny {
		return fmt.Errorf("method %d: %w", c.Sync.Method, ErrUnknown)
	}
	if e.Sync.Equal(c.Sync) {
		return nil
	}
	next := c.Sync
	next.Standbys = slices.Clone(next.Standbys)
	e.Sync = next
	e.changes(e.Primary, "synchronous: "+next.String(), c.Reason)
	return nil
}

func (e *edit) setFailover(c Command) error {
	if e.FailoverOff == c.Off {
		return nil
	}
	e.FailoverOff = c.Off
	e.changes("", map[bool]string{false: "failover on", true: "failover off"}[c.Off], c.Reason)
	return nil
}

// pause has nothing new begin on the primary, or lets it begin again.
func (e *edit) pause(c Command) error {
	switch {
	case (e.Paused == nil) == c.Off:
		return nil
	case e.Format < pauseFormat:
		return errors.New("a member runs a version that cannot pause")
	case c.Off:
		e.Paused = nil
		e.changes("", "resumed", c.Reason)
	default:
		e.Paused = &Pause{Since: e.at, Reason: c.Reason}
		e.changes("", "paused", c.Reason)
	}
	return nil
}

// raiseFormat raises the level at which the State is written. It never goes back:
// a member that cannot read it stops.
func (e *edit) raiseFormat(c Command) error {
	if c.Format > Format {
		return fmt.Errorf("format %d: %w", c.Format, ErrUnknown)
	}
	if c.Format <= e.Format {
		return nil
	}
	e.Format = c.Format
	e.changes("", fmt.Sprintf("format %d", c.Format), c.Reason)
	return nil
}

// recover has a backend rebuilt. The mark stays until it streams.
func (e *edit) recover(b *Backend, c Command) error {
	switch {
	case b.Name == e.Primary:
		return fmt.Errorf("%s is the primary", b.Name)
	case b.Agent == "":
		return fmt.Errorf("%s has no agent", b.Name)
	case e.Operation != nil && (e.Operation.Candidate == b.Name || e.Operation.Target == b.Name):
		return fmt.Errorf("%s is being promoted", b.Name)
	case e.Primary == "":
		return errors.New("there is no primary to copy from")
	case b.Status == StatusRecovering && b.Recovery.Failed == "" && b.Recovery.InPlace == c.InPlace:
		return fmt.Errorf("%s is being recovered", b.Name)
	}
	b.Rebuild = true
	e.put(b, StatusRecovering, RoleUnknown)
	e.changes(b.Name, "recovery begins", c.Reason)
	b.Recovery = &Recovery{ID: e.Epoch, InPlace: c.InPlace}
	return nil
}

func (e *edit) recoverFailed(b *Backend, c Command) error {
	if b.Status != StatusRecovering {
		return fmt.Errorf("%s is %s", b.Name, b.Status)
	}
	if b.Recovery.Failed == c.Reason {
		return nil
	}
	b.Recovery = &Recovery{ID: b.Recovery.ID, InPlace: b.Recovery.InPlace, Failed: c.Reason}
	e.changes(b.Name, "recovery failed", c.Reason)
	return nil
}

// recovered takes the mark back: the server was made anew and streams.
func (e *edit) recovered(b *Backend, c Command) error {
	if b.Status != StatusRecovering {
		return fmt.Errorf("%s is %s", b.Name, b.Status)
	}
	b.Rebuild, b.Recovery = false, nil
	e.put(b, StatusWaiting, RoleUnknown)
	e.changes(b.Name, "recovered", c.Reason)
	return nil
}
