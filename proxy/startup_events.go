package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/loop"
)

// startupEvents is the driver of a startup by an event loop, which reads what the client
// sends and goes on at once wherever that does not wait. What does is done by a goroutine,
// while nothing is read.
type startupEvents struct {
	startup
	loop    *eventLoop
	sock    *socket
	place   *place
	serving context.Context // bounds the session

	mu struct {
		sync.Mutex
		rest  []byte                  // read, and not used yet
		work  context.CancelCauseFunc // ends what a goroutine does for it; nil: none does
		cause error                   // why it is to end, once that goroutine has ended
		over  bool                    // refused, or handed to the session
	}
}

// readable reads once.
func (s *startupEvents) readable(l *eventLoop) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.over || s.mu.work != nil {
		return false
	}
	buf := l.Buffer()
	n := copy(buf, s.mu.rest)
	r, err := s.sock.take(buf[n:])
	switch {
	case err != nil:
		// A port scan or a health check: not worth a word in the log.
		s.refuse(fmt.Errorf("read: %w: %w", err, errSilent))
	case r > 0:
		s.feed(buf[:n+r])
		return !s.mu.over && s.mu.work == nil
	}
	return false
}

// feed takes what the client has sent, as far as it is complete. The lock is held, as by
// all that follow.
func (s *startupEvents) feed(b []byte) {
	for {
		used, need, err := s.advance(b)
		later := err == nil && need == needAuth && !s.exchange.Prompt()
		switch {
		case later:
			s.body = bytes.Clone(s.body)
		case err == nil && need == needAuth:
			need, err = s.proceed(s.serving)
		}
		s.mu.rest = append(s.mu.rest[:0], b[used:]...) // body may have been there
		if later {
			s.spawn(s.proceed)
			return
		}
		if !s.goOn(need, err) || used == 0 {
			return
		}
		b = s.mu.rest
	}
}

// goOn does what the startup needs; false: nothing is to be taken from the client now.
func (s *startupEvents) goOn(n need, err error) bool {
	if err == nil && n != needSession {
		if err = s.client.flush(); err != nil {
			err = fmt.Errorf("answer: %w: %w", err, errSilent)
		}
	}
	switch {
	case err != nil:
		s.refuse(err)
	case n == needTLS:
		s.spawn(s.encrypt)
	case n == needCancel:
		s.spawn(func(ctx context.Context) (need, error) { return needCancel, s.cancel(ctx) })
	case n == needSession:
		s.admit()
	default:
		return true
	}
	return false
}

// spawn has a goroutine do what may wait, and goes on when that is done.
func (s *startupEvents) spawn(f func(ctx context.Context) (need, error)) {
	ctx, end := context.WithCancelCause(s.serving)
	s.mu.work = end
	go func() {
		n, err := f(ctx)
		end(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.work = nil
		if s.mu.cause != nil {
			err = s.mu.cause
		}
		if s.goOn(n, err) {
			s.feed(s.mu.rest)
			s.sock.conn.Resume()
		}
	}()
}

// encrypt makes the connection a TLS connection, by reads and writes that wait for the loop
// to tell of the socket.
func (s *startupEvents) encrypt(ctx context.Context) (need, error) {
	k := s.sock
	k.read = make(chan struct{}, 1)
	k.deadline = time.Now().Add(s.server.cfg.Load().Listen.Startup.Timeout)
	k.starting.Store(nil)
	err := s.handshake(ctx, s.mu.rest)
	if err != nil {
		return needTLS, err
	}
	secured := s.client.conn.(*tls.Conn)
	under := carrierOf(secured)
	if under.Conn != net.Conn(k) {
		return needTLS, fmt.Errorf("TLS handshake: not all was used: %w", errSilent)
	}
	k.deadline = time.Time{}
	k.secure(secured, under)
	s.client.conn, s.mu.rest = k, nil
	k.conn.Again() // TLS may have read more than was asked of it
	k.starting.Store(s)
	return needBytes, nil
}

// evicted has the startup end that has lost its place. Where others come in its place the
// loop sees to it, which accepts them: so it has no more descriptors open than it may.
func (s *startupEvents) evicted(cause error) {
	if errors.Is(cause, errEvicted) {
		s.loop.Post(s)
		return
	}
	go s.end(cause)
}

// Turn ends one that others have taken the place of.
func (s *startupEvents) Turn(*loop.Loop) { s.end(errEvicted) }

// end ends a startup that has lost its place.
func (s *startupEvents) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.over:
	case s.mu.work != nil:
		s.mu.cause = cause
		s.mu.work(cause)
	default:
		s.refuse(cause)
	}
}

// refuse ends the connection.
func (s *startupEvents) refuse(err error) {
	s.mu.over = true
	s.place.leave()
	if !s.handshaking {
		s.tell(err)
		if k := s.sock; k.tls != nil {
			_ = k.tls.CloseWrite() // a hint
		}
	}
	_ = s.client.conn.Close()
	go func() { // a log may be slow
		s.server.refused(s.client, err)
		s.server.conns.Done()
	}()
}

// admit counts the client and begins its session.
func (s *startupEvents) admit() {
	c, srv := s.client, s.server
	if err := srv.admit(c); err != nil {
		s.refuse(err)
		return
	}
	s.mu.over = true
	s.place.leave()
	k := s.sock
	k.keep(s.mu.rest)
	if c.replication == pgwire.ReplicationNone {
		if err := srv.sessions.serveNow(s.serving, c); err != nil {
			k.starting.Store(nil)
			srv.left(c, err)
			return
		}
		k.read = make(chan struct{}, 1)
	}
	k.starting.Store(nil)
	go func() {
		if c.replication != pgwire.ReplicationNone {
			if err := s.unwatch(); err != nil {
				srv.left(c, err)
				return
			}
		}
		srv.session(s.serving, c)
	}()
}

// unwatch makes the client's connection one that blocks.
func (s *startupEvents) unwatch() error {
	c, k := s.client, s.sock
	conn, err := k.unwatch()
	if err != nil {
		return fmt.Errorf("take the client from an event loop: %w", err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok { // package net has given it another one
		_ = tcp.SetKeepAliveConfig(s.server.cfg.Load().Listen.Keepalive.net())
	}
	c.loop, c.sock, c.conn, c.raw = nil, nil, conn, conn
	if k.tls != nil {
		c.conn = k.tls
	}
	if len(k.rest) > 0 {
		c.conn = newPrefixConn(c.conn, k.rest)
	}
	return nil
}

// unwatch takes the socket from its loop, for reads and writes that block; TLS stays above
// it.
func (k *socket) unwatch() (net.Conn, error) {
	if k.laden() {
		return nil, errors.New("the client has not taken what it was told")
	}
	fd, err := k.conn.Release()
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "client")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err == nil && k.under != nil {
		k.under.Conn, k.under.sock = conn, nil
	}
	return conn, err
}
