package auth

import (
	"crypto/subtle"
	"errors"
	"log/slog"
	"slices"
	"sync"
)

// CredentialKind says what a Credential can answer.
type CredentialKind uint8

// The kinds. The zero value is invalid.
const (
	CredentialUnknown  CredentialKind = iota
	CredentialNone                    // the method gave no key: see WithPassfile
	CredentialMD5                     // an md5 verifier
	CredentialSCRAM                   // ClientKey and ServerKey
	CredentialPassword                // a plaintext password
)

// String returns the word for the log.
func (k CredentialKind) String() string {
	switch k {
	case CredentialNone:
		return "none"
	case CredentialMD5:
		return "md5"
	case CredentialSCRAM:
		return "scram-sha-256"
	case CredentialPassword:
		return "password"
	case CredentialUnknown:
	}
	return "unknown"
}

// ErrNoCredential says that the backend asks for something the credential cannot answer.
var ErrNoCredential = errors.New("no credential for the method that the server asks for")

// Credential is what logs a session in on backends: what the client's own login
// left. It lives in memory only, prints as its kind, and is safe for concurrent
// use.
type Credential struct {
	Kind CredentialKind

	password string
	md5      string // 32 hexadecimal digits

	hasher *hasher // bounds what derives keys; nil: nothing does

	// keys has one entry for CredentialSCRAM. For a password it has those derived last,
	// maxKeys at most: all backends have the same verifier, but an entry of a password file
	// may be for many users.
	keys struct {
		sync.Mutex
		known []SCRAMKeys
	}
}

// maxKeys bounds the verifiers whose keys a password remembers.
const maxKeys = 64

// NewPasswordCredential makes a Credential of a plaintext password.
func NewPasswordCredential(password string) *Credential {
	return &Credential{Kind: CredentialPassword, password: password}
}

func newSCRAMCredential(keys SCRAMKeys) *Credential {
	c := &Credential{Kind: CredentialSCRAM}
	c.remember(keys)
	return c
}

func newMD5Credential(verifier string) *Credential {
	return &Credential{Kind: CredentialMD5, md5: verifier}
}

// String returns the kind only.
func (c *Credential) String() string { return "credential(" + c.Kind.String() + ")" }

// GoString returns the kind only.
func (c *Credential) GoString() string { return "auth.Credential(" + c.Kind.String() + ")" }

// LogValue returns the kind only.
func (c *Credential) LogValue() slog.Value { return slog.StringValue(c.Kind.String()) }

// WithPassfile returns c, or when its kind is CredentialNone and p has an entry
// for that backend the entry's password. p may be nil. For physical replication
// database is "replication", as in libpq.
func (c *Credential) WithPassfile(p *Passfile, host, port, database, user string) *Credential {
	if c.Kind != CredentialNone {
		return c
	}
	if found := p.credential(host, port, database, user); found != nil {
		return found
	}
	return c
}

// Equal tells if both log in the same way. A connection that was made with one
// may serve a client that has the other.
func (c *Credential) Equal(o *Credential) bool {
	if c == o {
		return true
	}
	if c == nil || o == nil || c.Kind != o.Kind {
		return false
	}
	switch c.Kind {
	case CredentialNone:
		return true
	case CredentialMD5:
		return subtle.ConstantTimeCompare([]byte(c.md5), []byte(o.md5)) == 1
	case CredentialSCRAM:
		// Fixed since they were made.
		return c.keys.known[0].equal(o.keys.known[0])
	case CredentialPassword:
		return subtle.ConstantTimeCompare([]byte(c.password), []byte(o.password)) == 1
	case CredentialUnknown:
	}
	return false
}

// remember keeps the keys, in place of the oldest ones where there are too many.
func (c *Credential) remember(keys SCRAMKeys) {
	c.keys.Lock()
	defer c.keys.Unlock()
	if len(c.keys.known) >= maxKeys {
		c.keys.known = slices.Delete(c.keys.known, 0, 1)
	}
	c.keys.known = append(c.keys.known, keys)
}

func (c *Credential) remembered(salt []byte, iterations int) (SCRAMKeys, bool) {
	c.keys.Lock()
	defer c.keys.Unlock()
	for _, keys := range c.keys.known {
		if keys.of(salt, iterations) {
			return keys, true
		}
	}
	return SCRAMKeys{}, false
}

// keysFor returns the keys for a server's verifier.
func (c *Credential) keysFor(salt []byte, iterations int) (SCRAMKeys, error) {
	if keys, ok := c.remembered(salt, iterations); ok {
		return keys, nil
	}
	if c.Kind == CredentialSCRAM {
		return SCRAMKeys{}, ErrKeyMismatch
	}
	if c.hasher != nil {
		c.hasher.slots <- struct{}{}
		defer func() { <-c.hasher.slots }()
		if keys, ok := c.remembered(salt, iterations); ok { // another login had the slot before
			return keys, nil
		}
	}
	keys, err := deriveKeys(c.password, salt, iterations)
	if err != nil {
		return SCRAMKeys{}, err
	}
	c.remember(keys)
	return keys, nil
}
