package vip

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vip4, text4 = "10.77.0.100", "10.77.0.100/24"
	vip6, text6 = "fd00::100", "fd00::100/64"
)

var (
	eth4 = Config{Address: text4, Interface: "eth0"}
	eth6 = Config{Address: text6, Interface: "eth0"}
)

// Each family: an address is taken, keeps connections while it is renewed, and is
// gone at once when it is not wanted any more.
func TestHoldsWhileWanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ address, text string }{{vip4, text4}, {vip6, text6}} {
		t.Run(c.address, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			h1, client := l.host("h1", 11), l.host("c", 50)
			m := h1.run(Config{Address: c.text, Interface: "eth0"})
			never(t, 200*time.Millisecond, "an address that nobody wants is held", func() bool { return h1.has(c.address) })
			m.tell("keep", c.text)
			took := within(t, 2*time.Second, "the address is on the interface", func() bool { return h1.has(c.address) })
			t.Logf("taken after %s", took)
			within(t, time.Second, "Held is reported", func() bool { return m.link().Held })
			if got := m.metric("pgproxy_vip_held"); got != 1 {
				t.Errorf("vip_held is %v, want 1", got)
			}
			a := h1.addrs(c.address)[0]
			if ones, bits := a.Mask.Size(); ones != bits || a.ValidLft > 2 || a.PreferedLft != 0 || a.Flags&unix.IFA_F_DEPRECATED == 0 {
				t.Errorf("on the interface is %v, lifetime %d, preferred %d, flags %#x", a, a.ValidLft, a.PreferedLft, a.Flags)
			}
			if c.address == vip6 && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
				t.Errorf("flags %#x: the kernel's duplicate detection is at work", a.Flags)
			}
			conn := client.dial(c.address, h1.listen())
			for end := time.Now().Add(3500 * time.Millisecond); time.Now().Before(end); {
				if got := echo(t, conn, "ping"); got != "ping" {
					t.Fatalf("echo is %q", got)
				}
				if !h1.has(c.address) {
					t.Fatal("a renewed address was gone")
				}
			}
			m.tell("want", c.text, "0s")
			gone := within(t, 500*time.Millisecond, "an unwanted address is removed", func() bool { return !h1.has(c.address) })
			t.Logf("removed after %s", gone)
			within(t, time.Second, "Held is not reported any more", func() bool { return !m.link().Held })
		})
	}
}

// A lease that nobody extends ends by itself: no event says so.
func TestReleasesWhenLeaseEnds(t *testing.T) {
	t.Parallel()
	h1 := newLAN(t).host("h1", 11)
	m := h1.run(eth4)
	m.tell("want", text4, "1500ms")
	begin := time.Now()
	within(t, time.Second, "taken", func() bool { return h1.has(vip4) })
	within(t, 2*time.Second, "removed", func() bool { return !h1.has(vip4) })
	if held := time.Since(begin); held < 1400*time.Millisecond || held > 1800*time.Millisecond {
		t.Errorf("removed %s after a lease of 1.5 s began", held)
	}
}

// The kernel takes the address from a process that is killed or frozen; one that
// wakes up without a lease does not renew it.
func TestKernelTakesAddressAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, address string
		signal        syscall.Signal
	}{
		{text4, vip4, syscall.SIGKILL},
		{text6, vip6, syscall.SIGKILL},
		{text4, vip4, syscall.SIGSTOP},
		{text6, vip6, syscall.SIGSTOP},
	} {
		t.Run(fmt.Sprint(c.signal, " ", c.address), func(t *testing.T) {
			t.Parallel()
			h1 := newLAN(t).host("h1", 11)
			m := h1.run(Config{Address: c.text, Interface: "eth0"})
			m.tell("want", c.text, "3s")
			within(t, time.Second, "taken", func() bool { return h1.has(c.address) })
			// Let it renew a few times.
			var renewals atomic.Int64
			h1.events(c.address, func(u netlink.AddrUpdate) {
				if u.NewAddr {
					renewals.Add(1)
				}
			})
			within(t, 2*time.Second, "renewed twice", func() bool { return renewals.Load() >= 2 })
			m.signal(c.signal)
			gone := within(t, 3*time.Second, "the kernel has removed the address", func() bool { return !h1.has(c.address) })
			t.Logf("gone %s after %s", gone, c.signal)
			if gone < 1500*time.Millisecond {
				t.Errorf("gone %s after the signal: it was not the kernel who removed it", gone)
			}
			if c.signal != syscall.SIGSTOP {
				return
			}
			never(t, time.Second, "back", func() bool { return h1.has(c.address) })
			before := renewals.Load()
			m.signal(syscall.SIGCONT)
			never(t, time.Second, "set by a process whose lease has run out", func() bool { return renewals.Load() != before })
			within(t, time.Second, "the end is reported", func() bool { return !m.link().Held })
			m.tell("keep", c.text)
			within(t, time.Second, "taken with a new lease", func() bool { return h1.has(c.address) })
		})
	}
}

