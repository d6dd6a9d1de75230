package proxy

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// start is what a session starts with.
type start struct {
	slot    session.Slot
	loan    *serverConn // nil: it gets one for each transaction
	pid     uint32
	params  []pgwire.Parameter
	notices []byte
}

// firstServer gets what the session starts with from the primary, or from a standby
// while the primary cannot be reached.
func (s *clientSession) firstServer(ctx context.Context) (start, error) {
	sh := s.shared
	if err := sh.awaitSettled(ctx, s.client); err != nil {
		return start{}, err
	}
	if b := upPrimary(sh.cluster.State()); b != nil && !sh.cluster.State().Holds() {
		first, err := s.startOn(ctx, session.Primary, b)
		if err == nil || !isTransient(err) {
			return first, err
		}
	}
	if name := s.env.anyStandby(); name != "" {
		if b := sh.cluster.State().Backend(name); b != nil {
			if first, err := s.startOn(ctx, session.Standby, b); err == nil {
				return first, nil
			}
		}
	}
	loan, err := s.acquirePrimary(ctx)
	if err != nil {
		return start{}, err
	}
	return s.startWith(session.Primary, loan), nil
}

// startOn gets what the session starts with from one server.
func (s *clientSession) startOn(ctx context.Context, slot session.Slot, b *cluster.Backend) (start, error) {
	sh := s.shared
	if sh.statements == nil {
		loan, err := sh.pools.acquire(ctx, *b, s.client)
		if err != nil {
			return start{}, err
		}
		return s.startWith(slot, loan), nil
	}
	greeting, err := sh.pools.greeting(ctx, *b, s.client)
	if err != nil {
		return start{}, err
	}
	return s.startGreeted(slot, greeting), nil
}

// startGreeted starts a session that gets a connection for each transaction.
func (s *clientSession) startGreeted(slot session.Slot, g *greeted) start {
	s.mu.core.OwnPID(s.ownPID())
	return start{slot: slot, pid: s.ownPID(), params: g.params, notices: g.notices}
}

// greetingNow returns the greeting with which a session can start without waiting for
// anything; nil: there is none.
func (sh *sessions) greetingNow(c *client) *greeted {
	state := sh.cluster.State()
	b := upPrimary(state)
	if sh.statements == nil || b == nil || state.Holds() || sh.settles(c) != nil ||
		sh.catalogs.of(c.database).current.Load() == nil {
		return nil
	}
	return sh.pools.known(*b, c)
}

func (s *clientSession) startWith(slot session.Slot, loan *serverConn) start {
	first := start{slot: slot, loan: loan, pid: loan.pid, params: loan.params}
	if loan.fresh {
		first.notices = loan.notices
	}
	if s.shared.statements != nil {
		first.pid = s.ownPID()
		s.mu.core.OwnPID(first.pid)
	}
	return first
}

// acquirePrimary waits for a connection to the primary, for hold.timeout at most.
func (s *clientSession) acquirePrimary(ctx context.Context) (*serverConn, error) {
	return s.shared.pools.acquirePrimary(ctx, s.client)
}

// draining returns the switchover for which nothing new may begin on the primary; nil:
// there is none.
func draining(state *cluster.State) *cluster.Operation {
	if o := state.Operation; o != nil && o.Phase == cluster.PhaseDrain {
		return o
	}
	return nil
}

// isTransient reports that the primary could not be reached, ended the connection
// before the login was complete, or answers that it is starting, stopping or has
// crashed: waiting may help.
func isTransient(err error) bool {
	if errors.Is(err, errBackendGone) || errors.Is(err, errNoLogin) {
		return true
	}
	if se, ok := errors.AsType[*ServerError](err); ok {
		return se.Code == codeCannotConnectNow || se.Code == codeAdminShutdown || se.Code == codeCrashShutdown
	}
	if _, ok := errors.AsType[*Refusal](err); ok {
		return false
	}
	_, ok := errors.AsType[net.Error](err)
	return ok || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// judge finds out why the primary has ended a connection by 57P01: the server stops, or
// it goes on and an administrator meant this one (pg_terminate_backend).
func (s *clientSession) judge(ctx context.Context, from session.Attachment) {
	goesOn := s.shared.goesOn(ctx, from.Backend, from.Server)
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
