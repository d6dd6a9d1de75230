package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/watchdog"
)

// report is what this member tells the leader.
func (m *member) report() cluster.Report {
	r := cluster.Report{
		Up: time.Since(m.began), Leaving: m.leaving.Load(), Differs: m.differs(), Config: m.running.Load().file,
	}
	r.Sights = m.sights()
	if m.agent != nil {
		r.Local = m.agent.Local()
	}
	if m.server != nil {
		r.Drained, r.Barred = m.server.Drained(), m.server.Barred()
	} else if o := m.watchdog.State().Operation; o.Barred() {
		r.Drained, r.Barred = o.ID, o.ID // a witness has no connections
	}
	if m.addresses != nil {
		r.Links = m.addresses.Links()
	}
	return r
}

// sights returns what the probes saw, but of the primary only what they saw of it since
// this member has known that it is the primary.
func (m *member) sights() []cluster.Sight {
	m.primary.Lock()
	defer m.primary.Unlock()
	if s := m.watchdog.State(); s.Primary != m.primary.name || s.Timeline != m.primary.timeline {
		m.primary.name, m.primary.timeline, m.primary.since = s.Primary, s.Timeline, time.Now()
	}
	known := time.Since(m.primary.since)
	return slices.DeleteFunc(m.monitor.Sights(), func(s cluster.Sight) bool {
		return s.Backend == m.primary.name && s.Age+s.Took > known
	})
}

// differs says how the configuration file differs from what the cluster has agreed
// on; "" it does not.
func (m *member) differs() string {
	s := m.watchdog.State()
	if len(s.Backends) == 0 {
		return ""
	}
	var all []string
	specs := m.running.Load().specs
	for _, spec := range specs {
		b := s.Backend(spec.Name)
		switch {
		case b == nil:
			all = append(all, fmt.Sprintf("backend %s is only in the file", spec.Name))
		case b.Address != spec.Address:
			all = append(all, fmt.Sprintf("backend %s has address %s in the file, not %s", spec.Name, spec.Address, b.Address))
		case b.Weight != spec.Weight || b.Agent != spec.Agent || b.MaxConnections != spec.MaxConnections:
			all = append(all, fmt.Sprintf("backend %s has other settings in the file", spec.Name))
		}
	}
	for i := range s.Backends {
		name := s.Backends[i].Name
		if !slices.ContainsFunc(specs, func(c cluster.Spec) bool { return c.Name == name }) {
			all = append(all, fmt.Sprintf("backend %s is not in the file", name))
		}
	}
	return strings.Join(all, "; ")
}

// probe looks at a backend and at the local server afresh.
func (m *member) probe(ctx context.Context, backend string) {
	var both sync.WaitGroup
	if m.agent != nil {
		both.Go(func() { m.agent.Look(ctx) })
	}
	_, _ = m.monitor.Probe(ctx, backend) // what it saw is in the next report
	both.Wait()
}

// tellChanges has the leader told at once what a probe has seen to be different.
func (m *member) tellChanges(ctx context.Context) error {
	var before string
	for {
		changed := m.monitor.Changed()
		if now := gist(m.monitor.Sights()); now != before {
			before = now
			m.watchdog.Nudge()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// gist is what of the sights the leader decides by at once.
func gist(sights []cluster.Sight) string {
	var b strings.Builder
	for _, s := range sights {
		fmt.Fprintln(&b, s.Backend, s.Address, s.Alive, s.Ready, s.Refused, min(s.Failures, 3), s.Role, s.Timeline, s.SystemID, s.Streaming, s.SyncState, s.SyncNames)
	}
	return b.String()
}

// tellLinks has the leader told at once when an interface changed.
func (m *member) tellLinks(ctx context.Context) error {
	for {
		changed := m.addresses.LinkChanged()
		m.watchdog.Nudge()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// wanted returns until when this member holds a virtual address (S8).
func (m *member) wanted(address string) time.Time {
	a := m.watchdog.State().Address(address)
	if a == nil || a.Holder != m.cfg.Name {
		return time.Time{}
	}
	return m.watchdog.Held()
}

// wantedChanged is closed when wanted may have changed.
func (m *member) wantedChanged() <-chan struct{} { return m.changes.wait() }

// event lets goroutines wait for the next of many events.
type event struct {
	mu struct {
		sync.Mutex
		next chan struct{}
	}
}

func (s *event) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.next == nil {
		s.mu.next = make(chan struct{})
	}
	return s.mu.next
}

func (s *event) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.next != nil {
		close(s.mu.next)
		s.mu.next = nil
	}
}

// joinChanges fires changes for every change of the State or of the lease.
func (m *member) joinChanges(ctx context.Context) error {
	for {
		state, lease := m.watchdog.Changed(), m.watchdog.LeaseChanged()
		m.changes.fire()
		select {
		case <-ctx.Done():
			return nil
		case <-state:
		case <-lease:
		}
	}
}

// confirm asks the leader whether what this member has applied about its own server
// still stands (S3).
func (m *member) confirm(ctx context.Context, backend string) error {
	s := m.watchdog.State()
	var c watchdog.Check
	if o := s.Operation; o != nil {
		c.Operation, c.Phase, c.Candidate = o.ID, o.Phase, o.Candidate
	}
	c.Idle = s.Operation == nil
	if c.Primary = s.Primary; c.Primary == "" {
		c.Vacant, c.Former, c.Timeline = true, s.Former, s.Timeline
	}
	if b := s.Backend(backend); b != nil && b.Recovery != nil {
		c.Backend, c.Recovery = b.Name, b.Recovery.ID
	}
	return m.watchdog.Confirm(ctx, c)
}

// lease is the watchdog's, as the proxy asks for it.
type lease struct{ *watchdog.Watchdog }

func (l lease) Changed() <-chan struct{} { return l.LeaseChanged() }

// leader is the watchdog's view of the leader, as failover asks for it.
type leader struct{ *watchdog.Watchdog }

// Propose is for decisions of this leadership only. When it has ended they were made on
// what is no longer so.
func (l leader) Propose(ctx context.Context, c cluster.Command) (cluster.State, error) {
	s, err := l.ProposeLeading(ctx, c)
	if errors.Is(err, watchdog.ErrNotLeader) {
		err = fmt.Errorf("%w: %w", cluster.ErrEpoch, err)
	}
	return s, err
}

// Ask is bounded by ctx; who has not answered is seen by the reports that lack.
func (l leader) Ask(ctx context.Context, backend string) { _ = l.Watchdog.Ask(ctx, backend) }
