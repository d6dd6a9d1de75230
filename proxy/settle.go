package proxy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// settling is addresses that are about to leave this host. It is immutable but for how
// it ends.
type settling struct {
	addrs []netip.Addr
	left  atomic.Bool   // an address has left; written before over is closed
	over  chan struct{} // closed when it has ended
	end   func()        // closes over
}

// settleLook is how often it is looked whether anything still runs, and leaveWait how
// long an address that leaves waits for the last words to its clients.
const (
	settleLook = 5 * time.Millisecond
	leaveWait  = 50 * time.Millisecond
)

// arrival is the address of this host that a client has connected to; zero: a Unix
// socket.
func arrival(c *client) netip.Addr {
	if a, ok := c.raw.LocalAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// Settle has sessions that came to one of these addresses begin nothing new, and new
// ones wait, and returns when nothing runs in them or ctx ends. Leave ends it for an
// address that leaves, Unsettle where none does.
func (s *Server) Settle(ctx context.Context, addrs []netip.Addr) {
	st := &settling{addrs: addrs, over: make(chan struct{})}
	st.end = sync.OnceFunc(func() { close(st.over) })
	sh := s.sessions
	sh.settling.Store(st)
	tick := time.NewTicker(settleLook)
	defer tick.Stop()
	for slices.ContainsFunc(sh.all(), func(cs *clientSession) bool { return sh.settles(cs.client) != nil && cs.busy() }) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Unsettle lets everything go on.
func (s *Server) Unsettle() {
	st := s.sessions.settling.Swap(nil)
	if st == nil {
		return
	}
	st.end()
	for _, cs := range s.sessions.all() {
		cs.drain()
	}
}

// Leave ends the sessions that came to an address which leaves this host now: what
// their clients were told later would not reach them. It waits for leaveWait at most.
func (s *Server) Leave(addr netip.Addr) {
	if st := s.sessions.settling.Load(); st != nil && slices.Contains(st.addrs, addr) {
		st.left.Store(true)
		st.end()
	}
	var told sync.WaitGroup
	for _, cs := range s.sessions.all() {
		if arrival(cs.client) == addr {
			told.Go(func() { cs.end(errShutdown, func() bool { return true }) })
		}
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		told.Wait()
	}()
	late := time.NewTimer(leaveWait)
	defer late.Stop()
	select {
	case <-all:
	case <-late.C:
	}
}

// settles returns the settling under way that is about the address to which the client
// came; nil: none is.
func (sh *sessions) settles(c *client) *settling {
	if st := sh.settling.Load(); st != nil && slices.Contains(st.addrs, arrival(c)) {
		return st
	}
	return nil
}

// awaitSettled keeps a client from starting a session while its address is about to
// leave.
func (sh *sessions) awaitSettled(ctx context.Context, c *client) error {
	st := sh.settles(c)
	if st == nil {
		return nil
	}
	select {
	case <-st.over:
		if st.left.Load() {
			return errShutdown
		}
		return nil
	case <-ctx.Done():
		return errShutdown
	}
}

// busy tells whether anything is in flight or a transaction is open.
func (s *clientSession) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.mu.core.Idle() && !s.mu.core.Closed()
}

// awaitGo keeps what the client has sent from beginning while its address is about to
// leave. The lock is held.
func (s *clientSession) awaitGo() {
	for s.settling() && !s.mu.core.Closed() && !s.mu.over {
		s.wait()
	}
}

// settling reports that nothing is to begin because the client's address is about to leave.
// The lock is held.
func (s *clientSession) settling() bool {
	return s.shared.settling.Load() != nil && s.shared.settles(s.client) != nil && s.mu.core.Idle()
}