// A host that is not a member and has the address keeps it; when it is gone the
// address is taken. A member's answer is no objection.
func TestConflict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ address, text string }{{vip4, text4}, {vip6, text6}} {
		t.Run(c.address, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			h1, other := l.host("h1", 11), l.host("x", 66)
			ip(t, "-n", other.ns, "addr", "add", c.text, "dev", "eth0", "nodad")
			m := h1.run(Config{Address: c.text, Interface: "eth0"})
			m.tell("keep", c.text)
			within(t, 2*time.Second, "the foreign host is reported", func() bool { return m.link().Foreign == other.hardware })
			never(t, 1500*time.Millisecond, "an address that a foreign host has is taken", func() bool { return h1.has(c.address) })
			if m.metric("pgproxy_vip_conflicts_total") < 1 || m.logged("not a member", other.hardware) != 1 {
				t.Errorf("conflicts: %v, log:\n%s", m.metric("pgproxy_vip_conflicts_total"), m.log.String())
			}
			ip(t, "-n", other.ns, "addr", "del", c.text, "dev", "eth0")
			within(t, 2*time.Second, "taken when the foreign host has left it", func() bool { return h1.has(c.address) })
			within(t, time.Second, "the report is taken back", func() bool { return m.link().Foreign == "" })

			m.tell("want", c.text, "0s")
			within(t, time.Second, "released", func() bool { return !h1.has(c.address) })
			ip(t, "-n", other.ns, "addr", "add", c.text, "dev", "eth0", "nodad")
			m.tell("hardware", strings.ToUpper(other.hardware))
			m.tell("keep", c.text)
			within(t, 2*time.Second, "taken over from a member", func() bool { return h1.has(c.address) })
			m.tell("want", c.text, "0s")
			m.tell("hardware", "02:00:00:00:00:01") // a leader that knows less makes nobody foreign
			within(t, time.Second, "released", func() bool { return !h1.has(c.address) })
			m.tell("keep", c.text)
			within(t, 2*time.Second, "taken over from a member", func() bool { return h1.has(c.address) })
			if got := m.link().Foreign; got != "" {
				t.Errorf("the member %s is called foreign", got)
			}
		})
	}
}

// A neighbour that talked to the old holder, which is frozen, talks to the new one
// without asking.
func TestAnnouncementMovesNeighbours(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ address, text string }{{vip4, text4}, {vip6, text6}} {
		t.Run(c.address, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			h1, h2, client := l.host("h1", 11), l.host("h2", 12), l.host("c", 50)
			cfg := Config{Address: c.text, Interface: "eth0"}
			m1, m2 := h1.run(cfg), h2.run(cfg)
			m1.tell("keep", c.text)
			within(t, time.Second, "taken", func() bool { return h1.has(c.address) })
			echo(t, client.dial(c.address, h1.listen()), "ping")
			if got := client.neighbour(c.address); got != h1.hardware {
				t.Fatalf("the client's entry is %s, want %s", got, h1.hardware)
			}
			m1.signal(syscall.SIGSTOP)
			m2.tell("hardware", h1.hardware, h2.hardware)
			m2.tell("keep", c.text)
			took := within(t, time.Second, "the client's entry is the new holder", func() bool { return client.neighbour(c.address) == h2.hardware })
			t.Logf("the neighbour follows %s after the order", took)
			port := h2.listen()
			echo(t, client.dial(c.address, port), "ping")
			// Also one whose entry went back to the frozen one.
			hw, _ := net.ParseMAC(h1.hardware)
			if err := client.NeighSet(&netlink.Neigh{LinkIndex: client.index, State: netlink.NUD_REACHABLE, IP: net.ParseIP(c.address), HardwareAddr: hw}); err != nil {
				t.Fatalf("set neighbour: %v", err)
			}
			within(t, refreshEvery+time.Second, "the refresh corrects the entry", func() bool { return client.neighbour(c.address) == h2.hardware })
		})
	}
}

