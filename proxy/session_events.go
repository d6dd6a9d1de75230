package proxy

import (
	"fmt"

	"github.com/pgproxy/pgproxy/proxy/loop"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// events is the mover of a session by event loops. The loop of a connection reads it, one
// read for each turn; everything is written at once, by whoever called the core, and what
// a socket does not take is left to its loop. The session's lock is held all the while,
// since nothing blocks. A server's connection moves to the loop of the client with which it is
// used.
type events struct {
	*clientSession
	// The rest is guarded by the session's lock.
	serving bool // its connections are being read: what has progressed is seen to before that ends
	posted  bool // its loop is to see to it
	held    bool // what the client has sent waits for progress
	gone    bool // the client has closed its side
	ended   bool // the session is over, and what it had is given back
	left    bool // all that worked for it has ended, too
}

// begin gives the client's connection to the loop, which waits for the lock, unless its
// startup has done so.
func (s *events) begin() error {
	c := s.client
	k := c.sock
	if k == nil {
		var err error
		if k, err = newSocket(c.loop.Loop, c.conn, nil, s.clientSession); err != nil {
			return fmt.Errorf("hand the client to an event loop: %w", err)
		}
		c.conn, c.raw, c.sock = k, k, k
	}
	s.mu.client = peer{conn: k, sock: k}
	k.owner.Store(s.clientSession)
	if len(k.rest) > 0 { // a client that does not wait for ReadyForQuery
		s.held = true
		s.progressed()
	}
	k.conn.Resume()
	return nil
}

// run leaves the session to its loops.
func (s *events) run() {}

func (s *events) place(_ session.Slot, sv *attachedServer) {
	k := sv.sock
	_ = k.conn.Move(s.client.loop.Loop) // after an error it is closed, which Resume tells
	k.owner.Store(s.clientSession)
	k.conn.Resume() // something may have come while it was nobody's
}

// giveBack gives a connection back at once: nobody else reads or writes it.
func (s *events) giveBack(sv *attachedServer, left session.Detachment) {
	sv.sock.owner.Store(nil)
	unread := sv.unread || sv.busy || len(sv.sock.rest) > 0
	sv.sock.rest = nil
	loan := sv.loan
	if !left.Reusable || unread {
		loan.terminate()
		loan.Close()
		return
	}
	loan.tx, loan.carried = left.Tx, left.Carried
	s.shared.pools.release(loan, left.Clean)
}

func (s *events) close(sv *attachedServer) {
	sv.sock.owner.Store(nil)
	sv.sock.rest = nil
	sv.loan.Close()
	s.shared.poke(sv.loan.backend)
}

// wake has the loop see to what has progressed, unless it is about to.
func (s *events) wake() {
	s.wakeAll()
	if !s.serving && !s.posted && s.client.sock != nil {
		s.posted = true
		s.client.loop.Post(s)
	}
}

// Turn sees to what has progressed.
func (s *events) Turn(l *loop.Loop) {
	s.mu.Lock()
	s.posted, s.serving = false, true
	s.goOn(ownerOf(l))
	s.serving = false
	s.settle()
}

// readable reads one of the session's connections once.
func (s *events) readable(l *eventLoop, k *socket) (again bool) {
	s.mu.Lock()
	s.serving = true
	switch sv := s.slotOf(k); {
	case s.mu.over:
	case sv != nil:
		again = s.readServer(l, sv)
	case k == s.client.sock:
		again = s.readClient(l)
	}
	s.goOn(l)
	s.serving = false
	s.settle()
	return again
}

// slotOf returns the server connection that the socket is in one of the slots; nil: none.
func (s *events) slotOf(k *socket) *attachedServer {
	for _, sv := range s.mu.servers {
		if sv != nil && sv.sock == k {
			return sv
		}
	}
	return nil
}

func (s *events) readServer(l *eventLoop, sv *attachedServer) (again bool) {
	if len(s.mu.client.queue) > 0 {
		sv.stalled = true
		return false
	}
	buf, k, slot := l.Buffer(), sv.sock, sv.slot
	n := copy(buf, k.rest)
	r, err := k.take(buf[n:])
	if r == 0 && err == nil {
		return false
	}
	n += r
	s.env.tick(l.Now())
	done := s.mu.core.Server(slot, buf[:n])
	sv.unread = done < n
	if err != nil {
		s.lose(slot, sv)
	}
	s.progressed()
	s.emit(&l.o, buf[:n])
	if s.mu.servers[slot] == sv { // else it may be another session's already
		k.keep(buf[done:n])
	}
	return true
}

// keep keeps what the core has not taken.
func (k *socket) keep(b []byte) {
	if len(b) == 0 {
		k.rest = nil
		return
	}
	k.rest = append(k.rest[:0], b...)
}

func (s *events) readClient(l *eventLoop) (again bool) {
	if s.gone || s.mu.core.Closed() || s.waits() {
		return false
	}
	buf, k := l.Buffer(), s.client.sock
	n := copy(buf, k.rest)
	r, err := k.take(buf[n:])
	switch {
	case err != nil:
		s.gone = true
		s.env.tick(l.Now())
		s.mu.core.ClientGone()
		s.emit(&l.o, nil)
		return false
	case r == 0:
		return false
	}
	s.feed(l, buf[:n+r])
	return !s.held
}

// waits reports that nothing is to be taken from the client now; progressed is called when
// that has changed.
func (s *events) waits() bool {
	// What pgproxy answers itself comes without end, too.
	s.held = s.held || s.mu.cancelling || s.settling() || len(s.mu.client.queue) > maxQueued
	for _, sv := range s.mu.servers {
		s.held = s.held || sv != nil && sv.busy // a server has to take what it was sent
	}
	return s.held
}

// feed gives the core what the client has sent.
func (s *events) feed(l *eventLoop, b []byte) {
	s.env.tick(l.Now())
	s.keepToLease()
	done := s.mu.core.Client(b)
	for done == 0 && s.attachWanted() { // most often for a transaction in transaction mode
		done = s.mu.core.Client(b)
	}
	s.clock.told = !s.mu.core.ToClient().Empty()
	s.held = s.mu.core.Paused()
	s.emit(&l.o, b)
	s.client.sock.keep(b[done:])
	if s.held && !s.mu.core.Paused() { // what it waited for has come with that
		s.mu.progress = true
	}
}

// attachWanted attaches the connection for which the core waits, if there is an idle one.
func (s *events) attachWanted() bool {
	slot, backend := s.mu.core.Wanted()
	return slot != session.None && !s.mu.attach && !s.mu.over && s.attachIdle(slot, backend)
}

// goOn gives the core again what it did not take, as long as there is progress.
func (s *events) goOn(l *eventLoop) {
	for s.mu.progress && !s.mu.over && !s.mu.core.Closed() {
		s.mu.progress = false
		if !s.held || s.gone {
			return
		}
		s.held = false
		if s.waits() {
			return
		}
		s.feed(l, s.client.sock.rest)
		if !s.held {
			s.client.sock.conn.Resume()
		}
	}
}

// writable goes on with what a socket did not take.
func (s *events) writable(k *socket) {
	s.mu.Lock()
	p := &s.mu.client
	if sv := s.slotOf(k); sv != nil {
		p = &sv.peer
	}
	if p.sock == k && p.busy {
		s.send(p, [][]byte{p.queue})
	}
	s.settle()
}

// write hands to a socket what was collected for it.
func (s *events) write(w *writing) {
	p := w.to
	w.to = nil
	if p == &s.mu.client {
		s.clock.writes.Add(1)
	}
	s.send(p, w.pieces)
	clear(w.pieces)
}

// send writes what a socket takes, and queues the rest for when it takes more.
func (s *events) send(p *peer, pieces [][]byte) {
	n, err := p.sock.put(pieces)
	if err != nil {
		// The reader finds out and tells the core.
		p.failed, p.queue = true, nil
		if p == &s.mu.client {
			s.breakOff() // a client that has only closed its own direction can be written to
		}
		return
	}
	p.queue = after(p.queue, pieces, n)
	if p.busy = len(p.queue) > 0 || p.sock.laden(); p.busy {
		return
	}
	p.queue = nil
	if p == &s.mu.client {
		s.clock.writes.Add(1)
		s.unstall()
	}
	if s.held {
		s.progressed()
	}
}

// after returns what follows the first n bytes of the pieces, in queue, which may be one of
// them.
func after(queue []byte, pieces [][]byte, n int) []byte {
	kept := queue[:0]
	for _, p := range pieces {
		skip := min(n, len(p))
		n -= skip
		kept = append(kept, p[skip:]...)
	}
	return kept
}

// unstall has the servers read again, since the client has taken what there was.
func (s *events) unstall() {
	for _, sv := range s.mu.servers {
		if sv != nil && sv.stalled {
			sv.stalled = false
			sv.sock.conn.Resume()
		}
	}
	s.wakeAll()
}

// interrupt does nothing: nothing blocks.
func (s *events) interrupt() {}

// settle ends the session when it is over and the client has what there is for it.
func (s *events) settle() {
	over := s.mu.over || s.mu.core.Closed() && !s.mu.client.busy
	if over && !s.ended && s.client.sock != nil {
		s.ended = true
		aborted := s.mu.over
		s.markOver()
		s.giveAllBack()
		s.leave()
		s.part(aborted)
	}
	last := s.ended && s.mu.spawned == 0 && !s.left
	s.left = s.left || last
	s.mu.Unlock()
	if last {
		s.shared.ended(s.client)
	}
}

// giveAllBack gives back what is in the slots.
func (s *events) giveAllBack() {
	for slot, sv := range s.mu.servers {
		if sv != nil {
			left := s.mu.core.Leftovers(session.Slot(slot))
			s.mu.servers[slot] = nil
			s.giveBack(sv, session.Detachment{Leftovers: left})
		}
	}
}

// part closes the client's connection, at once if nothing has come that was not read: it
// would be answered by a reset, for which the client may lose what it was told last.
func (s *events) part(aborted bool) {
	k := s.client.sock
	if k.tls != nil && !aborted {
		k.partTLS()
	}
	if aborted || !k.conn.Unread() {
		_ = k.Close()
		return
	}
	k.read = make(chan struct{}, 1)
	k.owner.Store(nil)
	s.spawn(func() {
		linger(s.client)
		_ = k.Close()
	})
}
