package pcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// openUnix listens on the socket. One that a dead process has left is removed.
// Its mode is for the server's user alone, and who connects is looked at too.
func (s *Server) openUnix(ctx context.Context) (net.Listener, error) {
	path := s.cfg.UnixSocket
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another server has it", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	case errors.Is(err, os.ErrNotExist):
		// systemd makes the directory (RuntimeDirectory=); elsewhere nobody may have.
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("make the socket's directory: %w", err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("close socket to others: %w", err)
	}
	return l, nil
}

func (s *Server) openTCP(ctx context.Context) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", strings.Replace(s.cfg.Listen, "*:", ":", 1))
	if err != nil {
		return nil, err
	}
	return l, nil
}

// tlsListener puts TLS on what it accepts. The handshake is made with the first
// read, under the same deadline as the header of the first request.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

// Accept returns a *tlsConn.
func (l *tlsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tlsConn{tls.Server(conn, l.config)}, nil
}

// tlsConn is a type that net/http does not know: a *tls.Conn with a protocol
// that is not one of HTTP's it would close.
type tlsConn struct{ *tls.Conn }

// boundedListener has at most maxConnections open; who comes then waits in the
// kernel's queue.
type boundedListener struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func bounded(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, places: make(chan struct{}, maxConnections), closed: make(chan struct{})}
}

// Accept waits for a place first.
func (b *boundedListener) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-b.places })}, nil
}

// Close lets Accept end.
func (b *boundedListener) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
