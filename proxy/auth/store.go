package auth

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/singleflight"
)

// ErrNoServer is what StoreConfig.Lookup returns, wrapped or not, when no
// server can be asked now.
var ErrNoServer = errors.New("no server is reachable")

const (
	defaultLookupTimeout = 5 * time.Second
	defaultMaxEntries    = 10000
	defaultMaxLookups    = 8

	// minRefreshAge bounds what wrong passwords cost the servers: one lookup a
	// second for each user.
	minRefreshAge = time.Second

	// maxUserLen is NAMEDATALEN-1 of PostgreSQL, in bytes.
	maxUserLen = 63
)

// StoreConfig configures a Store.
type StoreConfig struct {
	// Lookup runs the auth query. A role that does not exist is no error:
	// Role.Exists is false. ctx ends after Timeout.
	Lookup     func(ctx context.Context, user string) (Role, error)
	TTL        time.Duration // auth.cache; 0: every login asks
	Timeout    time.Duration // of one lookup with its wait for a slot; 0: 5 s
	MaxEntries int           // roles remembered, unknown names too; 0: 10000
	MaxLookups int           // at once; 0: 8
}

// Store caches roles, those that do not exist too.
//
// Guarantees: an answer is never older than TTL; logins of one user at the same
// time share one lookup; at most MaxLookups run at once; at most MaxEntries are
// remembered, the oldest go first; a name that no role can have, or that could
// do harm in a query or a log, is never looked up.
//
// Not guaranteed: that a changed password is known at once. It is known after
// TTL, or to the next login after one that failed (see Invalidate).
type Store struct {
	cfg    StoreConfig
	ttl    atomic.Int64 // StoreConfig.TTL, a Duration
	flight singleflight.Group
	slots  chan struct{}
	mu     struct {
		sync.Mutex
		entries map[string]*list.Element // of order
		order   *list.List               // of cachedRole, the oldest in front
	}
}

// cachedRole is a role and when its lookup began.
type cachedRole struct {
	user   string
	role   Role
	at     time.Time
	proved *atomic.Pointer[Credential] // of the last one who has proved the password; nil: it is not kept
}

// credential is what logs in whoever has those keys: one for all who log in while the
// role is cached.
func (c cachedRole) credential(keys SCRAMKeys) *Credential {
	if c.proved == nil {
		return newSCRAMCredential(keys)
	}
	cred := c.proved.Load()
	if cred == nil || !cred.keys.known[0].equal(keys) {
		cred = newSCRAMCredential(keys)
		c.proved.Store(cred)
	}
	return cred
}

// NewStore returns an empty store.
func NewStore(cfg StoreConfig) *Store {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultLookupTimeout
	}
	if cfg.MaxEntries <= 0 {
		cfg.MaxEntries = defaultMaxEntries
	}
	if cfg.MaxLookups <= 0 {
		cfg.MaxLookups = defaultMaxLookups
	}
	s := &Store{cfg: cfg, slots: make(chan struct{}, cfg.MaxLookups)}
	s.ttl.Store(int64(cfg.TTL))
	s.mu.entries = make(map[string]*list.Element)
	s.mu.order = list.New()
	return s
}

// SetTTL changes how long an answer is trusted, those that are cached included.
func (s *Store) SetTTL(ttl time.Duration) { s.ttl.Store(int64(ttl)) }

// Forget drops all cached roles: the lookup has become another one. A lookup that is
// under way may still be remembered.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.mu.entries)
	s.mu.order.Init()
}

// Role returns the role of that name, from the cache or by a lookup.
func (s *Store) Role(ctx context.Context, user string) (Role, error) {
	c, err := s.get(ctx, user)
	return c.role, err
}

// Invalidate drops a cached role, unless it was looked up less than a second
// ago, so that the next login sees a password that was changed meanwhile. The
// exchange calls it after a wrong proof; the driver does when a backend refuses
// the credential (28P01, ErrKeyMismatch).
func (s *Store) Invalidate(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.mu.entries[user]; e != nil && time.Since(e.Value.(cachedRole).at) >= minRefreshAge {
		s.remove(e)
	}
}

// refresh is Invalidate and, if the verifier is another one now, true.
func (s *Store) refresh(ctx context.Context, old cachedRole) (cachedRole, bool, error) {
	if time.Since(old.at) < minRefreshAge {
		return old, false, nil
	}
	s.Invalidate(old.user)
	c, err := s.get(ctx, old.user)
	return c, err == nil && !c.role.Verifier.equal(old.role.Verifier), err
}

func (s *Store) get(ctx context.Context, user string) (cachedRole, error) {
	if !queryable(user) {
		return cachedRole{user: user, role: Role{Name: user}, at: time.Now()}, nil
	}
	if c, ok := s.cached(user); ok {
		return c, nil
	}
	// The lookup is shared, so it must not end with the client that came first.
	detached := context.WithoutCancel(ctx)
	result := s.flight.DoChan(user, func() (any, error) { return s.lookup(detached, user) })
	select {
	case r := <-result:
		if r.Err != nil {
			return cachedRole{}, r.Err
		}
		return r.Val.(cachedRole), nil
	case <-ctx.Done():
		return cachedRole{}, context.Cause(ctx)
	}
}

func (s *Store) lookup(ctx context.Context, user string) (cachedRole, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return cachedRole{}, errors.New("wait for a lookup slot: too many lookups under way")
	}
	at := time.Now()
	role, err := s.cfg.Lookup(ctx, user)
	if err != nil {
		return cachedRole{}, err
	}
	c := cachedRole{user: user, role: role, at: at, proved: new(atomic.Pointer[Credential])}
	s.insert(c)
	return c, nil
}

func (s *Store) cached(user string) (cachedRole, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.mu.entries[user]
	if e == nil {
		return cachedRole{}, false
	}
	c := e.Value.(cachedRole)
	if !s.fresh(c) {
		s.remove(e)
		return cachedRole{}, false
	}
	return c, true
}

func (s *Store) fresh(c cachedRole) bool { return time.Since(c.at) < time.Duration(s.ttl.Load()) }

// insert remembers c and forgets what is too old or too many.
func (s *Store) insert(c cachedRole) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.mu.entries[c.user]; e != nil {
		s.remove(e)
	}
	s.mu.entries[c.user] = s.mu.order.PushBack(c)
	for e := s.mu.order.Front(); e != nil; e = s.mu.order.Front() {
		if len(s.mu.entries) <= s.cfg.MaxEntries && s.fresh(e.Value.(cachedRole)) {
			break
		}
		s.remove(e)
	}
}

// remove is called with mu held.
func (s *Store) remove(e *list.Element) {
	delete(s.mu.entries, e.Value.(cachedRole).user)
	s.mu.order.Remove(e)
}

// queryable tells if a name may be sent to a server: one that a role can have,
// and without control characters.
func queryable(user string) bool {
	if user == "" || len(user) > maxUserLen || !utf8.ValidString(user) {
		return false
	}
	for i := range len(user) {
		if user[i] < 0x20 || user[i] == 0x7F {
			return false
		}
	}
	return true
}
