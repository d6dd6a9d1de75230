package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Longest message bodies, from PG_MAX_SASL_MESSAGE_LENGTH and
// PG_MAX_AUTH_TOKEN_LENGTH, which count the four bytes of the length too.
const (
	maxSASLBody     = 1024 - 4
	maxPasswordBody = 65535 - 4
)

// Step is what the driver does next. Send goes out first; then exactly one of
// Wait, Done and Fail is set.
type Step struct {
	Send    []byte      // complete backend messages; may be empty
	Wait    bool        // read one client message and give it to Next
	MaxBody int         // longest body of that message; for a longer one call Oversized
	Done    *Credential // authenticated; AuthenticationOk is not in Send
	Fail    *Error      // send Fail.Encode() and close
}

// Exchange is one client's authentication. One goroutine drives it.
type Exchange struct {
	Rule Rule // the line that decides

	auth    *Authenticator
	conn    ConnInfo
	role    cachedRole // user is "" until it was looked up
	expect  expectation
	md5Salt [md5SaltLen]byte
	scram   *SCRAMServer
	doomed  string // why the SCRAM exchange is a mock, for the log
}

// expectation is the message that the client sends next.
type expectation uint8

const (
	expectNothing expectation = iota
	expectPassword
	expectMD5
	expectSASLInitial // SASLInitialResponse, with the client-first-message or without
	expectSASLFirst   // the client-first-message, asked for by an empty challenge
	expectSASLFinal
)

// Start applies the rule (PostgreSQL, ClientAuthentication).
func (x *Exchange) Start(ctx context.Context) Step {
	if x.Rule.Method == MethodReject {
		return Step{Fail: x.Rule.reject(x.conn)}
	}
	if x.Rule.ClientCert != ClientCertNone && x.conn.ClientCert == nil {
		return Step{Fail: &Error{Code: codeInvalidAuthorization, Message: "connection requires a valid client certificate", Log: x.Rule.matched()}}
	}
	switch x.Rule.Method {
	case MethodTrust, MethodCert:
		return x.finish(ctx, nil, &Credential{Kind: CredentialNone})
	case MethodPeer:
		if peer := x.peer(); peer == "" || peer != x.conn.User {
			return x.failed(fmt.Sprintf("the operating system's user is %q", peer))
		}
		return x.finish(ctx, nil, &Credential{Kind: CredentialNone})
	case MethodPassword:
		x.expect = expectPassword
		return Step{Send: mustEncode(&pgproto3.AuthenticationCleartextPassword{}), Wait: true, MaxBody: maxPasswordBody}
	case MethodMD5, MethodSCRAM:
		return x.startChallenge(ctx)
	case MethodReject, MethodUnknown:
	}
	panic("BUG: a rule without a method was not refused at parsing")
}

// peer returns the operating system's user at the other end.
func (x *Exchange) peer() string {
	if x.conn.PeerUser == nil {
		return ""
	}
	return x.conn.PeerUser()
}

// startChallenge asks by what the role has: md5 only where the line allows it
// and the role's verifier is md5, else SCRAM (PostgreSQL, CheckPWChallengeAuth).
func (x *Exchange) startChallenge(ctx context.Context) Step {
	if err := x.lookUp(ctx); err != nil {
		return Step{Fail: err}
	}
	v, _, _ := x.verifier()
	if x.Rule.Method == MethodMD5 && v.Kind == VerifierMD5 {
		if _, err := io.ReadFull(x.auth.rand, x.md5Salt[:]); err != nil {
			return Step{Fail: internal("could not generate random MD5 salt", err)}
		}
		x.expect = expectMD5
		return Step{Send: mustEncode(&pgproto3.AuthenticationMD5Password{Salt: x.md5Salt}), Wait: true, MaxBody: maxPasswordBody}
	}
	offer := &pgproto3.AuthenticationSASL{AuthMechanisms: []string{mechSCRAM}}
	if x.conn.Binding != nil {
		offer.AuthMechanisms = []string{mechSCRAMPlus, mechSCRAM}
	}
	x.expect = expectSASLInitial
	return Step{Send: mustEncode(offer), Wait: true, MaxBody: maxSASLBody}
}