// Both forms are sent, again and again.
func TestAnnouncementForms(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	h1, client := l.host("h1", 11), l.host("c", 50)
	var fd int
	client.inside(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0); err != nil {
			return err
		}
		const arpBigEndian = 0x0608
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arpBigEndian, Ifindex: client.index}); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
	})
	defer unix.Close(fd)
	m := h1.run(eth4)
	m.tell("keep", text4)
	want := map[string]int{"probe": 1, "request": 4, "reply": 4} // at least, within 3 s
	for b := make([]byte, 128); len(want) > 0; {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("not seen within 3 s: %v (%v)", want, err)
		}
		kind := map[byte]string{1: "request", 2: "reply"}[b[7]]
		sender, target := net.IP(b[14:18]).String(), net.IP(b[24:28]).String()
		senderHW, targetHW := net.HardwareAddr(b[8:14]).String(), net.HardwareAddr(b[18:24]).String()
		switch {
		case n < 28 || target != vip4:
			continue
		case sender == "0.0.0.0" && kind == "request":
			kind = "probe"
		case sender != vip4:
			continue
		case kind == "reply" && targetHW != senderHW:
			t.Errorf("reply to %s: Linux takes it for an ordinary one", targetHW)
		}
		if senderHW != h1.hardware {
			t.Errorf("%s from %s, want %s", kind, senderHW, h1.hardware)
		}
		if want[kind]--; want[kind] <= 0 {
			delete(want, kind)
		}
	}
}

// The host's own connections never come from the address, whatever the order in
// which the addresses stand on the interface.
func TestNeverSourceAddress(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	h1, server := l.host("h1", 11), l.host("s", 50)
	port := server.listen()
	routes := func() {
		ip(t, "-n", h1.ns, "route", "replace", "10.99.0.0/16", "via", "10.77.0.50")
		ip(t, "-n", h1.ns, "route", "replace", "10.98.0.0/16", "dev", "eth0")
	}
	routes()
	ip(t, "-n", server.ns, "addr", "add", "10.99.0.1/32", "dev", "lo")
	ip(t, "-n", server.ns, "addr", "add", "10.98.0.1/32", "dev", "lo")
	m := h1.run(eth4, eth6)
	m.tell("keep", text4)
	m.tell("keep", text6)
	check := func() {
		t.Helper()
		within(t, 2*time.Second, "taken", func() bool { return h1.has(vip4) && h1.has(vip6) })
		for to, want := range map[string]string{"10.77.0.50": "10.77.0.11", "10.99.0.1": "10.77.0.11", "10.98.0.1": "10.77.0.11", "fd00::50": "fd00::11"} {
			from, _, _ := net.SplitHostPort(echo(t, h1.dial(to, port), "who"))
			if from = strings.TrimPrefix(from, "::ffff:"); from != want {
				t.Errorf("a connection to %s comes from %s, want %s", to, from, want)
			}
		}
	}
	check()
	// The host's own addresses come anew, behind the virtual one.
	ip(t, "-n", h1.ns, "addr", "del", "10.77.0.11/24", "dev", "eth0")
	ip(t, "-n", h1.ns, "addr", "del", "fd00::11/64", "dev", "eth0")
	within(t, time.Second, "the virtual address is there, alone", func() bool { return h1.has(vip4) && !h1.has("10.77.0.11") })
	ip(t, "-n", h1.ns, "addr", "add", "10.77.0.11/24", "dev", "eth0")
	ip(t, "-n", h1.ns, "addr", "add", "fd00::11/64", "dev", "eth0", "nodad")
	routes()
	check()
}

// The host's own routes do not end with the lease.
func TestLeavesRoutesAlone(t *testing.T) {
	t.Parallel()
	h1 := newLAN(t).host("h1", 11)
	routes := func() string { return ip(t, "-n", h1.ns, "-4", "route") + ip(t, "-n", h1.ns, "-6", "route") }
	before := routes()
	m := h1.run(eth4, eth6)
	m.tell("keep", text4)
	m.tell("keep", text6)
	within(t, 2*time.Second, "taken", func() bool { return h1.has(vip4) && h1.has(vip6) })
	m.signal(syscall.SIGKILL)
	within(t, 3*time.Second, "gone", func() bool { return !h1.has(vip4) && !h1.has(vip6) })
	if after := routes(); after != before {
		t.Errorf("routes before:\n%s\nafter:\n%s", before, after)
	}
}

