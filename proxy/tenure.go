package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Lease is this member's right to hand bytes to a server as the primary (S1).
type Lease interface {
	// Until returns when that right ends; the zero time: there is none now. It is
	// called for every batch and every answer.
	Until(backend string) time.Time
	// Changed returns a channel that is closed when a lease was gained or lost. That
	// one has run out is for the clock to say.
	Changed() <-chan struct{}
}

// always is the Lease of a Server that was given none.
type always struct{ end time.Time }

func newAlways() always { return always{time.Now().AddDate(100, 0, 0)} }

func (a always) Until(string) time.Time { return a.end }

func (a always) Changed() <-chan struct{} { return nil }

// errNoLease tells that this member may not use the primary now. Waiting may help.
var errNoLease = fmt.Errorf("this member has no lease of the primary: %w", errBackendGone)

// tenure is a time in which this member may use one server as the primary: as long
// as the cluster's State names it, on that timeline, and a lease is held. All
// connections to the primary are of a tenure and are closed with it.
//
// It is not ended by a lease that had run out and is there again before anybody has
// noticed: the server has been the primary all the time.
type tenure struct {
	backend  string
	timeline uint32
	cluster  Cluster
	lease    Lease
	ended    atomic.Bool
	expired  bool      // it ended with the lease; written before end is called
	reported sync.Once // its end was logged
	// over ends when ended is set: who still connects is not to wait for a server that
	// is the primary no more.
	over   context.Context
	finish context.CancelFunc

	mu struct {
		sync.Mutex
		conns map[io.Closer]struct{} // open ones; none is added once ended is set
	}
}

func newTenure(backend string, timeline uint32, c Cluster, l Lease) *tenure {
	t := &tenure{backend: backend, timeline: timeline, cluster: c, lease: l}
	t.over, t.finish = context.WithCancel(context.Background())
	t.mu.conns = make(map[io.Closer]struct{})
	return t
}

// holds compares the lease with a fresh reading of the monotonic clock.
func (t *tenure) holds() bool {
	if t.ended.Load() {
		return false
	}
	if s := t.cluster.State(); s.Primary != t.backend || s.Timeline != t.timeline {
		return false
	}
	return time.Until(t.lease.Until(t.backend)) > 0
}

// remaining is how long the lease still runs, without renewal.
func (t *tenure) remaining() time.Duration { return time.Until(t.lease.Until(t.backend)) }

// guard makes a new connection one of the tenure.
func (t *tenure) guard(raw net.Conn) (net.Conn, error) {
	c := &leasedConn{Conn: raw, tenure: t}
	c.close = sync.OnceValue(func() error {
		err := raw.Close() // returns when no write is under way any more (internal/poll)
		t.leave(c)
		return err
	})
	if !t.enter(c) {
		_ = raw.Close()
		return nil, errNoLease
	}
	return c, nil
}

// enter notes an open connection, which has to leave when it is closed; false: the tenure
// has ended. Its Close returns when no write is under way.
func (t *tenure) enter(c io.Closer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended.Load() {
		return false
	}
	t.mu.conns[c] = struct{}{}
	return true
}

func (t *tenure) leave(c io.Closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.mu.conns, c)
}

// end closes all connections, and returns when none of them is open or written to
// any more, whoever closes it.
func (t *tenure) end() {
	t.mu.Lock()
	t.ended.Store(true)
	t.finish()
	conns := make([]io.Closer, 0, len(t.mu.conns))
	for c := range t.mu.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // it is of no use, with or without an error
	}
}

// report logs the end, once.
func (t *tenure) report(log *slog.Logger) {
	t.reported.Do(func() {
		if t.expired {
			log.Warn("lease of the primary has run out", "backend", t.backend, "timeline", t.timeline)
		} else {
			log.Info("connections to the old primary closed", "backend", t.backend, "timeline", t.timeline)
		}
	})
}

// leasedConn is the TCP or Unix connection to a primary. TLS is above it: what
// tls.Conn has already deciphered was received while the lease was held.
type leasedConn struct {
	net.Conn
	tenure *tenure
	close  func() error // once; who comes second waits for the first
}

// Write hands bytes to the primary only while the lease is held. Else the connection is
// closed: the lease may be there again before anybody looks, and no answer would ever come.
func (c *leasedConn) Write(b []byte) (int, error) {
	if !c.tenure.holds() {
		_ = c.Close()
		return 0, errNoLease
	}
	return c.Conn.Write(b)
}

// writeBuffers is Write of several pieces in one system call.
func (c *leasedConn) writeBuffers(pieces net.Buffers) error {
	if !c.tenure.holds() {
		_ = c.Close()
		return errNoLease
	}
	_, err := pieces.WriteTo(c.Conn)
	return err
}

// Read drops what came while the lease was not held: by the time this process looks
// at it, there may be another primary.
func (c *leasedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.tenure.holds() {
		return 0, errNoLease
	}
	return n, err
}

// Close closes the connection. When it returns no write is under way.
func (c *leasedConn) Close() error { return c.close() }

// CloseWrite ends the stream to the server.
func (c *leasedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.tenure.holds() {
		return w.CloseWrite()
	}
	return errNoLease
}

// SyscallConn is for quietSocket.
func (c *leasedConn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}
