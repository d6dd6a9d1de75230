package cluster

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Apply returns the State after c. It is pure, shares nothing with s that either
// could change, and raises the epoch by one when anything changed; a command that
// changes nothing returns s as it was. An error leaves s in force.
func Apply(s State, c Command) (State, error) {
	if s.Format > Format {
		return s, fmt.Errorf("apply %s: state has format %d: %w", c.Kind, s.Format, ErrUnknown)
	}
	if c.Expect != 0 && c.Expect != s.Epoch {
		return s, fmt.Errorf("apply %s: epoch is %d, expected %d: %w", c.Kind, s.Epoch, c.Expect, ErrEpoch)
	}
	e := edit{State: s, at: c.At.UTC().Round(0)} // as a decoded one: no zone, no monotonic clock
	e.Backends = slices.Clone(s.Backends)
	e.Events = slices.Clip(s.Events) // copied by the first one that is added
	if e.Format == 0 {
		e.Format = Format // of a cluster that begins
	}
	if err := e.apply(c); err != nil {
		return s, fmt.Errorf("apply %s: %w", c.Kind, err)
	}
	if !e.changed {
		return s, nil
	}
	return e.State, nil
}

// edit is a State that is being made from its predecessor.
type edit struct {
	State
	at      time.Time
	changed bool
}

func (e *edit) apply(c Command) error {
	switch c.Kind {
	case KindConfigure:
		return e.configure(c)
	case KindClearPrimary:
		return e.losePrimary(c.Reason)
	case KindAdvance:
		return e.advance(c)
	case KindEnd:
		return e.end(c)
	case KindHold:
		return e.hold(c)
	case KindSync:
		return e.sync(c)
	case KindSetFailover:
		return e.setFailover(c)
	case KindFormat:
		return e.raiseFormat(c)
	case KindPause:
		return e.pause(c)
	case KindSetStatus, KindSetRole, KindAdoptPrimary, KindMarkRebuild, KindDetach, KindAttach,
		KindBegin, KindAbandon, KindRecover, KindRecoverFailed, KindRecovered:
		b := e.Backend(c.Backend)
		if b == nil {
			return fmt.Errorf("no backend %q", c.Backend)
		}
		return e.applyTo(b, c)
	case KindUnknown:
	}
	return fmt.Errorf("kind %d: %w", c.Kind, ErrUnknown)
}

func (e *edit) applyTo(b *Backend, c Command) error {
	switch c.Kind {
	case KindSetStatus:
		return e.setStatus(b, c)
	case KindSetRole:
		return e.setRole(b, c)
	case KindAdoptPrimary:
		return e.adoptPrimary(b, c)
	case KindMarkRebuild:
		return e.markRebuild(b, c)
	case KindDetach:
		return e.detach(b, c)
	case KindAttach:
		return e.attach(b, c)
	case KindBegin:
		return e.begin(b, c)
	case KindAbandon:
		return e.abandon(b, c)
	case KindRecover:
		return e.recover(b, c)
	case KindRecoverFailed:
		return e.recoverFailed(b, c)
	case KindRecovered:
		return e.recovered(b, c)
	case KindUnknown, KindConfigure, KindClearPrimary, KindAdvance, KindEnd, KindHold, KindSync,
		KindSetFailover, KindFormat, KindPause:
	}
	return fmt.Errorf("BUG: %s is not about one backend", c.Kind)
}

// changes marks the State as changed and adds a line to its history.
func (e *edit) changes(backend, text, reason string) {
	if !e.changed {
		e.changed = true
		e.Epoch++
	}
	if reason != "" {
		text += ": " + reason
	}
	e.Events = append(e.Events, Event{At: e.at, Epoch: e.Epoch, Backend: backend, Text: text})
	if n := len(e.Events) - MaxEvents; n > 0 {
		e.Events = slices.Delete(e.Events, 0, n)
	}
}

// put changes status and role of b together, so that Since is right.
func (e *edit) put(b *Backend, status Status, role Role) {
	if b.Status != status || b.Role != role {
		b.Status, b.Role, b.Since = status, role, e.at
	}
}

