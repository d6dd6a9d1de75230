package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// holdTest is a cluster of two whose pools run, in a bubble.
func holdTest(t *testing.T, change func(cfg *PoolConfig, hold *HoldConfig), test func(pp *pipePools)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg, hold := transactionPool(), DefaultHold()
		cfg.Size = 100
		change(&cfg, &hold)
		pp := newPipePools(cfg, nil, testState("h:1", "h:2"))
		pp.holdWith(hold)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			pp.run(ctx)
		}()
		synctest.Wait()
		test(pp)
		stop()
		<-ended
	})
}

// served puts together whom the wants were for that have been served, in the order in
// which they came.
func served(all []*want) string {
	var b strings.Builder
	synctest.Wait()
	for _, w := range all {
		if w.done.Load() && w.err == nil {
			b.WriteString(w.user)
		}
	}
	return b.String()
}

// loginsBegun names those whose logins have begun, each pair in the order of the
// alphabet.
func (pp *pipePools) loginsBegun() string {
	pp.mu.Lock()
	users := slices.Clone(pp.mu.users)
	pp.mu.Unlock()
	for pair := range slices.Chunk(users, 2) {
		slices.Sort(pair)
	}
	return strings.Join(users, "")
}

func TestHeldAreServedInTheOrderInWhichTheyBeganToWait(t *testing.T) {
	holdTest(t, func(cfg *PoolConfig, _ *HoldConfig) { cfg.Connects = 2 }, func(pp *pipePools) {
		gate := make(chan struct{})
		pp.set(func() { pp.mu.gate = gate })
		var all []*want
		want := func(users string) {
			for _, u := range users {
				all = append(all, pp.wantPrimary(string(u)))
			}
		}
		want("abc") // a and b log in on the old primary, and will in vain
		pp.stage.begin(1, cluster.Failover, cluster.PhasePromote)
		want("de")
		if n := pp.heldClients(); n != 5 {
			t.Errorf("%d held, want 5", n)
		}
		pp.stage.adopt("h2", 2)
		want("f")
		if got := pp.loginsBegun(); got != "abab" {
			t.Errorf("logins of %s, want two at once, and again those who came first", got)
		}
		if n := pp.heldClients(); n != 0 {
			t.Errorf("%d held although there is a primary", n)
		}
		for i, login := range []string{"ab", "abcd", "abcdef"} {
			if got := pp.loginsBegun(); got != "ab"+login {
				t.Errorf("logins of %s, want ab%s", got, login)
			}
			if i > 0 {
				if got := served(all); got != login[:2*i] {
					t.Errorf("%s served, want %s", got, login[:2*i])
				}
			}
			gate <- struct{}{}
			gate <- struct{}{}
			synctest.Wait()
		}
		for _, w := range all {
			if w.err != nil || w.sc.backend != "h2" {
				t.Fatalf("%s: %v", w.user, w.err)
			}
			pp.release(w.sc, true)
		}
	})
}

func TestHoldIsBounded(t *testing.T) {
	holdTest(t, func(cfg *PoolConfig, hold *HoldConfig) {
		cfg.Wait, hold.Timeout, hold.MaxClients = 4*time.Second, 10*time.Second, 2
	}, func(pp *pipePools) {
		pp.stage.begin(1, cluster.Failover, cluster.PhasePromote)
		a := pp.wantPrimary("a")
		advance(3 * time.Second)
		b := pp.wantPrimary("b")
		c := pp.wantPrimary("c")
		if r, ok := errors.AsType[*Refusal](c.err); !ok || r.Code != "57P03" ||
			r.Message != "pgproxy: no primary, and hold.max_clients 2 wait for one" {
			t.Errorf("beyond hold.max_clients: %v", c.err)
		}
		for i, w := range []*want{a, b} {
			if w.done.Load() {
				t.Errorf("early: %v", w.err)
			}
			advance(7*time.Second - time.Duration(4*i)*time.Second)
			if r, ok := errors.AsType[*Refusal](w.err); !ok || r.Code != "57P03" || r.Message != "pgproxy: no primary within 10s" {
				t.Errorf("%s: %v", w.user, w.err)
			}
		}
		if n := pp.heldClients(); n != 0 {
			t.Errorf("%d held", n)
		}
	})
}

