package proxy

import (
	"net"
	"time"

	"github.com/pgproxy/pgproxy/proxy/session"
)

// goroutines is the mover of a session by goroutines that block: one reads the client, one
// each server connection in a slot, and whoever has something to write does so.
type goroutines struct{ *clientSession }

func (s *goroutines) begin() error {
	s.mu.client.conn = s.client.conn
	return nil
}

// run leaves the session to a goroutine of its own: the stack of the one that has started
// it has grown, by the TLS handshake for one, and would stay so for as long as the session
// waits.
func (s *goroutines) run() {
	go func() {
		s.readClient()
		s.tearDown()
		if s.within.Err() == nil {
			linger(s.client)
		}
		s.leave()
		_ = s.client.conn.Close()
		s.shared.ended(s.client)
	}()
}

func (s *goroutines) place(slot session.Slot, sv *attachedServer) {
	sv.read = make(chan struct{})
	s.spawn(func() { s.readServer(slot, sv) })
}

func (s *goroutines) close(sv *attachedServer) {
	s.spawn(func() {
		sv.loan.Close()
		s.shared.poke(sv.loan.backend)
	})
}

func (s *goroutines) wake() { s.wakeAll() }

func (s *goroutines) settle() {
	closing := s.mu.core.Closed()
	s.mu.Unlock()
	if closing {
		s.finish()
	}
}

// giveBack has a goroutine do it, since the reader of the connection must end first.
func (s *goroutines) giveBack(sv *attachedServer, d session.Detachment) {
	s.mu.giving++
	s.spawn(func() {
		s.giveBackNow(sv, d)
		s.mu.Lock()
		s.mu.giving--
		s.wakeAll()
		s.mu.Unlock()
	})
}

// write writes outside of the lock, which is held before and after.
func (s *goroutines) write(w *writing) {
	p := w.to
	w.to = nil
	pieces := w.pieces
	for {
		s.mu.Unlock()
		if p == &s.mu.client {
			s.clock.writes.Add(1)
		}
		err := writeAll(p.conn, pieces)
		if p == &s.mu.client {
			s.clock.writes.Add(1)
		}
		clear(pieces)
		s.mu.Lock()
		if err != nil {
			// Its reader finds out and tells the core.
			p.failed, p.queue = true, nil
			if p == &s.mu.client {
				// Nobody is there for what the servers still do, which may be without end.
				// A client that has only closed its own direction can be written to.
				s.breakOff()
			}
		}
		if len(p.queue) == 0 {
			break
		}
		pieces = append(pieces[:0], p.queue)
		p.queue = nil
		s.wakeAll()
	}
	p.busy = false
	s.wakeAll()
}

// interrupt ends what reads or writes.
func (s *goroutines) interrupt() {
	past := time.Unix(1, 0)
	_ = s.client.conn.SetDeadline(past)
	for _, sv := range s.mu.servers {
		if sv != nil {
			_ = sv.conn.SetWriteDeadline(past)
		}
	}
}

// writeAll writes all pieces; to a primary without TLS in one system call, too.
func writeAll(conn net.Conn, pieces [][]byte) error {
	if len(pieces) == 1 {
		_, err := conn.Write(pieces[0])
		return err
	}
	buffers := net.Buffers(pieces)
	if c, ok := conn.(*leasedConn); ok {
		return c.writeBuffers(buffers)
	}
	_, err := buffers.WriteTo(conn)
	return err
}

// giveBackNow ends the reader of a connection that is in no slot any more, and
// returns the connection to its pool or closes it.
func (s *goroutines) giveBackNow(sv *attachedServer, left session.Detachment) {
	if !left.Reusable || sv.loan.SetReadDeadline(time.Unix(1, 0)) != nil {
		sv.loan.terminate()
		sv.loan.Close()
		<-sv.read
		return
	}
	<-sv.read
	if sv.unread || sv.loan.SetReadDeadline(time.Time{}) != nil {
		sv.loan.Close()
		return
	}
	sv.loan.tx, sv.loan.carried = left.Tx, left.Carried
	s.shared.pools.release(sv.loan, left.Clean)
}

