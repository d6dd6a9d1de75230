package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pgproxy/pgproxy/proxy/loop"
)

// maxAccepts is how many connections are accepted in one turn of a loop at most.
const maxAccepts = 64

// acceptor is a listener that an event loop watches. The connections are handed out evenly
// to all loops.
type acceptor struct {
	server    *Server
	conn      loop.Conn
	path      string          // of a Unix socket; "": TCP
	accepting context.Context // of those that have not authenticated yet
	serving   context.Context // of sessions

	mu struct {
		sync.Mutex
		inherited inheritance
		failing   bool
		paused    bool // nothing is accepted, although there may be somebody
		stopped   bool
	}
}

// newAcceptor has a loop watch a listener, which is closed.
func (s *Server) newAcceptor(l *eventLoop, from net.Listener, accepting, serving context.Context) (*acceptor, error) {
	a := &acceptor{server: s, accepting: accepting, serving: serving}
	sc, ok := from.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("hand a listener to an event loop: %w", errors.ErrUnsupported)
	}
	fd, err := loop.Dup(sc)
	if err != nil {
		return nil, fmt.Errorf("hand a listener to an event loop: %w", err)
	}
	if u, ok := from.(*net.UnixListener); ok {
		a.path = u.Addr().String()
		u.SetUnlinkOnClose(false)
	}
	_ = from.Close() // the runtime's poller would wake up for each connection, too
	a.mu.inherited = inheritance{listener: a}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := l.Add(&a.conn, fd, a); err != nil {
		return nil, err
	}
	a.mu.inherited.set(s.cfg.Load().Listen.Keepalive)
	return a, nil
}

// SyscallConn is for the options of the listening socket.
func (a *acceptor) SyscallConn() (syscall.RawConn, error) { return rawSocket{&a.conn}, nil }

// stop accepts no more; when it returns none is being accepted.
func (a *acceptor) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.stopped = true
	_ = a.conn.Close()
	if a.path != "" {
		_ = os.Remove(a.path)
	}
}

// Readable accepts connections.
func (a *acceptor) Readable(*loop.Loop) (again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range maxAccepts {
		if a.mu.stopped || a.mu.paused {
			return false
		}
		fd, from, err := a.conn.Accept()
		if err != nil {
			a.pause(err)
			return false
		}
		a.mu.failing = false
		if fd < 0 {
			return false
		}
		a.enter(fd, from)
	}
	return true
}

// Writable does nothing.
func (*acceptor) Writable(*loop.Loop) {}

// pause tries again later.
func (a *acceptor) pause(err error) {
	first := !a.mu.failing
	a.mu.failing, a.mu.paused = true, true
	time.AfterFunc(acceptPause, func() {
		if first {
			a.server.log.Error("cannot accept a client", "error", err)
		}
		a.resume()
	})
}

// resume accepts again.
func (a *acceptor) resume() {
	a.mu.Lock()
	a.mu.paused = false
	a.mu.Unlock()
	a.conn.Resume()
}

// enter starts a connection when it has its place; until then nobody else is accepted.
func (a *acceptor) enter(fd int, from netip.AddrPort) {
	srv := a.server
	k := new(socket)
	c := &client{conn: k, raw: k, sock: k, loop: srv.sessions.leastLoop(), remote: from, local: a.path != ""}
	s := &startupEvents{loop: c.loop, sock: k, serving: a.serving}
	s.place = srv.gate.newPlace(from.Addr(), s.evicted)
	s.startup = startup{server: srv, client: c, spoke: s.place.spoke}
	if wanted := srv.cfg.Load().Listen.Keepalive; !c.local && !a.mu.inherited.has(wanted) {
		_ = keepAlive(fd, wanted) // fails only on a broken one
		a.mu.inherited.set(wanted)
	}
	srv.conns.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if srv.gate.try(s.place) <= 0 {
		a.start(s, fd)
		return
	}
	a.mu.paused = true
	go func() {
		defer a.resume()
		s.mu.Lock()
		defer s.mu.Unlock()
		if srv.gate.enter(a.accepting, s.place) == nil && a.accepting.Err() == nil {
			a.start(s, fd)
			return
		}
		s.place.leave()
		closeFD(fd)
		srv.conns.Done()
	}()
}

// start has a loop serve a connection.
func (a *acceptor) start(s *startupEvents, fd int) {
	k := s.sock
	k.starting.Store(s)
	if err := s.loop.Add(&k.conn, fd, k); err != nil {
		s.refuse(errors.Join(err, errSilent))
	}
}

// closeFD closes a descriptor that nobody watches.
func closeFD(fd int) { _ = os.NewFile(uintptr(fd), "client").Close() }