func TestCarrier(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	h1, client := l.host("h1", 11), l.host("c", 50)
	m := h1.run(eth4)
	m.tell("keep", text4)
	within(t, time.Second, "taken", func() bool { return m.link().Held })
	if m.link().Hardware != h1.hardware {
		t.Errorf("hardware %q, want %q", m.link().Hardware, h1.hardware)
	}
	port := h1.listen()
	h1.carrier(false) // the cable is pulled
	took := within(t, 300*time.Millisecond, "lost carrier is reported", func() bool { return !m.link().Carrier })
	within(t, 300*time.Millisecond, "the address is removed", func() bool { return !h1.has(vip4) })
	t.Logf("lost carrier reported after %s", took)
	h1.carrier(true)
	within(t, 2*time.Second, "taken again", func() bool { return m.link().Carrier && h1.has(vip4) })
	echo(t, client.dial(vip4, port), "ping")

	ip(t, "-n", h1.ns, "link", "set", "eth0", "down")
	within(t, 300*time.Millisecond, "interface down is reported", func() bool { return !m.link().Carrier && !m.link().Held })
	ip(t, "-n", h1.ns, "link", "set", "eth0", "up")
	within(t, 2*time.Second, "taken again", func() bool { return h1.has(vip4) })

	// The hardware address changes: neighbours learn it, connections go on.
	conn := client.dial(vip4, port)
	echo(t, conn, "ping")
	ip(t, "-n", h1.ns, "link", "set", "eth0", "address", "02:00:00:00:77:01")
	within(t, time.Second, "the neighbour learns the new hardware address", func() bool { return client.neighbour(vip4) == "02:00:00:00:77:01" })
	echo(t, conn, "pong")
	within(t, time.Second, "the new hardware address is reported", func() bool { return m.link().Hardware == "02:00:00:00:77:01" })

	ip(t, "-n", h1.ns, "link", "del", "eth0")
	within(t, 300*time.Millisecond, "a missing interface is reported", func() bool { return !m.link().Carrier && !m.link().Held })
	within(t, time.Second, "a missing interface is logged", func() bool { return m.logged("level=ERROR", "eth0", "there is none") == 1 })
	ip(t, "-n", h1.ns, "link", "add", "eth0", "type", "veth", "peer", "name", "p-h1", "netns", l.Name()+"-switch")
	ip(t, "-n", l.Name()+"-switch", "link", "set", "p-h1", "master", "br0", "up")
	ip(t, "-n", h1.ns, "link", "set", "eth0", "up")
	within(t, 2*time.Second, "taken on the new interface", func() bool { return h1.has(vip4) })
}

func TestGateway(t *testing.T) {
	t.Parallel()
	for _, gw := range []string{"10.77.0.1", "fd00::1"} {
		t.Run(gw, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			h1, router := l.host("h1", 11), l.host("gw", 1)
			cfg := eth4
			if strings.Contains(gw, ":") {
				cfg = eth6
			}
			cfg.Check = []string{strings.Replace(gw, "1", "9", 1)[:len(gw)-1] + "254", gw} // the first never answers
			if gw == "10.77.0.1" {
				cfg.Check[0] = "10.77.0.254"
			}
			m := h1.run(cfg)
			within(t, time.Second, "the gateway answers", func() bool { return m.link().Gateway })
			never(t, 1500*time.Millisecond, "a gateway that answers is called unreachable", func() bool { return !m.link().Gateway })
			router.carrier(false)
			took := within(t, 5*time.Second, "the gateway is unreachable", func() bool { return !m.link().Gateway })
			if took < time.Second {
				t.Errorf("unreachable after %s: one miss was enough", took)
			}
			t.Logf("unreachable after %s", took)
			router.carrier(true)
			within(t, 3*time.Second, "the gateway answers again", func() bool { return m.link().Gateway })
			// Another machine takes over the gateway's address.
			ip(t, "-n", router.ns, "link", "set", "eth0", "address", "02:00:00:00:77:02")
			never(t, 3500*time.Millisecond, "a new hardware address makes the gateway unreachable", func() bool { return !m.link().Gateway })
		})
	}
}

func TestNoGatewayToAsk(t *testing.T) {
	t.Parallel()
	h1 := newLAN(t).host("h1", 11)
	if m := h1.run(eth4); !m.link().Gateway {
		t.Error("no gateway to ask is reported as none reachable")
	}
}