// configure takes over the list of the file. A known backend keeps what is known
// about it unless its address changed: then it may be another server, and has to
// be seen first.
func (e *edit) configure(c Command) error {
	seen := make(map[string]bool, len(c.Backends))
	for i, s := range c.Backends {
		if s.Name == "" {
			return fmt.Errorf("backend %d has no name", i)
		}
		if seen[s.Name] {
			return fmt.Errorf("two backends %q", s.Name)
		}
		seen[s.Name] = true
	}
	if o := e.Operation; o != nil {
		return fmt.Errorf("a %s is under way", o.Kind)
	}
	if err := e.configureAddresses(c); err != nil {
		return err
	}
	old := e.Backends
	for i := range old {
		if name := old[i].Name; !seen[name] {
			if name == e.Primary {
				e.clearPrimary("removed from the configuration")
			}
			if name == e.Former {
				e.Former = ""
			}
			e.changes(name, "removed", c.Reason)
		}
	}
	next := make([]Backend, 0, len(c.Backends))
	for _, s := range c.Backends {
		b := Backend{Status: StatusWaiting, Since: e.at}
		i := slices.IndexFunc(old, func(b Backend) bool { return b.Name == s.Name })
		switch {
		case i < 0:
			e.changes(s.Name, "added", c.Reason)
		case old[i].Address != s.Address:
			if s.Name == e.Primary {
				e.clearPrimary("its address changed")
			}
			b = old[i]
			if b.Status != StatusDetached && b.Status != StatusRecovering {
				e.put(&b, StatusWaiting, RoleUnknown)
			}
			e.changes(s.Name, "address "+s.Address+" instead of "+b.Address, c.Reason)
		default:
			b = old[i]
			if b.spec() != s {
				e.changes(s.Name, "configuration changed", c.Reason)
			}
		}
		b.Name, b.Address, b.Weight, b.Agent, b.MaxConnections = s.Name, s.Address, s.Weight, s.Agent, s.MaxConnections
		next = append(next, b)
	}
	if !e.changed && !slices.Equal(names(old), names(next)) {
		e.changes("", "backends in another order", c.Reason)
	}
	e.Backends = next
	return nil
}

// configureAddresses takes over the virtual addresses of the file. Who holds one
// goes on.
func (e *edit) configureAddresses(c Command) error {
	next := make([]Address, 0, len(c.Addresses))
	for _, text := range c.Addresses {
		if text == "" || slices.ContainsFunc(next, func(a Address) bool { return a.Address == text }) {
			return fmt.Errorf("virtual address %q is empty or not unique", text)
		}
		a := Address{Address: text, Since: e.at}
		if known := e.Address(text); known != nil {
			a = *known
		} else {
			e.changes("", "address "+text+" added", c.Reason)
		}
		next = append(next, a)
	}
	for _, a := range e.Addresses {
		if !slices.Contains(c.Addresses, a.Address) {
			e.changes("", "address "+a.Address+" removed", c.Reason)
		}
	}
	e.Addresses = next
	return nil
}

func (b *Backend) spec() Spec {
	return Spec{Name: b.Name, Address: b.Address, Weight: b.Weight, Agent: b.Agent, MaxConnections: b.MaxConnections}
}

func names(backends []Backend) []string {
	out := make([]string, len(backends))
	for i := range backends {
		out[i] = backends[i].Name
	}
	return out
}

func (e *edit) setStatus(b *Backend, c Command) error {
	switch c.Status {
	case StatusUp, StatusWaiting, StatusDown, StatusQuarantined:
	case StatusUnknown, StatusDetached, StatusRecovering:
		return fmt.Errorf("status %s is not set by an observation", c.Status)
	default:
		return fmt.Errorf("status %d: %w", c.Status, ErrUnknown)
	}
	if b.Status == StatusDetached || b.Status == StatusRecovering {
		return fmt.Errorf("%s is %s", b.Name, b.Status)
	}
	if b.Rebuild && c.Status == StatusUp {
		return fmt.Errorf("%s must be rebuilt first", b.Name)
	}
	if b.Status != c.Status {
		e.put(b, c.Status, b.Role)
		e.changes(b.Name, c.Status.String(), c.Reason)
	}
	return nil
}

func (e *edit) setRole(b *Backend, c Command) error {
	switch c.Role {
	case RoleStandby, RoleUnknown:
	case RolePrimary:
		return errors.New("a primary is adopted")
	default:
		return fmt.Errorf("role %d: %w", c.Role, ErrUnknown)
	}
	if b.Name == e.Primary {
		return fmt.Errorf("%s is the primary", b.Name)
	}
	if b.Role != c.Role {
		e.put(b, b.Status, c.Role)
		e.changes(b.Name, "role "+c.Role.String(), c.Reason)
	}
	return nil
}

