package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// defaultPort is the port of the Unix socket's name where no TCP address is given.
const defaultPort = 9999

// acceptPause is how long a listener waits after it could not accept, as when the
// process has no file descriptor left.
const acceptPause = 50 * time.Millisecond

// listen opens the listeners, TCP first.
func listen(ctx context.Context, cfg ListenConfig) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
		}
	}()
	port := defaultPort
	if cfg.Address != "" {
		if listeners, port, err = listenTCP(ctx, cfg); err != nil {
			return listeners, err
		}
	}
	if cfg.UnixSocketDir != "" {
		l, err := listenUnix(ctx, filepath.Join(cfg.UnixSocketDir, fmt.Sprintf(".s.PGSQL.%d", port)))
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
		return nil, errors.New("listen: neither listen.address nor listen.unix_socket_dir is given")
	}
	return listeners, nil
}

// listenTCP listens on every address that the host has, with the port of the first
// where it is 0.
func listenTCP(ctx context.Context, cfg ListenConfig) (listeners []net.Listener, port int, err error) {
	host, service, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, 0, fmt.Errorf("listen on %q: %w", cfg.Address, err)
	}
	hosts := []string{""}
	if host != "" && host != "*" {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, 0, fmt.Errorf("listen on %q: %w", cfg.Address, err)
		}
		hosts = hosts[:0]
		for _, ip := range ips {
			hosts = append(hosts, ip.Unmap().String())
		}
	}
	lc := net.ListenConfig{
		KeepAlive: -1, // accept sees to it
		Control: func(_, _ string, rc syscall.RawConn) error {
			_ = passOn(rc, cfg.Keepalive)
			return errors.Join(awaitData(rc), sendAtOnce(rc))
		},
	}
	for _, h := range hosts {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(h, service))
		if err != nil {
			return listeners, 0, err
		}
		listeners = append(listeners, l)
		port = l.Addr().(*net.TCPAddr).Port
		service = strconv.Itoa(port)
	}
	return listeners, port, nil
}

// listenUnix listens on a Unix socket that everybody may connect to, as on
// PostgreSQL's. A socket that a dead process has left is removed.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another server has it", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("open socket to all: %w", err)
	}
	return l, nil
}

// newcomer is a connection that has passed the gate and is to be started.
type newcomer struct {
	conn  net.Conn
	place *place
	// ctx bounds the startup: its cause is errEvicted when the place is lost. end frees
	// it.
	ctx context.Context
	end context.CancelCauseFunc
}

// accept gives connections that have passed the gate to serve until ctx ends or the
// listener breaks.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(n newcomer)) error {
	var failing bool
	sc, _ := l.(syscall.Conn)
	inherited := inheritance{listener: sc}
	inherited.set(s.cfg.Load().Listen.Keepalive)
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			if !failing {
				failing = true
				s.log.Error("cannot accept a client", "error", err)
			}
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		failing = false
		if tcp, ok := conn.(*net.TCPConn); ok {
			if k := s.cfg.Load().Listen.Keepalive; !inherited.has(k) {
				_ = tcp.SetKeepAliveConfig(k.net()) // fails only on a broken one
				inherited.set(k)
			}
		}
		var addr netip.Addr
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			addr = a.AddrPort().Addr()
		}
		n := newcomer{conn: conn}
		n.ctx, n.end = context.WithCancelCause(ctx)
		n.place = s.gate.newPlace(addr, n.end)
		if err := s.gate.enter(ctx, n.place); err != nil {
			_ = conn.Close()
			n.end(nil)
			return nil
		}
		serve(n)
	}
}

// inheritance is the keepalive that connections have when they come from a listener.
type inheritance struct {
	listener  syscall.Conn // nil: it has no socket
	known     bool
	keepalive KeepaliveConfig
}

func (i *inheritance) has(k KeepaliveConfig) bool { return i.known && i.keepalive == k }

// set gives the listener another one for later connections. Where that cannot be, nothing
// is known.
func (i *inheritance) set(k KeepaliveConfig) {
	i.known = false
	if i.listener == nil {
		return
	}
	if rc, err := i.listener.SyscallConn(); err == nil && passOn(rc, k) == nil {
		i.known, i.keepalive = true, k
	}
}

// errEvicted is told to a connection that lost its place before it had
// authenticated.
var errEvicted = &Refusal{Code: codeTooManyConnections, Message: "pgproxy: too many connections are authenticating"}
