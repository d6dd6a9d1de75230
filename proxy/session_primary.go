package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// firstServer gets the connection with which the session starts: the primary's,
// or a standby's while the primary cannot be reached.
func (s *clientSession) firstServer() (session.Slot, *serverConn, error) {
	sh := s.shared
	if b := upPrimary(sh.cluster.State()); b != nil && !sh.cluster.State().Holds() {
		loan, err := sh.pools.acquire(s.ctx, *b, s.client)
		if err == nil || !isTransient(err) {
			return session.Primary, loan, err
		}
		s.suspect(b.Name, err)
	}
	if name := s.env.anyStandby(); name != "" {
		if b := sh.cluster.State().Backend(name); b != nil {
			if loan, err := sh.pools.acquire(s.ctx, *b, s.client); err == nil {
				return session.Standby, loan, nil
			}
		}
	}
	loan, err := s.acquirePrimary()
	return session.Primary, loan, err
}

// acquirePrimary waits for a connection to the primary, for hold.timeout at most.
func (s *clientSession) acquirePrimary() (*serverConn, error) {
	sh := s.shared
	ctx, done := context.WithTimeout(s.ctx, sh.cfg.Load().Hold.Timeout)
	defer done()
	changed, leased := sh.cluster.Changed(), sh.pools.lease.Changed()
	loan, err := s.tryPrimary(ctx)
	if err == nil || !isTransient(err) {
		return loan, err
	}
	sh.metrics.held.Inc()
	defer sh.metrics.held.Dec()
	for {
		retry := time.NewTimer(sh.retry)
		select {
		case <-changed:
		case <-leased:
		case <-retry.C:
		case <-ctx.Done():
		}
		retry.Stop()
		switch {
		case s.ctx.Err() != nil:
			return nil, s.ctx.Err()
		case ctx.Err() != nil:
			sh.log.Debug("no primary for a session", "error", err)
			return nil, s.noPrimary()
		}
		changed, leased = sh.cluster.Changed(), sh.pools.lease.Changed()
		if loan, err = s.tryPrimary(ctx); err == nil || !isTransient(err) {
			return loan, err
		}
	}
}

// noPrimary is what a client is told whose statement has waited for hold.timeout.
func (s *clientSession) noPrimary() *Refusal {
	why := "no primary"
	if s.shared.cluster.State().Paused != nil {
		why = "paused by an operator, no primary"
	}
	return &Refusal{Code: codeCannotConnectNow, Message: fmt.Sprintf("pgproxy: %s within %v", why, s.shared.cfg.Load().Hold.Timeout)}
}

// errNoPrimary tells that the state has no primary.
var errNoPrimary = fmt.Errorf("there is no primary: %w", errBackendGone)

// errDraining tells that nothing new may begin on the primary.
var errDraining = fmt.Errorf("the primary is paused or being replaced: %w", errBackendGone)

// draining returns the switchover for which nothing new may begin on the primary; nil:
// there is none.
func draining(state *cluster.State) *cluster.Operation {
	if o := state.Operation; o != nil && o.Phase == cluster.PhaseDrain {
		return o
	}
	return nil
}

func (s *clientSession) tryPrimary(ctx context.Context) (*serverConn, error) {
	state := s.shared.cluster.State()
	b := state.Backend(state.Primary)
	switch {
	case b == nil:
		return nil, errNoPrimary
	case state.Holds():
		return nil, errDraining
	}
	loan, err := s.shared.pools.acquire(ctx, *b, s.client)
	s.suspect(b.Name, err)
	return loan, err
}

// suspect has a backend probed to which no connection could be made.
func (s *clientSession) suspect(backend string, err error) {
	if err != nil && isTransient(err) && !errors.Is(err, errBackendGone) {
		s.shared.poke(backend)
	}
}

// retryPrimary is how long a session waits after it could not connect to the
// primary, unless the cluster or its lease changes
// before.
const retryPrimary = 250 * time.Millisecond

// isTransient reports that the primary could not be reached, or answers that it
// is starting or stopping: waiting may help.
func isTransient(err error) bool {
	if errors.Is(err, errBackendGone) {
		return true
	}
	if se, ok := errors.AsType[*ServerError](err); ok {
		return se.Code == codeCannotConnectNow
	}
	if _, ok := errors.AsType[*Refusal](err); ok {
		return false
	}
	_, ok := errors.AsType[net.Error](err)
	return ok || errors.Is(err, net.ErrClosed)
}

// judge finds out why the primary has ended a connection by 57P01: the server stops, or
// it goes on and an administrator meant this one (pg_terminate_backend).
func (s *clientSession) judge(from session.Attachment) {
	goesOn := s.shared.goesOn(s.ctx, from.Backend, from.Server)
	var o outputs
	s.mu.Lock()
	s.mu.judging = false
	s.mu.core.Judged(goesOn)
	s.progressed()
	s.flush(&o, nil)
}

// keepToLease is called with the session's lock held before the core takes something
// from the client, so that no statement is given to a server which is not the primary
// any more: it is held instead. That the write itself looks again is for a process
// that is paused in between; then the outcome is called unknown.
func (s *clientSession) keepToLease() {
	if sv := s.mu.servers[session.Primary]; sv != nil && sv.loan.tenure != nil && !sv.loan.tenure.holds() {
		s.lose(session.Primary, sv)
	}
	s.yield()
}

// yield has the core let go of a primary on which nothing new is to begin. The lock is
// held.
func (s *clientSession) yield() {
	state := s.shared.cluster.State()
	holds := state.Holds()
	if !holds && !s.mu.yielding {
		return
	}
	s.mu.yielding = holds
	s.mu.core.Yield(holds)
	s.boundHold()
	if o := draining(state); o != nil {
		s.shared.drains.note(o.ID, s, s.mu.core.OnPrimary())
	}
}