// adoptPrimary records b as the primary when that cannot lose a write that the
// recorded one acknowledged (S6): its history is the recorded one or newer.
func (e *edit) adoptPrimary(b *Backend, c Command) error {
	if c.Timeline == 0 || c.SystemID == 0 {
		return fmt.Errorf("%s: timeline %d or system identifier %d is missing", b.Name, c.Timeline, c.SystemID)
	}
	if b.Rebuild {
		return fmt.Errorf("%s must be rebuilt first", b.Name)
	}
	if b.Status == StatusDetached || b.Status == StatusRecovering {
		return fmt.Errorf("%s is %s", b.Name, b.Status)
	}
	if e.SystemID != 0 && c.SystemID != e.SystemID {
		return fmt.Errorf("%s has system identifier %d, the cluster %d", b.Name, c.SystemID, e.SystemID)
	}
	if c.Timeline < e.Timeline {
		return fmt.Errorf("%s is on timeline %d, older than the recorded %d", b.Name, c.Timeline, e.Timeline)
	}
	recorded := e.Primary + e.Former // never both
	if c.Timeline == e.Timeline && recorded != "" && recorded != b.Name {
		return fmt.Errorf("%s is on timeline %d, whose primary was %s", b.Name, c.Timeline, recorded)
	}
	if err := e.mayAdopt(b, c); err != nil {
		return err
	}
	if e.Primary == b.Name && e.Timeline == c.Timeline && b.Status == StatusUp {
		if len(e.History) == 0 && len(c.History) > 0 {
			e.History = slices.Clone(c.History)
			e.changes(b.Name, fmt.Sprintf("history of timeline %d is known", c.Timeline), c.Reason)
		}
		return nil
	}
	if old := e.Backend(e.Primary); old != nil && old != b {
		e.put(old, old.Status, RoleUnknown)
	}
	e.put(b, StatusUp, RolePrimary)
	e.Primary, e.Former = b.Name, ""
	if e.Timeline != c.Timeline {
		// Of the former primary. Until the new one has said whom it waits for, nobody is
		// known to have what it acknowledges.
		e.Sync.Standbys = nil
	}
	e.Timeline, e.SystemID, e.Operation = c.Timeline, c.SystemID, nil
	e.reigns(b.Name)
	if len(c.History) > 0 || e.History != nil && c.Timeline != e.historyOf() {
		e.History = slices.Clone(c.History)
	}
	e.changes(b.Name, fmt.Sprintf("primary on timeline %d", c.Timeline), c.Reason)
	return nil
}

// reigns notes who is the primary of the recorded timeline.
func (e *edit) reigns(backend string) {
	next := slices.DeleteFunc(slices.Clone(e.Reigns), func(r Reign) bool { return r.Timeline == e.Timeline })
	next = append(next, Reign{Timeline: e.Timeline, Backend: backend})
	e.Reigns = next[max(len(next)-MaxReigns, 0):]
}

// historyOf returns the timeline whose history History is: one more than its last,
// or 0 when there is none. It is a guess only where a history has a gap, and then
// History is forgotten.
func (e *edit) historyOf() uint32 {
	if n := len(e.History); n > 0 {
		return e.History[n-1].Timeline + 1
	}
	return 0
}

// mayAdopt tells what an operation under way allows (S3): its candidate on a newer
// timeline once it is being promoted, or the old primary back on its own while
// nobody was promoted.
func (e *edit) mayAdopt(b *Backend, c Command) error {
	o := e.Operation
	switch {
	case o == nil:
		return nil
	case o.Phase == PhasePromote && b.Name == o.Candidate && c.Timeline > e.Timeline:
		return nil
	case o.Phase == PhaseRestart && b.Name == o.Old && c.Timeline == e.Timeline:
		return nil
	case o.Phase == PhasePromote && b.Name == o.Candidate && b.Name == o.Old && c.Timeline == e.Timeline:
		return nil // it was started as what it had been, before it could be promoted
	}
	return fmt.Errorf("%s: a %s is in phase %s", b.Name, o.Kind, o.Phase)
}

// losePrimary clears the primary outside of an operation.
func (e *edit) losePrimary(reason string) error {
	if o := e.Operation; o != nil {
		return fmt.Errorf("a %s is under way", o.Kind)
	}
	e.clearPrimary(reason)
	return nil
}

func (e *edit) clearPrimary(reason string) {
	b := e.Backend(e.Primary)
	if b == nil {
		return
	}
	e.put(b, b.Status, RoleUnknown)
	e.Primary, e.Former = "", b.Name
	e.changes(b.Name, "no longer the primary", reason)
}

func (e *edit) markRebuild(b *Backend, c Command) error {
	if b.Name == e.Primary {
		return fmt.Errorf("%s is the primary", b.Name)
	}
	if b.Rebuild {
		return nil
	}
	if e.Operation != nil && e.Operation.Candidate == b.Name {
		return fmt.Errorf("%s is being promoted", b.Name)
	}
	b.Rebuild = true
	if b.Status == StatusUp {
		e.put(b, StatusQuarantined, b.Role)
	}
	e.changes(b.Name, "to be rebuilt", c.Reason)
	return nil
}

func (e *edit) detach(b *Backend, c Command) error {
	switch {
	case b.Name == e.Primary:
		return fmt.Errorf("%s is the primary", b.Name)
	case b.Status == StatusRecovering:
		return fmt.Errorf("%s is %s", b.Name, b.Status)
	case b.Status == StatusDetached:
		return nil
	case e.Operation != nil && (e.Operation.Candidate == b.Name || e.Operation.Target == b.Name):
		return fmt.Errorf("%s is being promoted", b.Name)
	case e.Operation != nil && e.Operation.Kind == Switchover && e.Operation.Old == b.Name:
		return fmt.Errorf("%s may have to be the primary again", b.Name)
	}
	e.put(b, StatusDetached, b.Role)
	e.changes(b.Name, "detached", c.Reason)
	return nil
}

func (e *edit) attach(b *Backend, c Command) error {
	if b.Status != StatusDetached {
		return fmt.Errorf("%s is %s, not detached", b.Name, b.Status)
	}
	e.put(b, StatusWaiting, b.Role)
	e.changes(b.Name, "attached", c.Reason)
	return nil
}