// Next takes the client's answer, whatever its type. It must not be called
// unless the last Step had Wait.
func (x *Exchange) Next(ctx context.Context, typ byte, body []byte) Step {
	expect := x.expect
	x.expect = expectNothing
	switch expect {
	case expectPassword, expectMD5:
		password, err := readPassword(typ, body)
		if err != nil {
			return Step{Fail: err}
		}
		if expect == expectMD5 {
			return x.checkMD5(ctx, password)
		}
		return x.checkPassword(ctx, password)
	case expectSASLInitial, expectSASLFirst, expectSASLFinal:
		if typ != 'p' {
			return Step{Fail: violation(fmt.Sprintf("expected SASL response, got message type %d", typ))}
		}
		switch expect {
		case expectSASLInitial:
			return x.saslInitial(body)
		case expectSASLFirst:
			return x.saslFirst(body)
		case expectSASLFinal, expectPassword, expectMD5, expectNothing:
		}
		return x.saslFinal(ctx, body)
	case expectNothing:
	}
	panic("BUG: Exchange.Next without Wait")
}

// Oversized says how to end when the length of the client's message is negative
// or more than MaxBody: by an error, or where it is nil by closing without a
// word, as PostgreSQL does.
func (x *Exchange) Oversized() *Error {
	switch x.expect {
	case expectSASLInitial, expectSASLFirst, expectSASLFinal:
		return x.failed("invalid message length").Fail
	case expectPassword, expectMD5, expectNothing:
	}
	return nil
}

// readPassword reads a PasswordMessage (PostgreSQL, recv_password_packet).
func readPassword(typ byte, body []byte) (string, *Error) {
	if typ != 'p' {
		return "", violation(fmt.Sprintf("expected password response, got message type %d", typ))
	}
	if bytes.IndexByte(body, 0) != len(body)-1 || len(body) == 0 {
		return "", violation("invalid password packet size")
	}
	if len(body) == 1 {
		return "", &Error{Code: codeInvalidPassword, Message: "empty password returned by client"}
	}
	return string(body[:len(body)-1]), nil
}

// checkPassword checks a plaintext password. With a verifier from the cache
// that does not fit, a fresh one is tried: it may have been changed.
func (x *Exchange) checkPassword(ctx context.Context, password string) Step {
	if err := x.lookUp(ctx); err != nil {
		return Step{Fail: err}
	}
	for {
		v, doomed, why := x.verifier()
		cred, err := x.auth.hasher.check(ctx, v, x.conn.User, password)
		switch {
		case ctx.Err() != nil:
			return Step{Fail: ended(ctx)}
		case err != nil:
			return Step{Fail: internal("could not compute server key", err)}
		case cred != nil && !doomed:
			return x.finish(ctx, nil, cred)
		}
		changed, fail := x.refresh(ctx)
		if fail != nil {
			return Step{Fail: fail}
		}
		if !changed {
			return x.failed(why)
		}
	}
}

// checkMD5 checks an answer to our salt, against a fresh verifier too.
func (x *Exchange) checkMD5(ctx context.Context, response string) Step {
	for {
		v, doomed, why := x.verifier()
		if !doomed && v.Kind == VerifierMD5 && md5Matches(v.MD5, x.md5Salt, response) {
			return x.finish(ctx, nil, newMD5Credential(v.MD5))
		}
		changed, fail := x.refresh(ctx)
		if fail != nil {
			return Step{Fail: fail}
		}
		if !changed {
			return x.failed(why)
		}
	}
}

// refresh looks the role up again where that can help. It is true at most once
// an exchange but for a password that changes all the time: a fresh role is
// younger than minRefreshAge.
func (x *Exchange) refresh(ctx context.Context) (changed bool, fail *Error) {
	c, changed, err := x.auth.store.refresh(ctx, x.role)
	if err != nil {
		return false, x.lookupError(ctx, err)
	}
	x.role = c
	return changed, nil
}

// saslInitial reads SASLInitialResponse: the mechanism, and the
// client-first-message or the length -1 (PostgreSQL, CheckSASLAuth).
func (x *Exchange) saslInitial(body []byte) Step {
	mechanism, rest, ok := strings.Cut(string(body), "\x00")
	if !ok {
		return Step{Fail: violation("invalid string in message")}
	}
	v, doomed, why := x.verifier()
	if !doomed && v.Kind != VerifierSCRAM {
		doomed, why = true, fmt.Sprintf("user %q does not have a valid SCRAM secret", x.conn.User)
		v.SCRAM = mockVerifier(x.auth.mockSecret, x.conn.User)
	}
	var err error
	if x.scram, err = NewSCRAMServer(v.SCRAM, doomed, mechanism, x.conn.Binding, x.auth.rand); err != nil {
		return Step{Fail: asError(err)}
	}
	x.doomed = why
	if len(rest) < 4 {
		return Step{Fail: violation("insufficient data left in message")}
	}
	n, rest := int64(int32(binary.BigEndian.Uint32([]byte(rest)))), rest[4:]
	switch {
	case n == -1 && rest == "":
		x.expect = expectSASLFirst
		return Step{Send: mustEncode(&pgproto3.AuthenticationSASLContinue{}), Wait: true, MaxBody: maxSASLBody}
	case n < -1 || n > int64(len(rest)):
		return Step{Fail: violation("insufficient data left in message")}
	case n < int64(len(rest)):
		return Step{Fail: violation("invalid message format")}
	}
	return x.saslFirst([]byte(rest))
}

