package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keyLen is the length in bytes of a SHA-256 key.
const keyLen = sha256.Size

// VerifierKind is the form of a stored password.
type VerifierKind uint8

// The kinds. The zero value: the role has no password.
const (
	VerifierNone VerifierKind = iota
	VerifierMD5
	VerifierSCRAM
)

// String returns the word for the log.
func (k VerifierKind) String() string {
	switch k {
	case VerifierMD5:
		return "md5"
	case VerifierSCRAM:
		return "scram-sha-256"
	case VerifierNone:
	}
	return "none"
}

// Verifier is a parsed pg_authid.rolpassword. It prints as its kind: an md5
// verifier is as good as the password.
type Verifier struct {
	Kind  VerifierKind
	MD5   string // 32 lower-case hexadecimal digits: md5(password || user)
	SCRAM SCRAMVerifier
}

// String returns the kind only.
func (v Verifier) String() string { return v.Kind.String() }

// GoString returns the kind only.
func (v Verifier) GoString() string { return "auth.Verifier(" + v.Kind.String() + ")" }

// LogValue returns the kind only.
func (v Verifier) LogValue() slog.Value { return slog.StringValue(v.Kind.String()) }

// SCRAMVerifier is SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
// (RFC 5803, RFC 7677).
type SCRAMVerifier struct {
	Iterations int
	Salt       []byte
	StoredKey  [keyLen]byte
	ServerKey  [keyLen]byte
}

// String hides the keys.
func (v SCRAMVerifier) String() string { return "scram-sha-256" }

// GoString hides the keys.
func (v SCRAMVerifier) GoString() string { return "auth.SCRAMVerifier(hidden)" }

// LogValue hides the keys.
func (v SCRAMVerifier) LogValue() slog.Value { return slog.StringValue(v.String()) }

func (v SCRAMVerifier) equal(o SCRAMVerifier) bool {
	return v.Iterations == o.Iterations && slices.Equal(v.Salt, o.Salt) &&
		subtle.ConstantTimeCompare(v.StoredKey[:], o.StoredKey[:])&
			subtle.ConstantTimeCompare(v.ServerKey[:], o.ServerKey[:]) == 1
}

// equal tells if both accept the same passwords in the same form.
func (v Verifier) equal(o Verifier) bool {
	return v.Kind == o.Kind && v.SCRAM.equal(o.SCRAM) &&
		subtle.ConstantTimeCompare([]byte(v.MD5), []byte(o.MD5)) == 1
}

// ParseVerifier parses pg_authid.rolpassword; "" (or NULL) is VerifierNone.
// Its error never quotes the text.
func ParseVerifier(rolpassword string) (Verifier, error) {
	switch {
	case rolpassword == "":
		return Verifier{}, nil
	case strings.HasPrefix(rolpassword, "md5"):
		digits := rolpassword[len("md5"):]
		if len(digits) != 32 || strings.Trim(digits, "0123456789abcdef") != "" {
			return Verifier{}, errors.New("parse password verifier: md5 is not followed by 32 hexadecimal digits")
		}
		return Verifier{Kind: VerifierMD5, MD5: digits}, nil
	case strings.HasPrefix(rolpassword, "SCRAM-SHA-256$"):
		v, err := parseSCRAMVerifier(rolpassword[len("SCRAM-SHA-256$"):])
		if err != nil {
			return Verifier{}, err
		}
		return Verifier{Kind: VerifierSCRAM, SCRAM: v}, nil
	}
	return Verifier{}, errors.New("parse password verifier: neither SCRAM-SHA-256 nor md5")
}

func parseSCRAMVerifier(s string) (SCRAMVerifier, error) {
	var v SCRAMVerifier
	head, keys, ok1 := strings.Cut(s, "$")
	iterations, salt, ok2 := strings.Cut(head, ":")
	stored, server, ok3 := strings.Cut(keys, ":")
	if !ok1 || !ok2 || !ok3 {
		return v, errors.New("parse password verifier: SCRAM-SHA-256 with a field missing")
	}
	n, err := strconv.ParseInt(iterations, 10, 32)
	if err != nil || n < 1 {
		return v, errors.New("parse password verifier: iteration count is no positive number")
	}
	v.Iterations = int(n)
	if v.Salt, err = decodeBase64(salt); err != nil || len(v.Salt) == 0 {
		return v, errors.New("parse password verifier: salt is not base64")
	}
	for _, k := range []struct {
		name string
		text string
		key  *[keyLen]byte
	}{{"StoredKey", stored, &v.StoredKey}, {"ServerKey", server, &v.ServerKey}} {
		b, err := decodeBase64(k.text)
		if err != nil || len(b) != keyLen {
			return v, errors.New("parse password verifier: " + k.name + " is not 32 bytes in base64")
		}
		copy(k.key[:], b)
	}
	return v, nil
}

// decodeBase64 takes what PostgreSQL's pg_b64_decode takes: line ends, which
// encoding/base64 skips, are refused.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("decode base64: white space")
	}
	return base64.StdEncoding.DecodeString(s)
}

// Role is what the auth query tells of a role.
type Role struct {
	Name       string
	Exists     bool
	Verifier   Verifier
	CanLogin   bool
	ValidUntil time.Time // of the password; zero: for ever
}

// expired tells if the password has lost its validity.
func (r Role) expired(now time.Time) bool {
	return !r.ValidUntil.IsZero() && r.ValidUntil.Before(now)
}

// password returns the verifier to check a password against. why says for the
// log what makes every password wrong; "": nothing (PostgreSQL, get_role_password).
func (r Role) password(user string, now time.Time) (v Verifier, why string) {
	switch {
	case !r.Exists:
		return Verifier{}, "role \"" + user + "\" does not exist"
	case r.Verifier.Kind == VerifierNone:
		return Verifier{}, "user \"" + user + "\" has no password assigned"
	case r.expired(now):
		return Verifier{}, "user \"" + user + "\" has an expired password"
	}
	return r.Verifier, ""
}

// LookupQuery is the built-in auth query. Its function is made by
// `pgproxy setup-sql`; $1 is the user name as text. All names are qualified, so
// no search_path of a client can redirect it. valid_until is null or infinity
// for a password that never expires.
const LookupQuery = `SELECT rolname, verifier, can_login, valid_until FROM pgproxy.user_lookup($1)`
