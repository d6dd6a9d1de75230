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
	e.Events = slices.Clone(s.Events)
	e.Format = Format
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
		e.clearPrimary(c.Reason)
		return nil
	case KindSetStatus, KindSetRole, KindAdoptPrimary, KindMarkRebuild, KindDetach, KindAttach:
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
	case KindUnknown, KindConfigure, KindClearPrimary:
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
			if b.Status != StatusDetached {
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
	if e.Primary == b.Name && e.Timeline == c.Timeline && b.Status == StatusUp {
		return nil
	}
	if old := e.Backend(e.Primary); old != nil && old != b {
		e.put(old, old.Status, RoleUnknown)
	}
	e.put(b, StatusUp, RolePrimary)
	e.Primary, e.Former = b.Name, ""
	e.Timeline, e.SystemID = c.Timeline, c.SystemID
	e.changes(b.Name, fmt.Sprintf("primary on timeline %d", c.Timeline), c.Reason)
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
