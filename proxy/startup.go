package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// errSilent ends a connection without a word to the client, as PostgreSQL does it
// where an answer would help only an attacker.
var errSilent = errors.New("closed without an answer")

// startupBuffer holds all that an honest client sends at once before its session, in
// bytes. Longer packets and passwords get memory of their own.
const startupBuffer = 1 << 10

// startup is one connection between accept and the start of its session.
type startup struct {
	server *Server
	client *client
	in     *bufio.Reader // of client.conn
	spoke  func()        // the client has sent its first packet
	tls    bool
	info   auth.ConnInfo

	sslDone, gssDone bool
	handshaking      bool // what is written to the connection now belongs to TLS
}

// run brings a connection to the point where its session can start: nil when the
// client has been told AuthenticationOk. A *Refusal, a *pgwire.StartupError and an
// *auth.Error are still to be told to the client.
func (s *startup) run(ctx context.Context) error {
	s.in, _ = s.server.inputs.Get().(*bufio.Reader)
	if s.in == nil {
		s.in = bufio.NewReaderSize(nil, startupBuffer)
	}
	defer func() {
		s.in.Reset(nil)
		s.server.inputs.Put(s.in)
	}()
	s.in.Reset(s.client.conn)
	body, err := s.startupPacket(ctx)
	if err != nil {
		return err
	}
	if err := s.parse(body); err != nil {
		return err
	}
	if s.server.cfg.Load().Listen.TLS.Mode == TLSRequire && !s.client.local && !s.tls {
		return &Refusal{
			Code: codeInvalidAuthorization, Message: "pgproxy: this server accepts TCP connections only with TLS",
			Hint: "Connect with sslmode=require or a stricter one.",
		}
	}
	if err := s.authenticate(ctx); err != nil {
		return err
	}
	if s.in.Buffered() > 0 { // a client that does not wait for ReadyForQuery
		s.client.conn = newPrefixConn(s.client.conn, s.in)
	}
	return nil
}

// startupPacket reads packets, answers the requests for encryption, and returns the
// body of the startup message. Each request may come once, in either order, until
// one is granted (ProcessStartupPacket in PostgreSQL's postmaster.c).
func (s *startup) startupPacket(ctx context.Context) ([]byte, error) {
	for first := true; ; first = false {
		head, err := s.in.Peek(4)
		if err != nil {
			// A port scan or a health check: not worth a word in the log.
			return nil, fmt.Errorf("read startup packet: %w: %w", err, errSilent)
		}
		s.spoke()
		if first && head[0] == 0x16 { // the type of a TLS handshake record
			if err := s.directTLS(ctx); err != nil {
				return nil, err
			}
			continue
		}
		length := int32(binary.BigEndian.Uint32(head))
		if length < 8 || length-4 > pgwire.MaxStartup {
			return nil, fmt.Errorf("invalid length of startup packet: %w", errSilent)
		}
		packet, err := s.take(int(length))
		if err != nil {
			return nil, fmt.Errorf("incomplete startup packet: %w: %w", err, errSilent)
		}
		body := packet[4:]
		code := pgwire.RequestCode(body)
		switch {
		case length == 8 && (code == pgwire.SSLRequestCode && !s.sslDone || code == pgwire.GSSENCRequestCode && !s.gssDone):
			if err := s.encryption(ctx, code, s.in.Buffered() > 0); err != nil {
				return nil, err
			}
		case code == pgwire.CancelRequestCode:
			return nil, s.cancel(ctx, body)
		default:
			return body, nil
		}
	}
}

// take reads n bytes, which are valid until the next read.
func (s *startup) take(n int) ([]byte, error) {
	if n <= s.in.Size() {
		b, err := s.in.Peek(n)
		_, _ = s.in.Discard(len(b)) // they are there
		return b, err
	}
	b := make([]byte, n)
	_, err := io.ReadFull(s.in, b)
	return b, err
}

// message reads one message. body is valid until the next read; above limit bytes it is
// errTooLong.
func (s *startup) message(limit int) (typ byte, body []byte, err error) {
	header, err := s.take(pgwire.HeaderLen)
	if err != nil {
		return 0, nil, err
	}
	typ, n, _, err := pgwire.Header(header)
	if err != nil {
		return typ, nil, err
	}
	if n -= pgwire.HeaderLen; n > limit {
		return typ, nil, fmt.Errorf("read message %q: %d bytes, %w %d", typ, n, errTooLong, limit)
	}
	body, err = s.take(n)
	return typ, body, err
}

// encryption answers an SSLRequest or a GSSENCRequest. early: something was sent
// before the answer. It would be taken for encrypted after the handshake although
// anybody may have injected it (CVE-2021-23214).
func (s *startup) encryption(ctx context.Context, code uint32, early bool) error {
	s.gssDone = s.gssDone || code == pgwire.GSSENCRequestCode
	kind := "GSSAPI encryption"
	var id *identity
	if code == pgwire.SSLRequestCode {
		kind = "SSL"
		s.sslDone = true
		if front := s.server.tls.Load(); front != nil && !s.client.local && !s.tls {
			id = front.identity()
		}
	}
	if id == nil {
		if _, err := s.client.conn.Write([]byte{'N'}); err != nil {
			return fmt.Errorf("answer %s request: %w", kind, err)
		}
		if early {
			return &Refusal{
				Code: codeProtocolViolation, Message: "received unencrypted data after " + kind + " request",
				Detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
			}
		}
		return nil
	}
	if early {
		return fmt.Errorf("received unencrypted data after SSL request: %w", errSilent)
	}
	if _, err := s.client.conn.Write([]byte{'S'}); err != nil {
		return fmt.Errorf("answer SSL request: %w", err)
	}
	return s.handshake(ctx, s.client.conn, id)
}

