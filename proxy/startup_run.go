package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// startupBuffer holds all that an honest client sends at once before its session, in
// bytes.
const startupBuffer = 1 << 10

// run is the driver of a startup by a goroutine, up to where its session can start.
func (s *startup) run(ctx context.Context) error {
	c := s.client
	small, _ := s.server.inputs.Get().(*[startupBuffer]byte)
	if small == nil {
		small = new([startupBuffer]byte)
	}
	defer s.server.inputs.Put(small)
	in, n := small[:], 0
	for {
		used, need, err := s.advance(in[:n])
		if err == nil && need == needAuth {
			need, err = s.proceed(ctx)
		}
		n = copy(in, in[used:n])
		if err != nil {
			return err
		}
		switch need {
		case needCancel:
			return s.cancel(ctx)
		case needSession:
			if n > 0 { // a client that does not wait for ReadyForQuery
				c.conn = newPrefixConn(c.conn, in[:n])
			}
			return nil
		case needBytes, needTLS, needAuth: // after what is to be answered
		}
		if err := c.flush(); err != nil {
			return fmt.Errorf("answer: %w: %w", err, errSilent)
		}
		if need == needTLS {
			if err := s.handshake(ctx, in[:n]); err != nil {
				return err
			}
			n = 0
		}
		if used > 0 && n > 0 { // a client that does not wait for what it is asked
			continue
		}
		if n == len(in) {
			in = append(in, make([]byte, len(in))...)
		}
		r, err := c.conn.Read(in[n:])
		if n += r; err != nil && r == 0 {
			// A port scan or a health check: not worth a word in the log.
			return fmt.Errorf("read: %w: %w", err, errSilent)
		}
	}
}

// handshake makes the connection a TLS connection; read is what has come of it already.
func (s *startup) handshake(ctx context.Context, read []byte) error {
	c := s.client
	below := &carrier{Conn: c.conn}
	if len(read) > 0 {
		below.Conn = newPrefixConn(c.conn, read)
	}
	conn := tls.Server(below, s.identity.config)
	s.handshaking = true
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w: %w", err, errSilent)
	}
	s.handshaking = false
	if p, ok := below.Conn.(*prefixConn); ok && p.prefix.Len() == 0 {
		below.Conn = p.Conn
	}
	c.conn = conn
	return s.secured(conn.ConnectionState())
}

// cancel carries out a CancelRequest. The client learns nothing but the end of the
// connection, when the server has the request.
func (s *startup) cancel(ctx context.Context) error {
	pid, secret, ok := pgwire.ReadCancelRequest(s.request)
	if !ok {
		return fmt.Errorf("invalid length of query cancel packet: %w", errSilent)
	}
	if err := s.server.cancels.cancel(ctx, s.client, pid, secret); err != nil {
		s.server.log.Warn("cancel request not forwarded", "client", s.client.addr(), "error", err)
	}
	return errSilent
}

// tell sends the client the reason why it does not get in; of some it is told
// nothing.
func (s *startup) tell(err error) {
	var raw []byte
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		raw = refusal.encode(pgwire.SeverityFatal)
	} else if fault, ok := errors.AsType[*pgwire.StartupError](err); ok {
		raw = pgwire.AppendError(nil, pgwire.SeverityFatal, fault.Code, fault.Message, "", fault.Hint)
	} else if denied, ok := errors.AsType[*auth.Error](err); ok {
		raw = denied.Encode()
	} else {
		return
	}
	s.client.tellLast(raw)
}

// tellLast sends what a client is told before its connection is closed, without
// waiting for one that does not read.
func (c *client) tellLast(b []byte) {
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	_ = c.tell(b)
}

// lingerTime is how long a client may go on sending that has been told the end.
const lingerTime = time.Second

// linger keeps a connection with input that nobody has read until the client ends it,
// for lingerTime at most: closed at once, it would be reset, and the client would not
// see what it was told last (RFC 1122, 4.2.2.13).
func linger(c *client) {
	if !unread(c.raw) {
		return
	}
	_ = c.conn.SetDeadline(time.Now().Add(lingerTime))
	closeWrite(c.conn)
	closeWrite(c.raw)
	_, _ = io.Copy(io.Discard, c.raw)
}

// prefixConn gives out bytes that were read from a connection before the rest.
type prefixConn struct {
	net.Conn
	prefix *bytes.Reader
}

// newPrefixConn copies what was read of conn.
func newPrefixConn(conn net.Conn, read []byte) *prefixConn {
	return &prefixConn{Conn: conn, prefix: bytes.NewReader(bytes.Clone(read))}
}

// Read reads the prefix, then the connection.
func (c *prefixConn) Read(b []byte) (int, error) {
	if c.prefix.Len() > 0 {
		return c.prefix.Read(b)
	}
	return c.Conn.Read(b)
}

// CloseWrite ends the stream to the peer.
func (c *prefixConn) CloseWrite() error {
	closeWrite(c.Conn)
	return nil
}
