package proxy

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var (
	attacker = netip.MustParseAddr("192.0.2.1")
	honest   = netip.MustParseAddr("198.51.100.1")
)

func TestGateEvictsTheOldestOfTheHeaviest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(StartupLimits{MaxHalfOpen: 3, Timeout: time.Minute})
		var evicted string
		enter := func(name string, addr netip.Addr) *place {
			p := g.newPlace(addr, func(error) { evicted += name })
			if err := g.enter(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		waited := func(want time.Duration, f func()) {
			t.Helper()
			began := time.Now()
			f()
			if got := time.Since(began); got != want {
				t.Errorf("waited %v for a place, want %v", got, want)
			}
		}
		user := enter("u", honest)
		first, second := enter("1", attacker), enter("2", attacker)
		second.spoke()
		waited(silentFor, func() { enter("3", attacker) })
		if evicted != "1" {
			t.Errorf("evicted %s", evicted)
		}
		first.spoke() // too late
		first.leave() // its goroutine ends; the place was given away already
		waited(silentFor, func() { enter("4", attacker).spoke() })
		if evicted != "13" {
			t.Errorf("evicted %s", evicted)
		}
		// 2 and 4 have spoken: 2 has to go when it is old enough.
		waited(evictAfter-2*silentFor, func() { enter("5", attacker) })
		if evicted != "132" {
			t.Errorf("evicted %s", evicted)
		}
		user.leave()
		waited(0, func() { enter("v", honest) })
		if g.count() != 3 {
			t.Errorf("%d inside, want 3", g.count())
		}
	})
}

func TestGateWaitsForOneThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(StartupLimits{MaxHalfOpen: 1, Timeout: time.Minute})
		p := g.newPlace(honest, func(error) { t.Error("evicted") })
		if err := g.enter(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		p.spoke()
		time.AfterFunc(evictAfter/2, p.leave)
		began := time.Now()
		if err := g.enter(t.Context(), g.newPlace(honest, nil)); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != evictAfter/2 {
			t.Errorf("waited %v", waited)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.enter(ctx, g.newPlace(honest, nil)); err == nil {
			t.Error("entered after the end")
		}
		if p.leave(); g.count() != 1 {
			t.Errorf("%d inside after one left twice", g.count())
		}
	})
}

// The time of each begins when it enters, and a shorter one holds for those inside, too.
func TestGateEvictsWhoTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(StartupLimits{MaxHalfOpen: 10, Timeout: time.Minute})
		evicted := make(chan string, 10)
		enter := func(name string) *place {
			p := g.newPlace(honest, func(cause error) {
				if !errors.Is(cause, errStartupTimeout) {
					t.Errorf("%s is told %v", name, cause)
				}
				evicted <- name
			})
			if err := g.enter(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		after := func(d time.Duration, want string) {
			t.Helper()
			advance(d)
			got := ""
			for len(evicted) > 0 {
				got += <-evicted
			}
			if got != want {
				t.Errorf("evicted %q, want %q", got, want)
			}
		}
		enter("1")
		after(20*time.Second, "")
		enter("2").leave()
		enter("3").spoke()
		after(40*time.Second-1, "")
		after(1, "1")
		after(20*time.Second, "3")
		enter("4")
		after(time.Second, "")
		g.resize(StartupLimits{MaxHalfOpen: 10, Timeout: 2 * time.Second})
		after(time.Second-1, "")
		after(1, "4")
		if g.count() != 0 {
			t.Errorf("%d inside, want none", g.count())
		}
	})
}

func TestNetwork(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1/32",
		"::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8::1:2":    "2001:db8::/64",
		"fe80::1%eth0":     "fe80::/64",
	} {
		if got := network(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("network(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := network(netip.Addr{}); got.IsValid() {
		t.Errorf("network of a Unix socket = %s", got)
	}
}