// directTLS takes a connection that starts with a TLS handshake. Without the protocol's name by ALPN it is refused: the bytes could
// be meant for another kind of server.
func (s *startup) directTLS(ctx context.Context) error {
	front := s.server.tls.Load()
	if front == nil || s.client.local {
		return fmt.Errorf("direct TLS where there is none: %w", errSilent)
	}
	if err := s.handshake(ctx, newPrefixConn(s.client.conn, s.in), front.identity()); err != nil {
		return err
	}
	if s.client.conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != alpn {
		return fmt.Errorf("direct TLS without ALPN: %w", errSilent)
	}
	s.sslDone = true
	return nil
}

// handshake makes the connection a TLS connection that shows id.
func (s *startup) handshake(ctx context.Context, under net.Conn, id *identity) error {
	below := &carrier{Conn: under}
	conn := tls.Server(below, id.config)
	s.handshaking = true
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w: %w", err, errSilent)
	}
	s.handshaking = false
	if p, ok := under.(*prefixConn); ok && p.prefix.Len() == 0 {
		below.Conn = p.Conn
	}
	s.client.conn, s.tls, s.gssDone = conn, true, true
	s.in.Reset(conn)
	s.info.TLS, s.info.Binding = true, id.binding
	if chains := conn.ConnectionState().VerifiedChains; len(chains) > 0 {
		s.info.ClientCert = chains[0][0]
	}
	return nil
}

// cancel carries out a CancelRequest. The client learns nothing but the end of the
// connection, when the server has the request.
func (s *startup) cancel(ctx context.Context, body []byte) error {
	pid, secret, ok := pgwire.ReadCancelRequest(body)
	if !ok {
		return fmt.Errorf("invalid length of query cancel packet: %w", errSilent)
	}
	if err := s.server.cancels.cancel(ctx, s.client, pid, secret); err != nil {
		s.server.log.Warn("cancel request not forwarded", "client", s.client.addr(), "error", err)
	}
	return errSilent
}

// parse takes the startup message apart and answers what of it is not known.
func (s *startup) parse(body []byte) error {
	m, err := pgwire.ParseStartup(body)
	if err != nil {
		return err
	}
	c := s.client
	c.protocol = pgwire.Negotiated(m.Version)
	if m.Version > pgwire.VersionLatest || len(m.Unrecognized) > 0 {
		c.unsent = pgwire.AppendNegotiateProtocolVersion(c.unsent, c.protocol, m.Unrecognized)
	}
	if m.User == "" {
		return &Refusal{Code: codeInvalidAuthorization, Message: "no PostgreSQL user name specified in startup packet"}
	}
	c.user = truncateName(m.User)
	c.database = c.user
	if m.Database != "" {
		c.database = truncateName(m.Database)
	}
	c.replication = m.Replication
	if c.replication == pgwire.ReplicationPhysical {
		c.database = ""
	}
	c.params = m.Params
	for _, p := range c.params {
		if p.Name == "application_name" {
			c.appName = p.Value
		}
	}
	return nil
}

// truncateName cuts a name as PostgreSQL does in the startup packet: by bytes,
// whatever the encoding.
func truncateName(s string) string {
	if len(s) > pgwire.MaxName {
		return s[:pgwire.MaxName]
	}
	return s
}

// authenticate drives the exchange that the HBA rules demand, and admits the client.
func (s *startup) authenticate(ctx context.Context) error {
	c := s.client
	s.info.Local, s.info.Remote = c.local, c.remote.Addr()
	s.info.User, s.info.Database = c.user, c.database
	s.info.Replication = c.replication == pgwire.ReplicationPhysical
	if c.local {
		s.info.PeerUser = peerUser(c.raw)
	}
	x, step := s.server.auth.Start(ctx, s.info)
	for {
		switch {
		case step.Wait:
			if err := c.tell(step.Send); err != nil {
				return fmt.Errorf("send authentication request: %w", err)
			}
		case step.Fail != nil:
			c.unsent = append(c.unsent, step.Send...)
			return step.Fail
		case step.Done != nil:
			c.unsent = append(c.unsent, step.Send...)
			c.cred = step.Done
			return nil
		}
		typ, body, err := s.message(step.MaxBody)
		_, impossible := errors.AsType[*pgwire.LengthError](err)
		switch {
		case typ != pgwire.Password && (impossible || errors.Is(err, errTooLong)):
			err = nil // the type is what is wrong first
		case impossible || errors.Is(err, errTooLong):
			if fail := x.Oversized(); fail != nil {
				return fail
			}
		}
		if err != nil {
			return fmt.Errorf("read authentication: %w: %w", err, errSilent)
		}
		step = x.Next(ctx, typ, body)
	}
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

// newPrefixConn takes what a buffer of conn holds.
func newPrefixConn(conn net.Conn, in *bufio.Reader) *prefixConn {
	held, _ := in.Peek(in.Buffered()) // they are there
	return &prefixConn{Conn: conn, prefix: bytes.NewReader(bytes.Clone(held))}
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
