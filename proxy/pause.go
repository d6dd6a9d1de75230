package proxy

import (
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// held is why nothing new begins on the primary.
type held struct {
	drain  uint64 // ID of the switchover; 0 none
	paused bool
}

// yield tells every session when nothing new is to begin on the primary, or it may
// again. told is what it returned last.
func (sh *sessions) yield(told held) held {
	state := sh.cluster.State()
	now := held{paused: state.Paused != nil}
	if o := draining(state); o != nil {
		now.drain = o.ID
	}
	if now == told {
		return told
	}
	sh.paused.Store(false)
	for _, s := range sh.all() {
		s.drain()
	}
	if now.drain != 0 {
		sh.drains.visited(now.drain)
	}
	sh.paused.Store(now.paused)
	return now
}

// Paused tells whether a pause is in force here, so that no session begins anything on
// the primary, and in how many something still runs there.
func (s *Server) Paused() (inForce bool, running int) {
	if !s.sessions.paused.Load() {
		return false, 0
	}
	for _, cs := range s.sessions.all() {
		cs.mu.Lock()
		if cs.mu.core.OnPrimary() {
			running++
		}
		cs.mu.Unlock()
	}
	return true, running
}

// boundHold keeps to hold.timeout for a batch that waits beside a connection to the
// primary which the session cannot give back. The lock is held.
func (s *clientSession) boundHold() {
	switch waits := s.mu.yielding && s.mu.core.Held() && !s.mu.over; {
	case !waits:
		s.stopHold()
	case s.mu.held == nil:
		var timer *time.Timer
		timer = time.AfterFunc(s.shared.cfg.Load().Hold.Timeout, func() {
			var o outputs
			s.mu.Lock()
			if s.mu.held != timer {
				s.mu.Unlock()
				return
			}
			s.mu.held = nil
			s.mu.core.GiveUp(noPrimary(s.shared.cluster.State(), s.shared.cfg.Load().Hold.Timeout).encode(pgwire.SeverityError))
			s.progressed()
			s.flush(&o, nil)
		})
		s.mu.held = timer
	}
}

// stopHold ends the bound. The lock is held.
func (s *clientSession) stopHold() {
	if s.mu.held != nil {
		s.mu.held.Stop()
		s.mu.held = nil
	}
}
