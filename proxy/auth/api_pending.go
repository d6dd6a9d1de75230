package auth

// API of the package, being filled in; signatures are final.

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"
)

var errPending = errors.New("not written yet")

// ---- hba.go

// Method is an authentication method of pg_hba.conf.
type Method uint8

// The methods that pgproxy knows.
const (
	MethodUnknown Method = iota
	MethodReject
	MethodTrust
	MethodPassword
	MethodMD5
	MethodSCRAM
	MethodCert
	MethodPeer
)

// ClientCert is the option clientcert of a hostssl rule.
type ClientCert uint8

// The values of clientcert. The zero value is "not given".
const (
	ClientCertNone ClientCert = iota
	ClientCertVerifyCA
	ClientCertVerifyFull
)

// ConnInfo is what the startup phase knows of a client before authentication.
type ConnInfo struct {
	Local       bool              // a Unix socket
	Remote      netip.Addr        // of a TCP client
	TLS         bool              // encrypted
	Binding     ChannelBinding    // of the certificate we showed; nil: none
	ClientCert  *x509.Certificate // the client's verified leaf certificate; nil: none
	PeerUser    string            // OS user at the other end of a Unix socket; "": unknown
	User        string
	Database    string
	Replication bool // physical replication (replication=true); logical replication names a database and is false
}

// Rule is one line of pg_hba.conf.
type Rule struct {
	Method     Method
	ClientCert ClientCert
	File       string
	Line       int
	Implicit   bool // no line matched; Method is MethodReject
}

// HBA holds the rules of a pg_hba.conf. It is immutable.
type HBA struct{}

// ParseHBA reads pg_hba.conf; name stands in messages and locates "@file" lists.
func ParseHBA(r io.Reader, name string) (*HBA, error) { return nil, errPending }

// DefaultHBA is what holds without a file: everyone by scram-sha-256.
func DefaultHBA() *HBA { return &HBA{} }

// Match returns the first rule for a connection.
func (h *HBA) Match(c ConnInfo) Rule { return Rule{} }

// LackPasswords names each rule whose method gives no key (trust, cert, peer)
// and for which the password file has no entry on one of the backends ("host:port").
func (h *HBA) LackPasswords(p *Passfile, backends []string) []error { return nil }

// ---- verifier.go

// VerifierKind is the form of a stored password.
type VerifierKind uint8

// The kinds. The zero value: the role has no password.
const (
	VerifierNone VerifierKind = iota
	VerifierMD5
	VerifierSCRAM
)

// SCRAMVerifier is a parsed SCRAM-SHA-256$... of pg_authid.rolpassword.
type SCRAMVerifier struct {
	Iterations int
	Salt       []byte
	StoredKey  [32]byte
	ServerKey  [32]byte
}

// Verifier is a parsed pg_authid.rolpassword.
type Verifier struct {
	Kind  VerifierKind
	MD5   string // 32 hexadecimal digits
	SCRAM SCRAMVerifier
}

// ParseVerifier parses pg_authid.rolpassword; "" (or NULL) is VerifierNone.
func ParseVerifier(rolpassword string) (Verifier, error) { return Verifier{}, errPending }

// Role is what the auth query tells of a role.
type Role struct {
	Name       string
	Exists     bool
	Verifier   Verifier
	CanLogin   bool
	ValidUntil time.Time // of the password; zero: for ever
}

// LookupQuery is the built-in auth query.
const LookupQuery = `SELECT rolname, verifier, can_login, valid_until FROM pgproxy.user_lookup($1)`

// ---- binding.go

// ChannelBinding is the tls-server-end-point data of a TLS connection; nil where there is none.
type ChannelBinding []byte

// EndpointBinding returns the channel binding data for a server's leaf
// certificate (RFC 5929), nil where its signature has no hash (Ed25519).
func EndpointBinding(leaf *x509.Certificate) ChannelBinding { return nil }

// ---- store.go

// StoreConfig configures a Store.
type StoreConfig struct {
	Lookup     func(ctx context.Context, user string) (Role, error) // runs the auth query; Role.Exists false: unknown
	TTL        time.Duration                                        // auth.cache
	Timeout    time.Duration                                        // of one lookup; 0: 5 s
	MaxEntries int                                                  // 0: 10000
	MaxLookups int                                                  // at once; 0: 8
}

// Store caches roles.
type Store struct{}

// NewStore returns an empty store.
func NewStore(cfg StoreConfig) *Store { return &Store{} }

