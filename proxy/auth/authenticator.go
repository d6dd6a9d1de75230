package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// AuthenticatorConfig configures an Authenticator.
type AuthenticatorConfig struct {
	HBA   *HBA // nil: DefaultHBA
	Store *Store

	// MockSecret is from the function of that name, the same on all members.
	// Empty: random; then an unknown user's salt changes with a restart.
	MockSecret []byte

	MaxHashing int       // password checks at once; 0: half of GOMAXPROCS, at least one
	Rand       io.Reader // nil: crypto/rand
}

// Authenticator authenticates clients. It is safe for concurrent use.
type Authenticator struct {
	hba        atomic.Pointer[HBA]
	store      *Store
	mockSecret []byte
	hasher     *hasher
	rand       io.Reader
}

// NewAuthenticator returns an Authenticator.
func NewAuthenticator(cfg AuthenticatorConfig) (*Authenticator, error) {
	if cfg.Store == nil {
		return nil, errors.New("new authenticator: no store of roles")
	}
	a := &Authenticator{store: cfg.Store, mockSecret: cfg.MockSecret, hasher: newHasher(cfg.MaxHashing), rand: cfg.Rand}
	if a.rand == nil {
		a.rand = rand.Reader
	}
	if len(a.mockSecret) == 0 {
		a.mockSecret = make([]byte, keyLen)
		if _, err := io.ReadFull(a.rand, a.mockSecret); err != nil {
			return nil, fmt.Errorf("new authenticator: make mock secret: %w", err)
		}
	}
	if cfg.HBA == nil {
		cfg.HBA = DefaultHBA()
	}
	a.SetHBA(cfg.HBA)
	return a, nil
}

// SetHBA replaces the rules for connections that start later (reload).
func (a *Authenticator) SetHBA(h *HBA) { a.hba.Store(h) }

// Start begins the authentication of one connection.
func (a *Authenticator) Start(ctx context.Context, c ConnInfo) (*Exchange, Step) {
	x := a.Prepare(c)
	return x, x.Start(ctx)
}

// Prepare finds the rule for a connection, whose authentication Exchange.Start begins.
func (a *Authenticator) Prepare(c ConnInfo) *Exchange {
	return &Exchange{Rule: a.hba.Load().Match(c), auth: a, conn: c}
}

// Prompt reports that the call of Start or Next that follows neither asks a server nor
// computes for long.
func (x *Exchange) Prompt() bool {
	switch x.expect {
	case expectSASLInitial, expectSASLFirst:
		return true
	case expectSASLFinal:
		return x.refusal() == "" // else the role is looked up again
	case expectPassword, expectMD5:
		return false
	case expectNothing:
	}
	switch x.Rule.Method {
	case MethodReject, MethodPassword:
		return true
	case MethodMD5, MethodSCRAM:
		return x.recall()
	case MethodTrust, MethodCert:
		return x.recall() && x.refusal() == ""
	case MethodPeer, MethodUnknown:
	}
	return false
}

// recall takes the client's role from the cache.
func (x *Exchange) recall() (known bool) {
	x.role, known = x.auth.store.cached(x.conn.User)
	return known
}

// lookUp fetches the client's role, unless that was done.
func (x *Exchange) lookUp(ctx context.Context) *Error {
	if x.role.user != "" {
		return nil
	}
	c, err := x.auth.store.get(ctx, x.conn.User)
	if err != nil {
		return x.lookupError(ctx, err)
	}
	x.role = c
	return nil
}

// lookupError tells the client that nobody can say who it is: the servers are
// away, which passes, or the auth query does not work, which an operator mends.
func (x *Exchange) lookupError(ctx context.Context, err error) *Error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	reason := "the auth query did not answer"
	if errors.Is(err, ErrNoServer) {
		reason = ErrNoServer.Error()
	}
	return &Error{
		Code:    codeCannotConnectNow,
		Message: fmt.Sprintf("pgproxy: cannot look up role \"%s\": %s", x.conn.User, reason),
		Err:     err,
	}
}

// ended is the error for a context that ended, with PostgreSQL's texts.
func ended(ctx context.Context) *Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Code: codeQueryCanceled, Message: "canceling authentication due to timeout", Err: context.Cause(ctx)}
	}
	return &Error{Code: codeAdminShutdown, Message: "terminating connection due to administrator command", Err: context.Cause(ctx)}
}

// verifier returns what the client's password is checked against. doomed: a
// mock, because no password can be right; why is for the log.
func (x *Exchange) verifier() (v Verifier, doomed bool, why string) {
	v, why = x.role.role.password(x.conn.User, time.Now())
	if why != "" {
		return Verifier{Kind: VerifierSCRAM, SCRAM: mockVerifier(x.auth.mockSecret, x.conn.User)}, true, why
	}
	return v, false, ""
}
