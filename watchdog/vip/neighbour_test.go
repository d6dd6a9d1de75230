package vip

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
)

var (
	hw1  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	own4 = netip.MustParseAddr(vip4)
	own6 = netip.MustParseAddr(vip6)
)

// The kernel's filter and the reader agree: what we send as an announcement is an
// owner's word, what we send as a probe or question is not.
func TestOwner(t *testing.T) {
	for _, addr := range []netip.Addr{own4, own6} {
		claim, ask, owner, program := arpClaim, arpAsk, func(b []byte, a netip.Addr) net.HardwareAddr { return arpOwner(b, a) }, arpFilter
		if addr.Is6() {
			claim, ask, program = ndpClaim, ndpAsk, ndpFilter
			owner = func(b []byte, a netip.Addr) net.HardwareAddr { return ndpOwner(b, a, nil) }
		}
		vm := func(a netip.Addr) *bpf.VM {
			v, err := bpf.NewVM(program(a))
			if err != nil {
				t.Fatalf("filter for %s: %v", a, err)
			}
			return v
		}
		passes := func(v *bpf.VM, b []byte) bool {
			n, err := v.Run(b)
			return err == nil && n > 0
		}
		frames, err := claim(hw1, addr)
		if err != nil {
			t.Fatalf("announcement of %s: %v", addr, err)
		}
		for _, f := range frames {
			if !bytes.Equal(owner(f.payload, addr), hw1) || !passes(vm(addr), f.payload) {
				t.Errorf("announcement % x of %s: owner %v", f.payload, addr, owner(f.payload, addr))
			}
			if owner(f.payload, addr.Next()) != nil || passes(vm(addr.Next()), f.payload) {
				t.Errorf("announcement of %s is taken for one of %s", addr, addr.Next())
			}
			for n := range f.payload {
				owner(f.payload[:n], addr) // whatever it says of a part, it must not panic
			}
		}
		for _, from := range []netip.Addr{{}, addr.Prev()} {
			f, err := ask(hw1, from, addr, broadcast)
			if err != nil {
				t.Fatalf("question for %s: %v", addr, err)
			}
			if owner(f.payload, addr) != nil || passes(vm(addr), f.payload) {
				t.Errorf("a question for %s is taken for its owner's word", addr)
			}
		}
	}
}

// An advertisement that a router forwarded is none.
func TestOwnerBehindRouter(t *testing.T) {
	frames, err := ndpClaim(hw1, own6)
	if err != nil {
		t.Fatal(err)
	}
	frames[0].payload[ip6HopLimit]--
	if hw := ndpOwner(frames[0].payload, own6, nil); hw != nil {
		t.Errorf("hop limit %d: owner %s", frames[0].payload[ip6HopLimit], hw)
	}
}

func FuzzOwner(f *testing.F) {
	for _, addr := range []netip.Addr{own4, own6} {
		claim := arpClaim
		if addr.Is6() {
			claim = ndpClaim
		}
		frames, err := claim(hw1, addr)
		if err != nil {
			f.Fatal(err)
		}
		for _, fr := range frames {
			f.Add(fr.payload)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, hw := range []net.HardwareAddr{arpOwner(b, own4), ndpOwner(b, own6, hw1)} {
			if hw != nil && len(hw) != 6 {
				t.Errorf("owner %s", hw)
			}
		}
	})
}

func TestTroubleIsLoggedOnceAndEachMinute(t *testing.T) {
	var out bytes.Buffer
	tr := trouble{log: slog.New(slog.NewTextHandler(&out, nil))}
	lines := func() int { return strings.Count(out.String(), "\n") }
	now, gone := time.Unix(1000, 0), errors.New("gone")
	for i, step := range []struct {
		after time.Duration
		err   error
		want  int // lines in all
	}{
		{0, gone, 1},
		{time.Second, gone, 1},
		{58 * time.Second, gone, 1},
		{time.Second, gone, 2},
		{time.Second, errors.New("another"), 3},
	} {
		now = now.Add(step.after)
		tr.is(now, "hold it", step.err)
		if lines() != step.want {
			t.Errorf("step %d: %d lines, want %d", i, lines(), step.want)
		}
	}
	if !strings.Contains(out.String(), "times=3") {
		t.Errorf("the failures in between are not counted:\n%s", out.String())
	}
	tr.over()
	if tr.is(now, "hold it", gone); lines() != 4 {
		t.Error("not logged again after it worked")
	}
}
