package proxy

import (
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

// firstRead is how many bytes are read at once of a packet whose kind is not known.
// SSLRequest and GSSENCRequest have 8; a ninth byte was sent before the answer.
// Every other packet has more, so that nothing is ever read beyond it.
const firstRead = 9

// startup is one connection between accept and the start of its session.
type startup struct {
	server *Server
	client *client
	spoke  func() // the client has sent its first packet
	tls    bool
	info   auth.ConnInfo

	sslDone, gssDone bool
	handshaking      bool // what is written to the connection now belongs to TLS
}

// run brings a connection to the point where its session can start: nil when the
// client has been told AuthenticationOk. A *Refusal, a *pgwire.StartupError and an
// *auth.Error are still to be told to the client.
func (s *startup) run(ctx context.Context) error {
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
	return s.authenticate(ctx)
}

// startupPacket reads packets, answers the requests for encryption, and returns the
// body of the startup message. Each request may come once, in either order, until
// one is granted (ProcessStartupPacket in PostgreSQL's postmaster.c).
func (s *startup) startupPacket(ctx context.Context) ([]byte, error) {
	for first := true; ; first = false {
		head, err := s.readHead()
		if err != nil {
			return nil, err
		}
		s.spoke()
		if first && head[0] == 0x16 { // the type of a TLS handshake record
			if err := s.directTLS(ctx, head); err != nil {
				return nil, err
			}
			continue
		}
		length := int32(binary.BigEndian.Uint32(head))
		if length < 8 || length-4 > pgwire.MaxStartup {
			return nil, fmt.Errorf("invalid length of startup packet: %w", errSilent)
		}
		if head, err = s.readCode(head); err != nil {
			return nil, err
		}
		code := pgwire.RequestCode(head[4:])
		if length == 8 && (code == pgwire.SSLRequestCode && !s.sslDone || code == pgwire.GSSENCRequestCode && !s.gssDone) {
			if err := s.encryption(ctx, code, len(head) > 8); err != nil {
				return nil, err
			}
			continue
		}
		body, err := s.readBody(head[4:], int(length)-4)
		if err != nil {
			return nil, err
		}
		if code == pgwire.CancelRequestCode {
			return nil, s.cancel(ctx, body)
		}
		return body, nil
	}
}

// readHead reads 4 to 9 bytes.
func (s *startup) readHead() ([]byte, error) {
	head := make([]byte, firstRead)
	n, err := io.ReadAtLeast(s.client.conn, head, 4)
	if err != nil {
		// A port scan or a health check: not worth a word in the log.
		return nil, fmt.Errorf("read startup packet: %w: %w", err, errSilent)
	}
	return head[:n], nil
}

// readCode completes what readHead read to 8 or 9 bytes.
func (s *startup) readCode(head []byte) ([]byte, error) {
	have := len(head)
	if have >= 8 {
		return head, nil
	}
	n, err := io.ReadAtLeast(s.client.conn, head[have:firstRead], 8-have)
	if err != nil {
		return nil, fmt.Errorf("incomplete startup packet: %w: %w", err, errSilent)
	}
	return head[:have+n], nil
}

// readBody returns the n bytes of a packet's body, of which have has the first.
func (s *startup) readBody(have []byte, n int) ([]byte, error) {
	if n < len(have) {
		return nil, fmt.Errorf("invalid length of startup packet: %w", errSilent)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(s.client.conn, body[copy(body, have):])
	if err != nil {
		return nil, fmt.Errorf("incomplete startup packet: %w: %w", err, errSilent)
	}
	return body, nil
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

// directTLS takes a connection that starts with a TLS handshake, of which head was
// read already. Without the protocol's name by ALPN it is refused: the bytes could
// be meant for another kind of server.
func (s *startup) directTLS(ctx context.Context, head []byte) error {
	front := s.server.tls.Load()
	if front == nil || s.client.local {
		return fmt.Errorf("direct TLS where there is none: %w", errSilent)
	}
	conn := &prefixConn{Conn: s.client.conn, prefix: bytes.NewReader(head)}
	if err := s.handshake(ctx, conn, front.identity()); err != nil {
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
	conn := tls.Server(under, id.config)
	s.handshaking = true
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w: %w", err, errSilent)
	}
	s.handshaking = false
	s.client.conn, s.tls, s.gssDone = conn, true, true
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
		if _, err := c.conn.Write(pgwire.AppendNegotiateProtocolVersion(nil, c.protocol, m.Unrecognized)); err != nil {
			return fmt.Errorf("negotiate protocol: %w", err)
		}
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
	var buf []byte
	for {
		if len(step.Send) > 0 {
			if _, err := c.conn.Write(step.Send); err != nil {
				return fmt.Errorf("send authentication request: %w", err)
			}
		}
		switch {
		case step.Fail != nil:
			return step.Fail
		case step.Done != nil:
			c.cred = step.Done
			return nil
		}
		typ, body, err := readMessage(c.conn, &buf, step.MaxBody)
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
	writeLast(s.client.conn, raw)
}

// writeLast sends what a client is told before its connection is closed, without
// waiting for one that does not read.
func writeLast(conn net.Conn, b []byte) {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(b)
}

// lingerTime is how long a client may go on sending that has been told the end.
const lingerTime = time.Second

// linger keeps a connection with input that nobody has read until the client ends it,
// for lingerTime at most: closed at once, it would be reset, and the client would not
// see what it was told last (RFC 1122, 4.2.2.13).
func linger(c *client) {
	if quietSocket(c.raw) {
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

// Read reads the prefix, then the connection.
func (c *prefixConn) Read(b []byte) (int, error) {
	if c.prefix.Len() > 0 {
		return c.prefix.Read(b)
	}
	return c.Conn.Read(b)
}
