package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lookups is a lookup function that counts.
type lookups struct {
	sync.Mutex
	count map[string]int
	role  func(ctx context.Context, user string) (Role, error)
}

func (l *lookups) lookup(ctx context.Context, user string) (Role, error) {
	l.Lock()
	l.count[user]++
	l.Unlock()
	return l.role(ctx, user)
}

func (l *lookups) of(user string) int {
	l.Lock()
	defer l.Unlock()
	return l.count[user]
}

func newLookups(role func(ctx context.Context, user string) (Role, error)) *lookups {
	return &lookups{count: map[string]int{}, role: role}
}

func found(_ context.Context, user string) (Role, error) {
	return Role{Name: user, Exists: user != "nobody", CanLogin: true}, nil
}

func mustRole(t *testing.T, s *Store, user string) Role {
	t.Helper()
	r, err := s.Role(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStoreRemembersForTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(found)
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: 10 * time.Second})
		for _, user := range []string{"alice", "nobody"} {
			for range 3 {
				if r := mustRole(t, s, user); r.Exists != (user == "alice") {
					t.Fatalf("%s: %+v", user, r)
				}
			}
			time.Sleep(10*time.Second - 1)
			mustRole(t, s, user)
			if n := l.of(user); n != 1 {
				t.Errorf("%s: %d lookups within the time, want 1", user, n)
			}
			time.Sleep(1 * time.Nanosecond)
			mustRole(t, s, user)
			if n := l.of(user); n != 2 {
				t.Errorf("%s: %d lookups after the time, want 2", user, n)
			}
		}
	})
}

func TestStoreWithoutCacheAsksEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(found)
		s := NewStore(StoreConfig{Lookup: l.lookup})
		mustRole(t, s, "alice")
		mustRole(t, s, "alice")
		if n := l.of("alice"); n != 2 {
			t.Errorf("%d lookups, want 2", n)
		}
		if len(s.mu.entries) != 0 {
			t.Error("a role is remembered")
		}
	})
}

func TestStoreSharesLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		l := newLookups(func(ctx context.Context, user string) (Role, error) {
			<-answer
			return found(ctx, user)
		})
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: time.Minute, Timeout: time.Hour})

		// The client that came first goes away; the others still get the answer.
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := s.Role(ctx, "alice")
			first <- err
		}()
		synctest.Wait()
		var good atomic.Int32
		for range 10 {
			go func() {
				if r, err := s.Role(t.Context(), "alice"); err == nil && r.Exists {
					good.Add(1)
				}
			}()
		}
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first: got %v, want canceled", err)
		}
		close(answer)
		synctest.Wait()
		if good.Load() != 10 || l.of("alice") != 1 {
			t.Errorf("%d of 10 got the role by %d lookups", good.Load(), l.of("alice"))
		}
	})
}

func TestStoreBoundsLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		l := newLookups(func(ctx context.Context, user string) (Role, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
				return Role{}, ctx.Err()
			}
			return found(ctx, user)
		})
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: time.Minute, Timeout: 5 * time.Second, MaxLookups: 3})
		var good, bad atomic.Int32
		for i := range 20 {
			go func() {
				if _, err := s.Role(t.Context(), fmt.Sprint("user", i)); err == nil {
					good.Add(1)
				} else {
					bad.Add(1)
				}
			}()
		}
		time.Sleep(time.Minute)
		if most.Load() != 3 {
			t.Errorf("%d at once, want 3", most.Load())
		}
		// Two rounds of three end within five seconds; the third is cut, the rest never ran.
		if good.Load() != 6 || bad.Load() != 14 {
			t.Errorf("%d answered, %d not; want 6 and 14", good.Load(), bad.Load())
		}
	})
}

func TestStoreBoundsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(found)
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: time.Minute, MaxEntries: 3})
		for _, user := range []string{"a", "b", "c", "d"} {
			mustRole(t, s, user)
			time.Sleep(time.Second)
		}
		if len(s.mu.entries) != 3 || s.mu.order.Len() != 3 {
			t.Fatalf("%d entries, want 3", len(s.mu.entries))
		}
		mustRole(t, s, "b")
		mustRole(t, s, "a")
		if l.of("a") != 2 || l.of("b") != 1 {
			t.Errorf("the oldest is not the one that went: a %d, b %d", l.of("a"), l.of("b"))
		}
		// What is too old goes with the next insertion, not only when it is asked for.
		time.Sleep(time.Hour)
		mustRole(t, s, "z")
		if len(s.mu.entries) != 1 {
			t.Errorf("%d entries, want 1", len(s.mu.entries))
		}
	})
}

func TestStoreInvalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(found)
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: time.Minute})
		mustRole(t, s, "alice")
		time.Sleep(time.Second - 1)
		s.Invalidate("alice")
		mustRole(t, s, "alice")
		if n := l.of("alice"); n != 1 {
			t.Errorf("a role younger than a second was looked up again")
		}
		time.Sleep(1 * time.Nanosecond)
		s.Invalidate("alice")
		s.Invalidate("unknown")
		mustRole(t, s, "alice")
		if n := l.of("alice"); n != 2 {
			t.Errorf("%d lookups, want 2", n)
		}
	})
}

func TestStoreDoesNotRememberErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := true
		l := newLookups(func(ctx context.Context, user string) (Role, error) {
			if down {
				return Role{}, ErrNoServer
			}
			return found(ctx, user)
		})
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: time.Minute})
		if _, err := s.Role(t.Context(), "alice"); !errors.Is(err, ErrNoServer) {
			t.Errorf("got %v", err)
		}
		down = false
		mustRole(t, s, "alice")
	})
}

func TestStoreNeverAsksForDangerousNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(found)
		s := NewStore(StoreConfig{Lookup: l.lookup, TTL: time.Minute})
		long := make([]byte, 64)
		for i := range long {
			long[i] = 'x'
		}
		for _, user := range []string{"", "a\x00b", "a\nb", "\x1b[2J", "a\x7f", "a\xff", string(long)} {
			if r := mustRole(t, s, user); r.Exists {
				t.Errorf("%q exists", user)
			}
		}
		if len(l.count) != 0 || len(s.mu.entries) != 0 {
			t.Errorf("lookups %v, %d entries", l.count, len(s.mu.entries))
		}
		for _, user := range []string{string(long[:63]), "o'neill", `a"b;--`, "größe", "a b"} {
			if r := mustRole(t, s, user); !r.Exists {
				t.Errorf("%q was not looked up", user)
			}
		}
	})
}

func TestLoginsOfOneUserShareTheirCredential(t *testing.T) {
	s := NewStore(StoreConfig{TTL: time.Hour, Lookup: func(context.Context, string) (Role, error) {
		return Role{Name: "u", Exists: true}, nil
	}})
	keys := SCRAMKeys{ClientKey: [keyLen]byte{1}, Salt: []byte("salt"), Iterations: 4096}
	other := keys
	other.ClientKey[0] = 2
	var creds []*Credential
	for _, k := range []SCRAMKeys{keys, keys, other} {
		c, err := s.get(t.Context(), "u")
		if err != nil {
			t.Fatal(err)
		}
		creds = append(creds, c.credential(k))
	}
	if creds[0] != creds[1] {
		t.Error("two logins with the same keys have two credentials")
	}
	if creds[2].Equal(creds[0]) {
		t.Error("a login with other keys has the credential of the former ones")
	}
}