// What an earlier run left is removed at the start, and nothing is left at the end.
func TestCleansUp(t *testing.T) {
	t.Parallel()
	h1 := newLAN(t).host("h1", 11)
	ip(t, "-n", h1.ns, "addr", "add", vip4+"/32", "dev", "eth0", "valid_lft", "60", "preferred_lft", "0")
	ip(t, "-n", h1.ns, "addr", "add", vip6+"/64", "dev", "eth0", "valid_lft", "60", "preferred_lft", "0", "nodad")
	ip(t, "-n", h1.ns, "addr", "add", "10.77.0.101/24", "dev", "eth0", "valid_lft", "60", "preferred_lft", "0")
	m := h1.run(eth4, eth6)
	if h1.has(vip4) || h1.has(vip6) {
		t.Error("an address of an earlier run is still there")
	}
	if !h1.has("10.77.0.101") || !h1.has("10.77.0.11") {
		t.Error("an address that is none of ours was removed")
	}
	m.tell("keep", text4)
	m.tell("keep", text6)
	within(t, 2*time.Second, "taken", func() bool { return h1.has(vip4) && h1.has(vip6) })
	m.stop()
	if h1.has(vip4) || h1.has(vip6) {
		t.Error("an address is still there after the end")
	}
}

func TestPermanentAddressIsTheOperators(t *testing.T) {
	t.Parallel()
	h1 := newLAN(t).host("h1", 11)
	ip(t, "-n", h1.ns, "addr", "add", text4, "dev", "eth0")
	m := h1.start("-all,+net_admin,+net_raw", eth4)
	select {
	case <-m.ended:
	case <-time.After(3 * time.Second):
		t.Fatal("starts although the address is configured permanently")
	}
	if want := "virtual address 10.77.0.100 is configured permanently on interface eth0"; m.logged(want) != 1 {
		t.Errorf("want %q, got:\n%s", want, m.log.String())
	}
	if !h1.has(vip4) {
		t.Error("the operator's address was removed")
	}
}

// arp_ignore 1, which load balancers' documentation recommends, changes nothing; 2
// makes the kernel deaf for the address, and a warning says so.
func TestARPIgnore(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	h1, client := l.host("h1", 11), l.host("c", 50)
	set := func(level string) {
		h1.inside(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/arp_ignore", []byte(level), 0o644) })
	}
	set("1")
	m := h1.run(eth4)
	m.tell("keep", text4)
	within(t, time.Second, "taken", func() bool { return h1.has(vip4) })
	echo(t, client.dial(vip4, h1.listen()), "ping")
	if m.logged("arp_ignore") != 0 {
		t.Errorf("a warning although the address can be reached:\n%s", m.log.String())
	}
	m.stop()
	set("2")
	if m = h1.run(eth4); m.logged("level=WARN", "arp_ignore", text4) != 1 {
		t.Errorf("no warning:\n%s", m.log.String())
	}
}

func TestMissingCapabilities(t *testing.T) {
	t.Parallel()
	for _, caps := range []string{"-all", "-all,+net_admin", "-all,+net_raw"} {
		t.Run(caps, func(t *testing.T) {
			t.Parallel()
			h1 := newLAN(t).host("h1", 11)
			m := h1.start(caps, eth4)
			within(t, 5*time.Second, "said at start", func() bool { return m.logged("CAP_NET_ADMIN and CAP_NET_RAW") == 1 })
			m.tell("keep", text4)
			within(t, 2*time.Second, "said when the address cannot be taken", func() bool { return m.logged("CAP_NET_ADMIN and CAP_NET_RAW", text4) == 1 })
			never(t, time.Second, "repeated", func() bool { return m.logged("CAP_NET_ADMIN and CAP_NET_RAW", text4) > 1 || h1.has(vip4) })
		})
	}
}

// Several members are told to hold the address one after the other; every one that
// may not hold it is without it in the end.
func TestHandOver(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	hosts := []*node{l.host("h1", 11), l.host("h2", 12)}
	client := l.host("c", 50)
	var members []*member
	for _, h := range hosts {
		members = append(members, h.run(eth4))
	}
	for _, m := range members {
		m.tell("hardware", hosts[0].hardware, hosts[1].hardware)
	}
	var worst time.Duration
	for i := range 6 {
		from, to := i%2, (i+1)%2
		members[from].tell("want", text4, "0s")
		members[to].tell("keep", text4)
		took := within(t, 2*time.Second, "the client follows", func() bool {
			if client.neighbour(vip4) == "" {
				client.inside(func() error { // makes the first entry
					c, err := net.DialTimeout("tcp", vip4+":1", 100*time.Millisecond)
					if err == nil {
						c.Close()
					}
					return nil
				})
			}
			return client.neighbour(vip4) == hosts[to].hardware && !hosts[from].has(vip4) && hosts[to].has(vip4)
		})
		worst = max(worst, took)
	}
	t.Logf("a hand-over took at most %s", worst)
}
