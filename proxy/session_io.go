package proxy

import (
	"net"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/proxy/session"
)

// Sizes of the driver's buffers, in bytes.
const (
	// smallBuffer is what a connection has while little comes; it holds the largest
	// server message that the core waits for as a whole.
	smallBuffer = 9 << 10
	// bulkBuffer is what the reader of a server has while reads fill its buffer.
	bulkBuffer = 64 << 10
	// maxQueued is how much may wait for a peer to which another goroutine is writing
	// before the goroutine that adds to it waits too.
	maxQueued = 256 << 10
)

// peer is the client or one server connection of a session, as something to
// write to. Whoever finds it not busy writes; the others queue copies, which the
// writer takes along. The session's lock guards it but for conn.
type peer struct {
	conn   net.Conn
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
			s.write(&o[i])
		}
	}
	closing := s.mu.core.Closed()
	s.mu.Unlock()
	if closing {
		s.finish()
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

// write writes outside of the lock, which is held before and after.
func (s *clientSession) write(w *writing) {
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

// breakOff ends the session at once, whatever its goroutines are writing. The lock is
// held.
func (s *clientSession) breakOff() {
	s.mu.over = true
	s.wakeAll()
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

// readClient moves the client's bytes until the session is over.
func (s *clientSession) readClient() {
	buf := make([]byte, smallBuffer)
	n := 0
	var o outputs
	for {
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
		if n == len(buf) {
			grown := make([]byte, max(2*len(buf), session.MinBuffer))
			copy(grown, buf)
			buf = grown
		} else if n == 0 && len(buf) > smallBuffer {
			buf = make([]byte, smallBuffer)
		}
		r, err := s.client.conn.Read(buf[n:])
		n += r
		if err != nil && r == 0 {
			s.clientGone(&o)
			return
		}
	}
}

// clientGone ends the session when what is in flight has been answered.
func (s *clientSession) clientGone(o *outputs) {
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
func (s *clientSession) awaitProgress() bool {
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
func (s *clientSession) readServer(slot session.Slot, sv *attachedServer) {
	defer close(sv.read)
	buffer := readBuffer{small: make([]byte, smallBuffer), pool: &s.shared.bulk}
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

// readBuffer is the buffer of a server's reader: small, and a large one from the
// pool while reads fill it.
type readBuffer struct {
	small []byte
	bulk  *[bulkBuffer]byte // nil: not in use
	pool  *sync.Pool
}

// bytes returns the buffer for the next read.
func (b *readBuffer) bytes() []byte {
	if b.bulk != nil {
		return b.bulk[:]
	}
	return b.small
}

// adapt chooses the buffer for the next read by how much the last one has put
// into it; the first n bytes are kept.
func (b *readBuffer) adapt(filled, n int) {
	switch {
	case b.bulk == nil && filled == len(b.small):
		b.bulk, _ = b.pool.Get().(*[bulkBuffer]byte)
		if b.bulk == nil {
			b.bulk = new([bulkBuffer]byte)
		}
		copy(b.bulk[:], b.small[:n])
	case b.bulk != nil && filled <= len(b.small):
		copy(b.small, b.bulk[:n])
		b.free()
	}
}

func (b *readBuffer) free() {
	if b.bulk != nil {
		b.pool.Put(b.bulk)
		b.bulk = nil
	}
}

// throttle keeps a goroutine from queueing without bound for a client that does
// not read.
func (s *clientSession) throttle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.mu.client.queue) > maxQueued && !s.mu.over && !s.mu.client.failed {
		s.wait()
	}
}
