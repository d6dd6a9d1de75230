package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// errSilent ends a connection without a word to the client, as PostgreSQL does it
// where an answer would help only an attacker.
var errSilent = errors.New("closed without an answer")

// startup is one connection between accept and the start of its session. It does no I/O
// and does not wait, but in proceed: its driver gives advance what the client has sent,
// sends what is in client.unsent, and does what is needed. One goroutine at a time uses it.
type startup struct {
	server *Server
	client *client
	spoke  func() // the client has sent its first packet
	tls    bool
	info   auth.ConnInfo

	asked            bool // for encryption, once at least
	sslDone, gssDone bool
	identity         *identity // needTLS: what the handshake shows
	direct           bool      // it began with the handshake
	request          []byte    // needCancel: the body of the CancelRequest
	handshaking      bool      // what is written to the connection now belongs to TLS

	exchange *auth.Exchange // nil: the startup message has not come
	step     auth.Step      // the last one
	typ      byte           // needAuth: the message for the exchange
	body     []byte         // of it; valid as long as what advance was given
}

// need is what a startup needs to go on.
type need uint8

const (
	needBytes   need = iota // more from the client, who waits for what is unsent
	needTLS                 // the handshake, for which is what was not used
	needCancel              // the cancel request is to be carried out; it is the last that comes
	needAuth                // proceed is to be called
	needSession             // nothing: the client is authenticated
)

// advance takes one packet or message of the client, if b has it as a whole. A *Refusal, a
// *pgwire.StartupError and an *auth.Error are to be told to the client.
func (s *startup) advance(b []byte) (used int, n need, err error) {
	if s.exchange != nil {
		return s.message(b)
	}
	return s.packet(b)
}

// packet takes a packet before the authentication. Each request for encryption may come
// once, in either order, until one is granted (ProcessStartupPacket in PostgreSQL's
// postmaster.c).
func (s *startup) packet(b []byte) (used int, n need, err error) {
	if len(b) < 4 {
		return 0, needBytes, nil
	}
	s.spoke()
	if b[0] == 0x16 && !s.asked { // the type of a TLS handshake record
		return 0, needTLS, s.directTLS()
	}
	length := int32(binary.BigEndian.Uint32(b))
	if length < 8 || length-4 > pgwire.MaxStartup {
		return 0, needBytes, fmt.Errorf("invalid length of startup packet: %w", errSilent)
	}
	used = int(length)
	if len(b) < used {
		return 0, needBytes, nil
	}
	body := b[4:used]
	code := pgwire.RequestCode(body)
	switch {
	case length == 8 && (code == pgwire.SSLRequestCode && !s.sslDone || code == pgwire.GSSENCRequestCode && !s.gssDone):
		n, err = s.encryption(code, len(b) > used)
		return used, n, err
	case code == pgwire.CancelRequestCode:
		s.request = bytes.Clone(body)
		return used, needCancel, nil
	}
	if err := s.parse(body); err != nil {
		return used, needBytes, err
	}
	if s.server.cfg.Load().Listen.TLS.Mode == TLSRequire && !s.client.local && !s.tls {
		return used, needBytes, &Refusal{
			Code: codeInvalidAuthorization, Message: "pgproxy: this server accepts TCP connections only with TLS",
			Hint: "Connect with sslmode=require or a stricter one.",
		}
	}
	s.identify()
	s.exchange = s.server.auth.Prepare(s.info)
	return used, needAuth, nil
}

