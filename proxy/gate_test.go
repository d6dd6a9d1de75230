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
		enter := func(addr netip.Addr) (evicted *bool, leave func()) {
			evicted = new(bool)
			leave, err := g.enter(t.Context(), addr, func() { *evicted = true })
			if err != nil {
				t.Fatal(err)
			}
			return evicted, leave
		}
		user, leaveUser := enter(honest)
		first, leaveFirst := enter(attacker)
		second, _ := enter(attacker)
		began := time.Now()
		third, _ := enter(attacker)
		if waited := time.Since(began); waited != evictAfter {
			t.Errorf("waited %v for a place, want %v", waited, evictAfter)
		}
		if *user || !*first || *second || *third {
			t.Errorf("evicted: user %v, attacker's %v %v %v", *user, *first, *second, *third)
		}
		leaveFirst() // its goroutine ends; the place was given away already
		leaveUser()
		began = time.Now()
		if enter(honest); time.Since(began) != 0 {
			t.Errorf("waited although a place was free")
		}
		if g.mu.n != 3 {
			t.Errorf("%d inside, want 3", g.mu.n)
		}
	})
}

func TestGateWaitsForOneThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		leave, err := g.enter(t.Context(), honest, func() { t.Error("evicted") })
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(evictAfter/2, leave)
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
