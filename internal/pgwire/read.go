package pgwire

import (
	"bytes"
	"encoding/binary"
)

// AuthCode is the kind of an Authentication message.
type AuthCode uint32

// The kinds that pgproxy asks for or answers.
const (
	AuthOK           AuthCode = 0
	AuthCleartext    AuthCode = 3
	AuthMD5          AuthCode = 5
	AuthSASL         AuthCode = 10
	AuthSASLContinue AuthCode = 11
	AuthSASLFinal    AuthCode = 12
)

// CString returns the NUL-terminated string at the start of b, without its
// terminator, and what follows it; ok is false when there is no NUL.
func CString(b []byte) (s, rest []byte, ok bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

// ErrorField returns the value of a field of an ErrorResponse's or
// NoticeResponse's body, or nil.
func ErrorField(body []byte, field byte) []byte {
	for len(body) > 1 {
		typ := body[0]
		value, rest, ok := CString(body[1:])
		if !ok || typ == 0 {
			return nil
		}
		if typ == field {
			return value
		}
		body = rest
	}
	return nil
}

// CommandTag returns the tag of a CommandComplete's body.
func CommandTag(body []byte) []byte {
	tag, _, _ := CString(body)
	return tag
}

// ReadParameterStatus returns name and value of a ParameterStatus's body.
func ReadParameterStatus(body []byte) (name, value []byte, ok bool) {
	name, rest, ok := CString(body)
	if !ok {
		return nil, nil, false
	}
	value, rest, ok = CString(rest)
	return name, value, ok && len(rest) == 0
}

// ReadBackendKeyData returns process id and secret of a BackendKeyData's body.
func ReadBackendKeyData(body []byte) (pid uint32, secret []byte, ok bool) {
	if len(body) < 8 || len(body) > 4+MaxSecret {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(body), body[4:], true
}

// ReadAuthentication returns kind and data of an Authentication's body.
func ReadAuthentication(body []byte) (code AuthCode, data []byte, ok bool) {
	if len(body) < 4 {
		return 0, nil, false
	}
	return AuthCode(binary.BigEndian.Uint32(body)), body[4:], true
}

// ReadSASLInitialResponse returns mechanism and data of the first message of a
// SASL exchange; data is nil when the client sent none.
func ReadSASLInitialResponse(body []byte) (mechanism string, data []byte, ok bool) {
	m, rest, ok := CString(body)
	if !ok || len(rest) < 4 {
		return "", nil, false
	}
	n := int32(binary.BigEndian.Uint32(rest))
	rest = rest[4:]
	switch {
	case n == -1 && len(rest) == 0:
		return string(m), nil, true
	case n >= 0 && int(n) == len(rest):
		return string(m), rest, true
	}
	return "", nil, false
}

// ReadNegotiateProtocolVersion returns the version that a server offers and the
// number of startup options that it does not know.
func ReadNegotiateProtocolVersion(body []byte) (version uint32, unknown int, ok bool) {
	if len(body) < 8 {
		return 0, 0, false
	}
	n := int32(binary.BigEndian.Uint32(body[4:]))
	return binary.BigEndian.Uint32(body), int(n), n >= 0
}