// What a session has waited for a primary is not taken from what it may wait for a
// connection.
func TestHeldThenWaitForAConnection(t *testing.T) {
	holdTest(t, func(cfg *PoolConfig, hold *HoldConfig) {
		cfg.Wait, hold.Timeout, cfg.Size = 4*time.Second, 10*time.Second, 1
	}, func(pp *pipePools) {
		pp.stage.begin(1, cluster.Failover, cluster.PhasePromote)
		a, b := pp.wantPrimary("u"), pp.wantPrimary("u")
		advance(9 * time.Second)
		pp.stage.adopt("h2", 2)
		synctest.Wait()
		if !a.done.Load() || b.done.Load() {
			t.Fatal("the order was not kept")
		}
		advance(4*time.Second - 1)
		if b.done.Load() {
			t.Fatalf("early: %v", b.err)
		}
		advance(time.Nanosecond)
		if r, ok := errors.AsType[*Refusal](b.err); !ok || r.Code != "53300" {
			t.Errorf("error %v", b.err)
		}
		a.sc.Close()
	})
}

// A primary that takes no logins is tried by one session at a time.
func TestOutageOfThePrimary(t *testing.T) {
	for name, fail := range map[string]error{
		"refused":  fmt.Errorf("connect: %w", &timeoutError{syscall.ECONNREFUSED}),
		"starting": &ServerError{Code: "57P03", Message: "the database system is starting up"},
	} {
		t.Run(name, func(t *testing.T) {
			holdTest(t, func(cfg *PoolConfig, _ *HoldConfig) { cfg.Connects = 4 }, func(pp *pipePools) {
				pp.set(func() { pp.mu.fail = fail })
				var all []*want
				for _, u := range "abcdefgh" {
					all = append(all, pp.wantPrimary(string(u)))
				}
				if got := pp.loginsBegun(); got != "a" {
					t.Errorf("logins of %s, want only the first one's", got)
				}
				advance(retryPrimary*3 + retryPrimary/2)
				if got := pp.loginsBegun(); got != "aaaa" {
					t.Errorf("logins of %s, want one each %v", got, retryPrimary)
				}
				if plain := pp.wantOn(0, testClient("p")); plain.err == nil || !isTransient(plain.err) {
					t.Errorf("a new session: %v", plain.err)
				}
				if n := pp.heldClients(); n != 8 {
					t.Errorf("%d held, want 8", n)
				}
				pp.set(func() { pp.mu.fail = nil })
				pp.stage.change(func(*cluster.State) {})
				if got := served(all); got != "abcdefgh" {
					t.Errorf("served %s", got)
				}
				if got := pp.loginsBegun(); got[:5] != "aaaaa" || pp.mu.most > 4 {
					t.Errorf("logins of %s, %d at once", got, pp.mu.most)
				}
				for _, w := range all {
					w.sc.Close()
				}
			})
		})
	}
}

func TestOutageEndsTheWaitLikeNoPrimary(t *testing.T) {
	holdTest(t, func(cfg *PoolConfig, hold *HoldConfig) {
		cfg.Wait, hold.Timeout = time.Second, 10*time.Second
	}, func(pp *pipePools) {
		pp.set(func() { pp.mu.fail = &ServerError{Code: "57P03"} })
		a, b := pp.wantPrimary("a"), pp.wantPrimary("b")
		advance(10 * time.Second)
		for _, w := range []*want{a, b} {
			if r, ok := errors.AsType[*Refusal](w.err); !ok || r.Message != "pgproxy: no primary within 10s" {
				t.Errorf("%s: %v", w.user, w.err)
			}
		}
	})
}

// timeoutError is a net.Error.
type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return false }
func (timeoutError) Temporary() bool { return true }

// DDL that changes the defaults of a role closes the connections that have the old ones;
// nobody who waits is to notice.
func TestCloseIdleLeavesThoseWhoWait(t *testing.T) {
	holdTest(t, func(cfg *PoolConfig, _ *HoldConfig) { cfg.Size = 1 }, func(pp *pipePools) {
		first := pp.wantPrimary("u")
		second, third := pp.wantPrimary("u"), pp.wantOn(0, testClient("u"))
		pp.closeIdle("h1")
		synctest.Wait()
		if second.done.Load() || third.done.Load() {
			t.Fatalf("served or refused: %v, %v", second.err, third.err)
		}
		gate := make(chan struct{})
		pp.set(func() { pp.mu.gate = gate })
		pp.release(first.sc, true)
		synctest.Wait()
		pp.closeIdle("h1") // under the login of the second
		pp.set(func() { pp.mu.gate = nil })
		close(gate)
		synctest.Wait()
		if !second.done.Load() || second.err != nil || pp.mu.logins != 3 {
			t.Fatalf("%v after %d logins, want a third one", second.err, pp.mu.logins)
		}
		pp.release(second.sc, true)
		synctest.Wait()
		if !third.done.Load() || third.err != nil || third.sc.id != second.sc.id {
			t.Errorf("the last one: %v", third.err)
		}
		third.sc.Close()
	})
}