// finish closes the client's connection when everything has been written to it.
func (s *goroutines) finish() {
	s.awaitWritten()
	_ = s.client.conn.SetReadDeadline(time.Unix(1, 0)) // readClient returns
	s.mu.Lock()
	s.mu.over = true
	s.wakeAll()
	s.mu.Unlock()
}

// awaitWritten waits until the client has what the core put out for it, unless the
// session is broken off: whoever finds the core closed may not be the one who writes
// its last words.
func (s *goroutines) awaitWritten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.mu.client.busy && !s.mu.over {
		s.wait()
	}
}

// tearDown gives the server connections back and waits for every goroutine.
func (s *goroutines) tearDown() {
	s.awaitWritten()
	_ = s.client.conn.SetDeadline(time.Unix(1, 0)) // for a reader of a server that writes to it
	s.mu.Lock()
	s.markOver()
	servers := s.mu.servers
	var left [session.Standby + 1]session.Leftovers
	for slot := range servers {
		left[slot] = s.mu.core.Leftovers(session.Slot(slot))
	}
	clear(s.mu.servers[:])
	s.mu.Unlock()
	for slot, sv := range servers {
		if sv != nil {
			s.giveBackNow(sv, session.Detachment{Leftovers: left[slot]})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.mu.spawned > 0 {
		s.wait()
	}
}

// readClient moves the client's bytes until the session is over.
func (s *goroutines) readClient() {
	buffer := s.shared.buffers.reader(idleBuffer)
	defer buffer.free()
	n := 0
	var o outputs
	for {
		buf := buffer.bytes()
		s.mu.Lock()
		s.awaitCancel()
		if n > 0 {
			s.awaitGo()
		}
		s.keepToLease()
		done := s.mu.core.Client(buf[:n])
		s.clock.told = !s.mu.core.ToClient().Empty()
		paused := s.mu.core.Paused()
		closed := s.mu.core.Closed()
		s.flush(&o, buf[:n])
		filled := n
		n = copy(buf, buf[done:n])
		switch {
		case closed:
			return
		case paused:
			if !s.awaitProgress() {
				return
			}
			continue
		}
		buffer.adapt(filled, n)
		buf = buffer.bytes()
		r, err := s.client.conn.Read(buf[n:])
		n += r
		if err != nil && r == 0 {
			s.clientGone(&o)
			return
		}
	}
}

// clientGone ends the session when what is in flight has been answered.
func (s *goroutines) clientGone(o *outputs) {
	s.mu.Lock()
	s.mu.core.ClientGone()
	s.flush(o, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.mu.core.Closed() && !s.mu.over {
		s.wait()
	}
}

// awaitProgress blocks while the core can take nothing from the client; false:
// the session is over.
func (s *goroutines) awaitProgress() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.mu.core.Paused() && !s.mu.core.Closed() && !s.mu.over && !s.mu.progress {
		s.wait()
	}
	s.mu.progress = false
	return !s.mu.core.Closed() && !s.mu.over
}

// readServer moves the bytes of one server connection until it ends or is given
// back.
func (s *goroutines) readServer(slot session.Slot, sv *attachedServer) {
	defer close(sv.read)
	buffer := s.shared.buffers.reader(smallBuffer)
	defer buffer.free()
	n := 0
	var o outputs
	for {
		buf := buffer.bytes()
		r, err := sv.conn.Read(buf[n:])
		s.mu.Lock()
		n += r
		if s.mu.servers[slot] != sv {
			sv.unread = n > 0
			s.mu.Unlock()
			return
		}
		done := s.mu.core.Server(slot, buf[:n])
		if err != nil && !s.mu.over {
			s.lose(slot, sv)
		}
		s.progressed()
		s.flush(&o, buf[:n])
		if err != nil {
			return
		}
		filled := n
		n = copy(buf, buf[done:n])
		buffer.adapt(filled, n)
		s.throttle()
	}
}

// throttle keeps a goroutine from queueing without bound for a client that does
// not read.
func (s *goroutines) throttle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.mu.client.queue) > maxQueued && !s.mu.over && !s.mu.client.failed {
		s.wait()
	}
}
