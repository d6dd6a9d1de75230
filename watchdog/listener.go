package watchdog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/identity"
)

// The protocols on the one port, told apart by TLS (RFC 7301).
const (
	protocolRaft = "pgproxy-raft"
	protocolCall = "pgproxy-call"
)

const (
	handshakeTimeout = 5 * time.Second
	maxHandshakes    = 64  // under way at once; strangers wait behind them
	maxConnections   = 512 // of members
)

// listener takes the connections of the one port. It lets in who completes a
// handshake, and hands the connection to the part that speaks its protocol.
type listener struct {
	port  net.Listener
	tls   *tls.Config
	log   *slog.Logger
	raft  *accepted
	calls *accepted
	wg    sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		conns  map[net.Conn]struct{} // of both protocols, and those that are in their handshake
	}
}

// newListener serves port, which it closes in the end.
func newListener(port net.Listener, id *identity.Identity, log *slog.Logger) *listener {
	l := &listener{
		port: port, tls: id.ServerTLS(protocolRaft, protocolCall), log: log,
		raft: newAccepted(port.Addr()), calls: newAccepted(port.Addr()),
	}
	l.mu.conns = map[net.Conn]struct{}{}
	return l
}

// run accepts until ctx ends; then all connections are closed, handed over or not.
// seam gets each connection before anything is read from it.
func (l *listener) run(ctx context.Context, seam func(net.Conn) net.Conn) error {
	defer l.wg.Wait()
	defer l.close()
	defer context.AfterFunc(ctx, l.close)()
	handshakes := make(chan struct{}, maxHandshakes)
	for {
		conn, err := l.port.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil: // too many files are open, or the like: it passes
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		conn = l.track(seam(conn))
		if conn == nil {
			continue
		}
		handshakes <- struct{}{}
		l.wg.Go(func() {
			defer func() { <-handshakes }()
			l.admit(ctx, conn)
		})
	}
}

// admit completes the handshake and hands conn over.
func (l *listener) admit(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c := tls.Server(conn, l.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		l.log.Debug("watchdog: connection refused", "from", conn.RemoteAddr().String(), "err", err)
		return
	}
	given := false
	if c.ConnectionState().NegotiatedProtocol == protocolRaft {
		given = l.raft.give(ctx, c)
	} else {
		given = l.calls.give(ctx, memberConn{c})
	}
	if !given {
		conn.Close()
	}
}

// track remembers conn until it is closed. It returns nil, and has closed conn, when
// there are too many.
func (l *listener) track(conn net.Conn) net.Conn {
	t := &tracked{Conn: conn, of: l}
	l.mu.Lock()
	full := l.mu.closed || len(l.mu.conns) >= maxConnections
	if !full {
		l.mu.conns[t] = struct{}{}
	}
	l.mu.Unlock()
	if full {
		conn.Close()
		return nil
	}
	return t
}

func (l *listener) close() {
	l.port.Close()
	l.raft.Close()
	l.calls.Close()
	l.mu.Lock()
	l.mu.closed = true
	conns := make([]net.Conn, 0, len(l.mu.conns))
	for c := range l.mu.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// tracked is a connection that the listener closes in the end.
type tracked struct {
	net.Conn
	of *listener
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.mu.conns, t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}

// accepted is a net.Listener for connections that have been accepted already.
type accepted struct {
	addr net.Addr
	ch   chan net.Conn
	once sync.Once
	done chan struct{}
}

func newAccepted(addr net.Addr) *accepted {
	return &accepted{addr: addr, ch: make(chan net.Conn), done: make(chan struct{})}
}

// give hands c to the next Accept.
func (a *accepted) give(ctx context.Context, c net.Conn) bool {
	select {
	case a.ch <- c:
		return true
	case <-a.done:
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (a *accepted) Accept() (net.Conn, error) {
	select {
	case c := <-a.ch:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (a *accepted) Close() error {
	a.once.Do(func() { close(a.done) })
	return nil
}

// Addr implements net.Listener.
func (a *accepted) Addr() net.Addr { return a.addr }
