package proxy

import (
	"context"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// errCanceled is what a client is told whose statement was cancelled before a server
// had it.
var errCanceled = &Refusal{Code: codeQueryCanceled, Message: "pgproxy: canceling statement due to user request"}

// beginCancel begins to cancel what the server does that works for the session.
func (s *clientSession) beginCancel() (loan *serverConn, mayCommit bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.mu.core.Busy()
	if sv := s.mu.servers[slot]; sv != nil && sv.loan.beginCancel() {
		return sv.loan, slot == session.Primary && s.mu.core.MayCommit()
	}
	return nil, false
}

// cancelWaiting cancels a statement that waits for a connection to a server, or for a
// primary; false: none does. One that is on its way to a server is waited for, so that
// the server can be told. A standby's connection is given up only to see whether the
// primary's, which is taken instead, has to be waited for.
func (s *clientSession) cancelWaiting(ctx context.Context) bool {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wakeAll()
	})()
	s.mu.Lock()
	for ctx.Err() == nil && !s.mu.over && !s.mu.core.Closed() && s.mu.core.Awaits() {
		switch {
		case s.mu.core.Held():
			var o outputs
			s.mu.core.GiveUp(errCanceled.encode(pgwire.SeverityError))
			s.progressed()
			s.flush(&o, nil)
			return true
		case s.mu.attach:
			s.mu.unattach(errCanceled)
			if s.mu.attaches == session.Primary {
				s.mu.Unlock()
				return true
			}
		}
		s.wait()
	}
	s.mu.Unlock()
	return false
}