func (x *Exchange) saslFirst(message []byte) Step {
	answer, err := x.scram.First(message)
	if err != nil {
		return Step{Fail: asError(err)}
	}
	x.expect = expectSASLFinal
	return Step{Send: mustEncode(&pgproto3.AuthenticationSASLContinue{Data: answer}), Wait: true, MaxBody: maxSASLBody}
}

// saslFinal checks the proof. When it is wrong the client has used a salt that
// may be out of date: the role is forgotten, so that the next try gets the new one.
func (x *Exchange) saslFinal(ctx context.Context, message []byte) Step {
	answer, keys, err := x.scram.Final(message)
	if errors.Is(err, errInvalidProof) {
		x.auth.store.Invalidate(x.conn.User)
		return x.failed(x.doomed)
	}
	if err != nil {
		return Step{Fail: asError(err)}
	}
	return x.finish(ctx, mustEncode(&pgproto3.AuthenticationSASLFinal{Data: answer}), x.role.credential(keys))
}

// finish checks what PostgreSQL checks after the method: the certificate's name,
// and, having told the client that it is authenticated, that the role exists and
// may log in (InitializeSessionUserId).
func (x *Exchange) finish(ctx context.Context, send []byte, cred *Credential) Step {
	if x.Rule.ClientCert == ClientCertVerifyFull {
		if name := commonName(x.conn.ClientCert); name == "" || name != x.conn.User {
			step := x.failed(fmt.Sprintf("the client certificate's common name is %q", name))
			step.Send = send
			return step
		}
	}
	if err := x.lookUp(ctx); err != nil {
		return Step{Send: send, Fail: err}
	}
	refused := x.refusal()
	if refused != "" { // unless the role was made, or allowed in, a moment ago
		if _, fail := x.refresh(ctx); fail != nil {
			return Step{Send: send, Fail: fail}
		}
		refused = x.refusal()
	}
	if refused == "" {
		return Step{Send: send, Done: cred}
	}
	return Step{
		Send: append(send, mustEncode(&pgproto3.AuthenticationOk{})...),
		Fail: &Error{Code: codeInvalidAuthorization, Message: refused, Log: x.Rule.matched()},
	}
}

// refusal says why the role may not log in, whatever it has proved.
func (x *Exchange) refusal() string {
	switch {
	case !x.role.role.Exists:
		return fmt.Sprintf("role \"%s\" does not exist", x.conn.User)
	case !x.role.role.CanLogin:
		return fmt.Sprintf("role \"%s\" is not permitted to log in", x.conn.User)
	}
	return ""
}

// failed ends with the method's text (PostgreSQL, auth_failed). why is for the log.
func (x *Exchange) failed(why string) Step {
	e := &Error{Code: codeInvalidAuthorization, Log: x.Rule.matched()}
	if why != "" {
		e.Log = why + "; " + e.Log
	}
	text := "authentication failed for user \"%s\": invalid authentication method"
	switch x.Rule.Method {
	case MethodTrust:
		text = "\"trust\" authentication failed for user \"%s\""
	case MethodPassword, MethodMD5, MethodSCRAM:
		e.Code = codeInvalidPassword
		text = "password authentication failed for user \"%s\""
	case MethodCert:
		text = "certificate authentication failed for user \"%s\""
	case MethodPeer:
		text = "Peer authentication failed for user \"%s\""
	case MethodReject, MethodUnknown:
	}
	e.Message = fmt.Sprintf(text, x.conn.User)
	return Step{Fail: e}
}

// commonName returns the first common name of a certificate's subject, as
// OpenSSL does; crypto/x509 takes the last. One with a NUL is none
// (CVE-2009-4034).
func commonName(cert *x509.Certificate) string {
	oid := asn1.ObjectIdentifier{2, 5, 4, 3}
	for _, n := range cert.Subject.Names {
		if !n.Type.Equal(oid) {
			continue
		}
		name, _ := n.Value.(string)
		if strings.IndexByte(name, 0) >= 0 {
			return ""
		}
		return name
	}
	return ""
}

// mustEncode returns a complete message of bounded size.
func mustEncode(m pgproto3.BackendMessage) []byte {
	b, err := m.Encode(nil)
	if err != nil {
		panic(fmt.Sprintf("BUG: an authentication message of bounded length does not encode: %v", err))
	}
	return b
}