// encryption answers an SSLRequest or a GSSENCRequest. early: something was sent
// before the answer. It would be taken for encrypted after the handshake although
// anybody may have injected it (CVE-2021-23214).
func (s *startup) encryption(code uint32, early bool) (need, error) {
	s.asked = true
	s.gssDone = s.gssDone || code == pgwire.GSSENCRequestCode
	kind := "GSSAPI encryption"
	if code == pgwire.SSLRequestCode {
		kind = "SSL"
		s.sslDone = true
		if front := s.server.tls.Load(); front != nil && !s.client.local && !s.tls {
			s.identity = front.identity()
		}
	}
	switch {
	case s.identity == nil:
		s.client.unsent = append(s.client.unsent, 'N')
		if early {
			return needBytes, &Refusal{
				Code: codeProtocolViolation, Message: "received unencrypted data after " + kind + " request",
				Detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
			}
		}
		return needBytes, nil
	case early:
		return needBytes, fmt.Errorf("received unencrypted data after SSL request: %w", errSilent)
	}
	s.client.unsent = append(s.client.unsent, 'S')
	return needTLS, nil
}

// directTLS takes a connection that starts with a TLS handshake.
func (s *startup) directTLS() error {
	front := s.server.tls.Load()
	if front == nil || s.client.local {
		return fmt.Errorf("direct TLS where there is none: %w", errSilent)
	}
	s.identity, s.direct = front.identity(), true
	return nil
}

// secured takes the end of the handshake. Direct TLS without the protocol's name by ALPN is
// refused: the bytes could be meant for another kind of server.
func (s *startup) secured(state tls.ConnectionState) error {
	if s.direct && state.NegotiatedProtocol != alpn {
		return fmt.Errorf("direct TLS without ALPN: %w", errSilent)
	}
	s.tls, s.asked, s.sslDone, s.gssDone = true, true, true, true
	s.info.TLS, s.info.Binding = true, s.identity.binding
	if chains := state.VerifiedChains; len(chains) > 0 {
		s.info.ClientCert = chains[0][0]
	}
	s.identity = nil
	return nil
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

// identify notes what the HBA rules look at.
func (s *startup) identify() {
	c := s.client
	s.info.Local, s.info.Remote = c.local, c.remote.Addr()
	s.info.User, s.info.Database = c.user, c.database
	s.info.Replication = c.replication == pgwire.ReplicationPhysical
	if c.local {
		s.info.PeerUser = func() string { return peerUser(c.raw) }
	}
}

// message takes a message of the authentication. One whose length cannot be is ended as
// PostgreSQL does it, but the type is what is wrong first.
func (s *startup) message(b []byte) (used int, n need, err error) {
	if len(b) < pgwire.HeaderLen {
		return 0, needBytes, nil
	}
	typ, length, _, err := pgwire.Header(b[:pgwire.HeaderLen])
	_, impossible := errors.AsType[*pgwire.LengthError](err)
	if long := err == nil && length-pgwire.HeaderLen > s.step.MaxBody; impossible || long {
		if typ != pgwire.Password {
			s.typ, s.body = typ, nil
			return pgwire.HeaderLen, needAuth, nil
		}
		if fail := s.exchange.Oversized(); fail != nil {
			return 0, needBytes, fail
		}
		return 0, needBytes, fmt.Errorf("read authentication: message %q: %w %d: %w", typ, errTooLong, s.step.MaxBody, errSilent)
	}
	if err != nil {
		return 0, needBytes, fmt.Errorf("read authentication: %w: %w", err, errSilent)
	}
	if len(b) < length {
		return 0, needBytes, nil
	}
	s.typ, s.body = typ, b[pgwire.HeaderLen:length]
	return length, needAuth, nil
}

// proceed goes on with the authentication. It may ask a server about the role, and compute
// for milliseconds, unless the exchange is prompt.
func (s *startup) proceed(ctx context.Context) (need, error) {
	if !s.step.Wait {
		s.step = s.exchange.Start(ctx)
	} else {
		s.step = s.exchange.Next(ctx, s.typ, s.body)
		s.body = nil
	}
	s.client.unsent = append(s.client.unsent, s.step.Send...)
	switch {
	case s.step.Fail != nil:
		return needBytes, s.step.Fail
	case s.step.Done != nil:
		s.client.cred = s.step.Done
		return needSession, nil
	}
	return needBytes, nil
}
