package vip

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/pgproxy/pgproxy/internal/nettest"
)

// lan is a switch with hosts.
type lan struct {
	*nettest.Lab
	t *testing.T
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	return &lan{nettest.StartLab(t), t}
}

// node is a host on a lan.
type node struct {
	*nettest.Host
	*netlink.Handle
	t        *testing.T
	ns       string
	index    int // of eth0
	hardware string
}

// host adds a host with 10.77.0.N/24 and fd00::N/64.
func (l *lan) host(name string, n int) *node {
	l.t.Helper()
	host, err := l.Add(name, fmt.Sprintf("10.77.0.%d/24", n), fmt.Sprintf("fd00::%d/64", n))
	if err != nil {
		l.t.Fatal(err)
	}
	h := &node{Host: host, t: l.t, ns: host.Namespace()}
	h.inside(func() error {
		if h.Handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		l.t.Cleanup(h.Close)
		link, err := h.LinkByName("eth0")
		if err == nil {
			h.index, h.hardware = link.Attrs().Index, link.Attrs().HardwareAddr.String()
		}
		return err
	})
	return h
}

// carrier plugs the host's cable in or pulls it.
func (n *node) carrier(up bool) {
	n.t.Helper()
	if err := n.Carrier(up); err != nil {
		n.t.Fatal(err)
	}
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// inside runs f on a thread in the host's namespace; sockets stay in it.
func (n *node) inside(f func() error) {
	n.t.Helper()
	if err := n.Do(f); err != nil {
		n.t.Fatalf("on %s: %v", n.Name, err)
	}
}

// addrs returns what the kernel has of that address.
func (n *node) addrs(address string) []netlink.Addr {
	n.t.Helper()
	all, err := n.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		n.t.Fatalf("list addresses of %s: %v", n.ns, err)
	}
	var found []netlink.Addr
	for _, a := range all {
		if a.IP.String() == address {
			found = append(found, a)
		}
	}
	return found
}

func (n *node) has(address string) bool { return len(n.addrs(address)) > 0 }

// neighbour returns the hardware address that the host has cached; "" none.
func (n *node) neighbour(address string) string {
	n.t.Helper()
	family := netlink.FAMILY_V4
	if strings.Contains(address, ":") {
		family = netlink.FAMILY_V6
	}
	all, err := n.NeighList(n.index, family)
	if err != nil {
		n.t.Fatalf("list neighbours of %s: %v", n.ns, err)
	}
	for _, e := range all {
		if e.IP.String() == address {
			return e.HardwareAddr.String()
		}
	}
	return ""
}

// listen accepts connections on all addresses and sends back what it reads.
func (n *node) listen() (port int) {
	n.t.Helper()
	n.inside(func() error {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { l.Close() })
		port = l.Addr().(*net.TCPAddr).Port
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					var b [64]byte
					for {
						k, err := c.Read(b[:])
						if err != nil {
							return
						}
						if bytes.HasPrefix(b[:k], []byte("who")) {
							_, _ = c.Write([]byte(c.RemoteAddr().String()))
						} else {
							_, _ = c.Write(b[:k])
						}
					}
				}()
			}
		}()
		return nil
	})
	return port
}

// dial connects to an address from this host.
func (n *node) dial(address string, port int) net.Conn {
	n.t.Helper()
	var c net.Conn
	n.inside(func() (err error) {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(address, fmt.Sprint(port)), 2*time.Second)
		return err
	})
	n.t.Cleanup(func() { c.Close() })
	return c
}

// echo says something on a connection and returns the answer.
func echo(t *testing.T, c net.Conn, say string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	if _, err := c.Write([]byte(say)); err != nil {
		t.Fatalf("write: %v", err)
	}
	var b [64]byte
	k, err := c.Read(b[:])
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(b[:k])
}

// events calls f with every change of that address on the host until the test ends.
func (n *node) events(address string, f func(u netlink.AddrUpdate)) {
	n.t.Helper()
	id, err := netns.GetFromName(n.ns)
	if err != nil {
		n.t.Fatalf("open namespace %s: %v", n.ns, err)
	}
	defer id.Close()
	done, updates := make(chan struct{}), make(chan netlink.AddrUpdate)
	if err := netlink.AddrSubscribeAt(id, updates, done); err != nil {
		n.t.Fatalf("subscribe to addresses of %s: %v", n.ns, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for u := range updates {
			if u.LinkAddress.IP.String() == address {
				f(u)
			}
		}
	}()
	n.t.Cleanup(func() {
		close(done)
		<-ended
	})
}

// within fails the test unless ok becomes true in time; it returns how long it took.
func within(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(begin) > d {
			t.Fatalf("not within %s: %s", d, what)
		}
		<-tick.C
	}
	return time.Since(begin)
}

// never fails the test if bad becomes true for that long.
func never(t *testing.T, d time.Duration, what string, bad func() bool) {
	t.Helper()
	end := time.After(d)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if bad() {
			t.Fatalf("within %s: %s", d, what)
		}
		select {
		case <-end:
			return
		case <-tick.C:
		}
	}
}