// Role returns the role of that name, from the cache or by a lookup.
func (s *Store) Role(ctx context.Context, user string) (Role, error) { return Role{}, errPending }

// Invalidate drops a cached role that is older than a second, so that the next
// login looks it up. Call it too when a backend refuses the credential (28P01, ErrKeyMismatch).
func (s *Store) Invalidate(user string) {}

// ---- authenticator.go

// AuthenticatorConfig configures an Authenticator.
type AuthenticatorConfig struct {
	HBA        *HBA
	Store      *Store
	MockSecret []byte    // from MockSecret; the same on all members
	MaxHashing int       // password checks at once; 0: half of GOMAXPROCS, at least one
	Rand       io.Reader // nil: crypto/rand
}

// Authenticator authenticates clients.
type Authenticator struct{}

// MockSecret derives the secret for mock exchanges from the cluster's secret.
func MockSecret(clusterSecret []byte) []byte { return nil }

// NewAuthenticator returns an Authenticator.
func NewAuthenticator(cfg AuthenticatorConfig) (*Authenticator, error) { return nil, errPending }

// SetHBA replaces the rules for connections that start later (reload).
func (a *Authenticator) SetHBA(h *HBA) {}

// Start begins the authentication of one connection.
func (a *Authenticator) Start(ctx context.Context, c ConnInfo) (*Exchange, Step) {
	return nil, Step{}
}

// Exchange is one client's authentication. One goroutine drives it.
type Exchange struct{ Rule Rule }

// Step is what the driver does next. Send goes out first; then exactly one of Wait, Done and Fail is set.
type Step struct {
	Send    []byte      // complete backend messages; may be empty
	Wait    bool        // read one client message and give it to Next
	MaxBody int         // longest body of that message; a longer one: close without a word, as PostgreSQL does
	Done    *Credential // authenticated; AuthenticationOk is not in Send
	Fail    *Error      // send Fail.Encode() and close
}

// Next takes the client's answer, any message type.
func (x *Exchange) Next(ctx context.Context, typ byte, body []byte) Step { return Step{} }

// ---- credential.go

// CredentialKind says what a Credential can answer.
type CredentialKind uint8

// The kinds. The zero value is invalid.
const (
	CredentialUnknown  CredentialKind = iota
	CredentialNone                    // the method gave no key: see WithPassfile
	CredentialMD5                     // an md5 verifier
	CredentialSCRAM                   // ClientKey and ServerKey
	CredentialPassword                // a plaintext password, with SCRAM keys where they are known
)

// Credential is what logs a session in on backends. It is safe for concurrent use.
type Credential struct {
	Kind CredentialKind
	mu   sync.Mutex
}

// NewPasswordCredential makes a Credential of a plaintext password.
func NewPasswordCredential(password string) *Credential { return nil }

// WithPassfile returns c, or when its kind is CredentialNone and p has an entry
// for that backend the entry's password. p may be nil. For physical replication
// database is "replication", as in libpq.
func (c *Credential) WithPassfile(p *Passfile, host, port, database, user string) *Credential {
	return c
}

// Equal tells if both log in the same way.
func (c *Credential) Equal(o *Credential) bool { return false }

// Login starts a login as user; binding is the backend's, nil without TLS.
func (c *Credential) Login(user string, binding ChannelBinding) *Login { return nil }

// Login is the client side of one login on a backend.
type Login struct{}

// Next takes the body of an Authentication message ('R') and returns the
// message to send, if any. done: it was AuthenticationOk.
func (l *Login) Next(body []byte) (send []byte, done bool, err error) {
	return nil, false, errPending
}

// ErrKeyMismatch: the backend's verifier is not the one that the keys were
// recovered from (the password was changed, or the server lags). Invalidate
// the role in the Store and let the client authenticate again.
var ErrKeyMismatch = errors.New("the server's password verifier differs from the one the client authenticated with")

// ErrNoCredential: the backend asks for something the credential cannot answer.
var ErrNoCredential = errors.New("no credential for the method that the server asks for")

// ---- passfile.go

// Passfile holds the entries of a password file (libpq, "The Password File").
type Passfile struct{}

// LoadPassfile reads a file; it refuses one that others can access.
func LoadPassfile(path string) (*Passfile, error) { return nil, errPending }

// ParsePassfile reads entries; name stands in messages.
func ParsePassfile(r io.Reader, name string) (*Passfile, error) { return nil, errPending }

// Lookup returns the password of the first entry that matches.
func (p *Passfile) Lookup(host, port, database, user string) (string, bool) { return "", false }
