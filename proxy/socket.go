package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pgproxy/pgproxy/proxy/loop"
)

// socket is a client's or a server's connection that an event loop watches. The session
// that has it (owner) reads and writes it without blocking. As a net.Conn it is for
// whoever else has it, one goroutine at a time: the pool that cleans a link, the end of a
// session.
type socket struct {
	conn   loop.Conn
	tenure *tenure // of the primary that it is to; nil: anything else
	// tls is above the socket, and under is between the two; nil: there is no TLS.
	tls   *tls.Conn
	under *carrier
	// owner is told of what comes; nil: the startup under way, or else the one who reads.
	owner    atomic.Pointer[clientSession]
	starting atomic.Pointer[startupEvents]
	attached attachedServer // in the slot of a session; of the session's lock
	// rest is what was read and the core has not taken. Of the session's lock.
	rest []byte

	read     chan struct{} // of capacity 1: there is something to read, and no owner
	deadline time.Time
	closed   sync.Once
}

// newSocket has a loop watch what is a socket of the runtime's poller, which is closed.
// The session, if there is one, is told of what comes. TLS above it stays; its handshake is
// done.
func newSocket(l *loop.Loop, conn net.Conn, t *tenure, owner *clientSession) (*socket, error) {
	secured, under := conn, carrierOf(conn)
	if under != nil {
		conn = under.Conn
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.New("not a socket")
	}
	fd, err := loop.Dup(sc)
	if err != nil {
		return nil, err
	}
	k := &socket{tenure: t}
	if owner == nil {
		k.read = make(chan struct{}, 1)
	}
	k.owner.Store(owner)
	if under != nil {
		k.secure(secured.(*tls.Conn), under)
	}
	if err := l.Add(&k.conn, fd, k); err != nil {
		return nil, err
	}
	if t != nil && !t.enter(k) {
		_ = k.conn.Close()
		return nil, errNoLease
	}
	_ = conn.Close()
	if k.tls != nil { // it may have read more than was asked of it
		k.conn.Again()
		k.conn.Resume()
	}
	return k, nil
}

// Readable tells the session, or the one who reads.
func (k *socket) Readable(l *loop.Loop) (again bool) {
	if s := k.owner.Load(); s != nil {
		return s.mover.(*events).readable(ownerOf(l), k)
	}
	if s := k.starting.Load(); s != nil {
		return s.readable(ownerOf(l))
	}
	select {
	case k.read <- struct{}{}:
	default:
	}
	return false
}

// Writable tells the session.
func (k *socket) Writable(*loop.Loop) {
	if s := k.owner.Load(); s != nil {
		s.mover.(*events).writable(k)
	}
}

// on reports that it is that loop which watches the connection.
func (k *socket) on(l *eventLoop) bool { return k.conn.On(l.Loop) }

// take reads what is there without blocking; 0 and no error: nothing is. What a primary has
// sent is dropped while the lease is not held, also what TLS had received before.
func (k *socket) take(b []byte) (n int, err error) {
	if k.tls != nil {
		n, err = k.takeTLS(b)
	} else {
		n, err = k.conn.Read(b)
	}
	if n > 0 && k.tenure != nil && !k.tenure.holds() {
		return 0, errNoLease
	}
	return n, err
}

// put writes what the socket takes.
func (k *socket) put(pieces [][]byte) (int, error) {
	if k.tls != nil {
		return k.putTLS(pieces)
	}
	return k.putRaw(pieces)
}

// putRaw writes to the socket, to a primary only while the lease is held. Else it is closed:
// the lease may be there again before anybody looks, and no answer would ever come.
func (k *socket) putRaw(pieces [][]byte) (int, error) {
	if k.tenure != nil && !k.tenure.holds() {
		_ = k.Close()
		return 0, errNoLease
	}
	return k.conn.Write(pieces)
}

// Read waits for what comes.
func (k *socket) Read(b []byte) (int, error) {
	if len(k.rest) > 0 {
		n := copy(b, k.rest)
		k.rest = k.rest[n:]
		return n, nil
	}
	for {
		if n, err := k.take(b); n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if k.deadline.IsZero() {
			<-k.read
			continue
		}
		timer := time.NewTimer(time.Until(k.deadline))
		select {
		case <-k.read:
			timer.Stop()
		case <-timer.C:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Write does not wait: what is written so is small, and the peer of a connection that is
// not in use has taken what was written before.
func (k *socket) Write(b []byte) (int, error) {
	n, err := k.put([][]byte{b})
	if err == nil && (n < len(b) || k.laden()) {
		err = io.ErrShortWrite
	}
	return n, err
}

// Close closes the connection. When it returns no write is under way.
func (k *socket) Close() error {
	err := k.conn.Close()
	if k.tenure != nil {
		k.closed.Do(func() { k.tenure.leave(k) })
	}
	return err
}

// CloseWrite ends the stream to the peer.
func (k *socket) CloseWrite() error {
	if k.tls != nil {
		_ = k.tls.CloseWrite() // a hint
	}
	return k.conn.CloseWrite()
}

// LocalAddr returns the address on this side; nil for a Unix socket.
func (k *socket) LocalAddr() net.Addr {
	if a := k.conn.LocalAddr(); a.IsValid() {
		return net.TCPAddrFromAddrPort(a)
	}
	return nil
}

// RemoteAddr returns nil: who needs it has it.
func (k *socket) RemoteAddr() net.Addr { return nil }

// SetDeadline bounds the reads that begin later.
func (k *socket) SetDeadline(t time.Time) error {
	k.deadline = t
	return nil
}

// SetReadDeadline bounds the reads that begin later.
func (k *socket) SetReadDeadline(t time.Time) error { return k.SetDeadline(t) }

// SetWriteDeadline does nothing: writes do not wait.
func (k *socket) SetWriteDeadline(time.Time) error { return nil }

// Quiet reports that the connection is open and nothing has come.
func (k *socket) Quiet() bool {
	if k.tls != nil {
		return k.quietTLS()
	}
	return k.conn.Quiet()
}

// SyscallConn is for the kernel's counters.
func (k *socket) SyscallConn() (syscall.RawConn, error) { return rawSocket{&k.conn}, nil }

// rawSocket gives the descriptor to who looks at it.
type rawSocket struct{ conn *loop.Conn }

// Control calls f with the descriptor.
func (r rawSocket) Control(f func(fd uintptr)) error { return r.conn.Control(f) }

// Read is not supported.
func (rawSocket) Read(func(uintptr) bool) error { return errors.ErrUnsupported }

// Write is not supported.
func (rawSocket) Write(func(uintptr) bool) error { return errors.ErrUnsupported }
