package auth

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Login is the client side of one login on a backend. One goroutine drives it:
// it gives the body of each Authentication message to Next and sends what comes
// back. An ErrorResponse is the driver's matter.
type Login struct {
	credential *Credential
	user       string
	binding    ChannelBinding
	scram      *SCRAMClient
	state      loginState
}

type loginState uint8

const (
	loginUnknown  loginState = iota
	loginStart               // nothing was asked for yet
	loginContinue            // SCRAM: the server-first-message is next
	loginFinal               // SCRAM: the server-final-message is next
	loginAnswered            // only AuthenticationOk may follow
	loginDone
)

// Login starts a login as user. binding is that of the backend's certificate
// (EndpointBinding), nil without TLS.
func (c *Credential) Login(user string, binding ChannelBinding) *Login {
	return &Login{credential: c, user: user, binding: binding, state: loginStart}
}

// Next takes the body of an Authentication message ('R') and returns the
// message to send, if any. done: it was AuthenticationOk. errors.Is tells
// ErrNoCredential and ErrKeyMismatch from the rest, which is the server's
// breach of the protocol.
func (l *Login) Next(body []byte) (send []byte, done bool, err error) {
	if len(body) < 4 {
		return nil, false, errors.New("read authentication request: message too short")
	}
	request, rest := binary.BigEndian.Uint32(body), body[4:]
	switch request {
	case pgproto3.AuthTypeOk:
		return nil, true, l.accepted()
	case pgproto3.AuthTypeCleartextPassword:
		send, err = l.cleartext()
	case pgproto3.AuthTypeMD5Password:
		send, err = l.md5(rest)
	case pgproto3.AuthTypeSASL:
		send, err = l.sasl(rest)
	case pgproto3.AuthTypeSASLContinue:
		send, err = l.saslContinue(rest)
	case pgproto3.AuthTypeSASLFinal:
		err = l.saslFinal(rest)
	default:
		err = fmt.Errorf("%w: request %d (GSSAPI, SSPI and others are not supported)", ErrNoCredential, request)
	}
	return send, false, err
}

// accepted refuses a server that ends a SCRAM exchange before it has proved
// that it knows the verifier: it may be anybody.
func (l *Login) accepted() error {
	switch l.state {
	case loginStart, loginAnswered:
		l.state = loginDone
		return nil
	case loginContinue, loginFinal:
		return errors.New("read authentication request: the server did not complete SCRAM authentication")
	case loginUnknown, loginDone:
	}
	return errUnexpectedRequest
}

var errUnexpectedRequest = errors.New("read authentication request: out of order")

func (l *Login) lacks(method string) error {
	if l.credential.Kind == CredentialNone {
		return fmt.Errorf("%w: %s, and auth.password_file has no entry for user %q", ErrNoCredential, method, l.user)
	}
	return fmt.Errorf("%w: %s, and the client's login left only %s", ErrNoCredential, method, l.credential.Kind)
}

func (l *Login) cleartext() ([]byte, error) {
	if l.state != loginStart {
		return nil, errUnexpectedRequest
	}
	if l.credential.Kind != CredentialPassword {
		return nil, l.lacks("password")
	}
	l.state = loginAnswered
	return encode(&pgproto3.PasswordMessage{Password: l.credential.password})
}

func (l *Login) md5(rest []byte) ([]byte, error) {
	if l.state != loginStart {
		return nil, errUnexpectedRequest
	}
	if len(rest) != md5SaltLen {
		return nil, errors.New("read authentication request: md5 salt is not 4 bytes")
	}
	var verifier string
	switch l.credential.Kind {
	case CredentialMD5:
		verifier = l.credential.md5
	case CredentialPassword:
		verifier = md5Verifier(l.credential.password, l.user)
	case CredentialNone, CredentialSCRAM, CredentialUnknown:
		return nil, l.lacks("md5")
	}
	l.state = loginAnswered
	return encode(&pgproto3.PasswordMessage{Password: md5Response(verifier, [md5SaltLen]byte(rest))})
}

func (l *Login) sasl(rest []byte) ([]byte, error) {
	if l.state != loginStart {
		return nil, errUnexpectedRequest
	}
	list, ok := strings.CutSuffix(string(rest), "\x00\x00")
	if !ok {
		return nil, errors.New("read authentication request: unterminated list of SASL mechanisms")
	}
	offered := strings.Split(list, "\x00")
	plus := slices.Contains(offered, mechSCRAMPlus)
	if !plus && !slices.Contains(offered, mechSCRAM) {
		return nil, fmt.Errorf("%w: none of the SASL mechanisms is SCRAM-SHA-256", ErrNoCredential)
	}
	switch l.credential.Kind {
	case CredentialSCRAM, CredentialPassword:
	case CredentialNone, CredentialMD5, CredentialUnknown:
		return nil, l.lacks("scram-sha-256")
	}
	var err error
	if l.scram, err = NewSCRAMClient(plus, l.binding, l.credential.keysFor, rand.Reader); err != nil {
		return nil, err
	}
	if !slices.Contains(offered, l.scram.Mechanism()) {
		return nil, fmt.Errorf("%w: SCRAM-SHA-256-PLUS without a certificate to bind to", ErrNoCredential)
	}
	l.state = loginContinue
	return encode(&pgproto3.SASLInitialResponse{AuthMechanism: l.scram.Mechanism(), Data: l.scram.First()})
}

func (l *Login) saslContinue(rest []byte) ([]byte, error) {
	if l.state != loginContinue {
		return nil, errUnexpectedRequest
	}
	answer, err := l.scram.Final(rest)
	if err != nil {
		return nil, err
	}
	l.state = loginFinal
	return encode(&pgproto3.SASLResponse{Data: answer})
}

func (l *Login) saslFinal(rest []byte) error {
	if l.state != loginFinal {
		return errUnexpectedRequest
	}
	if err := l.scram.Verify(rest); err != nil {
		return err
	}
	l.state = loginAnswered
	return nil
}

// encode returns a complete message.
func encode(m pgproto3.FrontendMessage) ([]byte, error) {
	b, err := m.Encode(nil)
	if err != nil {
		return nil, fmt.Errorf("encode authentication answer: %w", err)
	}
	return b, nil
}
