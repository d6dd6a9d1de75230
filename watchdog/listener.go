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
	maxHandshakes    = 256 // under way at once; strangers wait behind them
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

	open conns // of both protocols, and those that are in their handshake
}

// newListener serves port, which it closes in the end.
func newListener(port net.Listener, id *identity.Identity, log *slog.Logger) *listener {
	return &listener{
		port: port, tls: id.ServerTLS(protocolRaft, protocolCall), log: log,
		raft: newAccepted(port.Addr()), calls: newAccepted(port.Addr()),
	}
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
		if conn = l.open.add(seam(conn)); conn == nil {
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

func (l *listener) close() {
	l.port.Close()
	l.raft.Close()
	l.calls.Close()
	l.open.close()
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
