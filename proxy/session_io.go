package proxy

import (
	"net"

	"github.com/pgproxy/pgproxy/proxy/session"
)

// maxQueued is how much may wait for a peer to which another goroutine is writing before
// the goroutine that adds to it waits too, or its loop takes no more from the client, in
// bytes.
const maxQueued = 256 << 10

// peer is the client or one server connection of a session, as something to write to.
// Whoever finds it not busy writes; the others queue copies, which the writer takes along,
// or the loop when the socket takes more. The session's lock guards it but for conn.
type peer struct {
	conn   net.Conn
	sock   *socket // conn, where a loop watches it
	busy   bool
	failed bool // a write has failed; what comes is thrown away
	queue  []byte
}

// writing is what one goroutine has taken to write outside of the lock.
type writing struct {
	to     *peer
	pieces [][]byte
	own    []byte // the core's own bytes among them, and then its next buffer
}

// collect takes what the core has put out for a peer: to be written by the
// caller, or into the queue when somebody else is writing.
func (w *writing) collect(p *peer, out *session.Output, input []byte) {
	if out.Empty() {
		return
	}
	pieces := out.Take(w.pieces[:0], input)
	if p.failed {
		return
	}
	if p.busy {
		for _, piece := range pieces {
			p.queue = append(p.queue, piece...)
		}
		return
	}
	p.busy = true
	w.to, w.pieces, w.own = p, pieces, out.Swap(w.own)
}

// outputs are what a goroutine writes after one call of the core, reused.
type outputs [3]writing

// flush is called with the session's lock held, after each call of the core. It
// writes what the call put out and returns with the lock released.
func (s *clientSession) flush(o *outputs, input []byte) {
	s.emit(o, input)
	s.mover.settle()
}

// emit writes what a call of the core has put out. The lock is held.
func (s *clientSession) emit(o *outputs, input []byte) {
	if raw := s.shared.draining.Load(); raw != nil {
		s.mu.core.Shutdown(*raw)
	}
	s.yield()
	detached := s.mu.core.Detached() // first: it may have something to ask before it gives one back
	o[0].collect(&s.mu.client, s.mu.core.ToClient(), input)
	for slot := session.Primary; slot <= session.Standby; slot++ {
		out := s.mu.core.ToServer(slot)
		if sv := s.mu.servers[slot]; sv != nil {
			o[slot].collect(&sv.peer, out, input)
		} else {
			out.Take(nil, input) // for a connection that has just been lost
		}
	}
	if slot := s.follow(detached); slot != session.None { // what waited for that connection
		o[slot].collect(&s.mu.servers[slot].peer, s.mu.core.ToServer(slot), nil)
	}
	s.noteState()
	s.env.tick(0)
	for i := len(o) - 1; i >= 0; i-- { // the servers first: they have work to do
		if o[i].to != nil {
			s.mover.write(&o[i])
		}
	}
}

// noteState publishes what the session does. The lock is held.
func (s *clientSession) noteState() {
	was := s.state.Load()
	wanted, _ := s.mu.core.Wanted()
	switch {
	case s.mu.core.Busy() != session.None:
		s.state.store(stateActive)
	case wanted == session.Primary, s.mu.core.Held():
		s.state.store(stateHeld)
	case s.mu.core.InTransaction(), s.mu.core.OnPrimary(): // a pipeline without Sync is one, too
		s.state.store(stateInTransaction)
	default:
		s.state.store(stateIdle)
	}
	s.clock.note(s.env.time(), was, s.state.Load(), s.mu.core.InTransaction())
}
