package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// Names of the mechanisms (RFC 7677).
const (
	mechSCRAM     = "SCRAM-SHA-256"
	mechSCRAMPlus = "SCRAM-SHA-256-PLUS"
)

const (
	// rawNonceLen is the number of random bytes in a nonce, as in PostgreSQL.
	rawNonceLen = 18
	// mockSaltLen and mockIterations are PostgreSQL's defaults for new passwords.
	mockSaltLen    = 16
	mockIterations = 4096
)

// SCRAMKeys log in as a user without the password (RFC 5802, section 3): the
// ClientKey makes proofs, the ServerKey checks the server's signature. They
// hold only for the salt and iterations of the verifier they come from.
type SCRAMKeys struct {
	ClientKey  [keyLen]byte
	ServerKey  [keyLen]byte
	Salt       []byte
	Iterations int
}

// String hides the keys.
func (k SCRAMKeys) String() string { return "scram-sha-256 keys" }

// GoString hides the keys.
func (k SCRAMKeys) GoString() string { return "auth.SCRAMKeys(hidden)" }

// LogValue hides the keys.
func (k SCRAMKeys) LogValue() slog.Value { return slog.StringValue(k.String()) }

// of tells if the keys belong to this salt and count.
func (k SCRAMKeys) of(salt []byte, iterations int) bool {
	return k.Iterations == iterations && slices.Equal(k.Salt, salt)
}

func (k SCRAMKeys) equal(o SCRAMKeys) bool {
	return k.of(o.Salt, o.Iterations) &&
		subtle.ConstantTimeCompare(k.ClientKey[:], o.ClientKey[:])&
			subtle.ConstantTimeCompare(k.ServerKey[:], o.ServerKey[:]) == 1
}

// deriveKeys computes the keys of a password. It is slow by design.
func deriveKeys(password string, salt []byte, iterations int) (SCRAMKeys, error) {
	salted, err := pbkdf2.Key(sha256.New, prepPassword(password), salt, iterations, keyLen)
	if err != nil {
		return SCRAMKeys{}, fmt.Errorf("derive SCRAM keys: %w", err)
	}
	return SCRAMKeys{
		ClientKey:  hmacSHA256(salted, "Client Key"),
		ServerKey:  hmacSHA256(salted, "Server Key"),
		Salt:       salt,
		Iterations: iterations,
	}, nil
}

func hmacSHA256(key []byte, message string) [keyLen]byte {
	m := hmac.New(sha256.New, key)
	io.WriteString(m, message)
	return [keyLen]byte(m.Sum(nil))
}

func xorKeys(a, b [keyLen]byte) (out [keyLen]byte) {
	subtle.XORBytes(out[:], a[:], b[:])
	return out
}

// newNonce returns printable random text.
func newNonce(rand io.Reader) (string, error) {
	var raw [rawNonceLen]byte
	if _, err := io.ReadFull(rand, raw[:]); err != nil {
		return "", fmt.Errorf("make SCRAM nonce: %w", err)
	}
	return base64.StdEncoding.EncodeToString(raw[:]), nil
}

// authMessage is what both signatures are over (RFC 5802, section 3).
func authMessage(clientFirstBare, serverFirst, clientFinalWithoutProof string) string {
	return clientFirstBare + "," + serverFirst + "," + clientFinalWithoutProof
}

// MockSecret derives the secret of mock exchanges from the cluster's secret, so
// that all members answer alike for a user that does not exist. Of nothing it
// makes nothing: a salt that anybody can compute would tell which users exist,
// and NewAuthenticator takes a random secret instead.
func MockSecret(clusterSecret []byte) []byte {
	if len(clusterSecret) == 0 {
		return nil
	}
	s := hmacSHA256(clusterSecret, "pgproxy mock authentication")
	return s[:]
}

// mockVerifier returns what an unknown user is asked to prove: always the same
// salt for the same name. Its keys are never compared with success.
func mockVerifier(secret []byte, user string) SCRAMVerifier {
	salt := hmacSHA256(secret, user)
	return SCRAMVerifier{Iterations: mockIterations, Salt: salt[:mockSaltLen]}
}

// malformed is the error for a SCRAM message that breaks the grammar.
func malformed(format string, args ...any) error {
	return &Error{Code: codeProtocolViolation, Message: "malformed SCRAM message", Detail: fmt.Sprintf(format, args...)}
}

// attrReader reads the attributes of a SCRAM message (RFC 5802, section 7).
// The message holds no NUL, so that 0 can stand for its end.
type attrReader struct {
	s   string
	pos int
}

func (r *attrReader) peek() byte {
	if r.pos < len(r.s) {
		return r.s[r.pos]
	}
	return 0
}

// value reads "attr=value" and the comma behind it.
func (r *attrReader) value(attr byte) (string, error) {
	if c := r.peek(); c != attr {
		return "", malformed("Expected attribute \"%c\" but found \"%s\".", attr, sanitizeChar(c))
	}
	return r.afterName(attr)
}

// next reads the next attribute, whatever its name.
func (r *attrReader) next() (attr byte, value string, err error) {
	c := r.peek()
	if c == 0 {
		return 0, "", malformed("Attribute expected, but found end of string.")
	}
	if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
		return 0, "", malformed("Attribute expected, but found invalid character \"%s\".", sanitizeChar(c))
	}
	value, err = r.afterName(c)
	return c, value, err
}

func (r *attrReader) afterName(attr byte) (string, error) {
	r.pos++
	if r.peek() != '=' {
		return "", malformed("Expected character \"=\" for attribute \"%c\".", attr)
	}
	r.pos++
	value, _, found := strings.Cut(r.s[r.pos:], ",")
	r.pos += len(value)
	if found {
		r.pos++
	}
	return value, nil
}

// sanitizeChar writes a byte of a peer for a message, as PostgreSQL does.
func sanitizeChar(c byte) string {
	if c >= 0x21 && c <= 0x7E {
		return "'" + string(rune(c)) + "'"
	}
	return fmt.Sprintf("0x%02x", c)
}

// sanitizeString writes a peer's text for a message, as PostgreSQL does.
func sanitizeString(s string) string {
	const longest = 30
	b := []byte(s[:min(len(s), longest)])
	for i, c := range b {
		if c < 0x21 || c > 0x7E {
			b[i] = '?'
		}
	}
	return string(b)
}

// isPrintable tells if s is "printable" of RFC 5802: ASCII without the comma.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7E || s[i] == ',' {
			return false
		}
	}
	return true
}
