package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// SessionInfo describes a client's session for operators.
type SessionInfo struct {
	ID                          uint64
	Client                      string // its address; [local] for a Unix socket
	User, Database, Application string
	State                       string // idle, active, idle in transaction, held
	Began                       time.Time
	Backends                    []string // of the server connections that it has now
	Pinned                      []session.Pin
}

// Sessions describes all sessions, in the order of their start. Replication clients
// are none.
func (s *Server) Sessions() []SessionInfo {
	var all []SessionInfo
	for _, cs := range s.sessions.all() {
		backends, pinned := cs.bound()
		all = append(all, SessionInfo{
			ID: cs.id, Client: cs.client.addr(), User: cs.client.user, Database: cs.client.database,
			Application: cs.client.appName, State: cs.state.Load().String(), Began: cs.began, Backends: backends, Pinned: pinned,
		})
	}
	return all
}

// bound names the servers that the session is connected to, and what pins it to the
// primary.
func (s *clientSession) bound() (names []string, pinned []session.Pin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot := session.Primary; slot <= session.Standby; slot++ {
		if sv := s.mu.servers[slot]; sv != nil {
			names = append(names, sv.loan.backend)
		}
	}
	return names, s.mu.core.Pins()
}

// ErrNoSession tells that there is no session of that ID.
var ErrNoSession = errors.New("no such session")

// killTimeout bounds how long the end of a session waits for a client that does not
// read, and for a server that is asked to stop working.
const killTimeout = time.Second

// Kill ends a session: its client is told 57P01, and the statement that runs for it
// is cancelled.
func (s *Server) Kill(id uint64) error {
	s.sessions.mu.Lock()
	cs := s.sessions.mu.byID[id]
	s.sessions.mu.Unlock()
	if cs == nil {
		return ErrNoSession
	}
	loan, mayCommit := cs.beginCancel()
	cs.end(errKilled, func() bool { return true })
	if loan != nil {
		ctx, done := context.WithTimeout(context.Background(), killTimeout)
		defer done()
		if err := s.cancels.send(ctx, loan, mayCommit); err != nil {
			s.log.Warn("statement of a killed session not cancelled", "session", id, "error", err)
		}
	}
	return nil
}

var errKilled = &Refusal{Code: codeAdminShutdown, Message: "pgproxy: terminating connection due to administrator command"}

// end tells the client why and closes its connection, if that is still so; it is
// asked with the lock held.
func (s *clientSession) end(why *Refusal, so func() bool) bool {
	late := time.AfterFunc(killTimeout, s.abort)
	var o outputs
	s.mu.Lock()
	if !so() {
		s.mu.Unlock()
		late.Stop()
		return false
	}
	s.mu.core.End(why.encode(pgwire.SeverityFatal))
	s.progressed()
	s.flush(&o, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.client.busy { // it has been told
		late.Stop()
	}
	return true
}

// Pools counts the server connections, by backend, database and user.
func (s *Server) Pools() []PoolInfo { return s.pools.groupsInUse() }
