package proxy

import (
	"context"
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
		g := newGate(3)
		var evicted string
		enter := func(name string, addr netip.Addr) *place {
			p, err := g.enter(t.Context(), addr, func() { evicted += name })
			if err != nil {
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
		g := newGate(1)
		p, err := g.enter(t.Context(), honest, func() { t.Error("evicted") })
		if err != nil {
			t.Fatal(err)
		}
		p.spoke()
		time.AfterFunc(evictAfter/2, p.leave)
		began := time.Now()
		if _, err := g.enter(t.Context(), honest, nil); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != evictAfter/2 {
			t.Errorf("waited %v", waited)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.enter(ctx, honest, nil); err == nil {
			t.Error("entered after the end")
		}
		if p.leave(); g.count() != 1 {
			t.Errorf("%d inside after one left twice", g.count())
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
