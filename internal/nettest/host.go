package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// eth is the interface that every host has, on its own and as its only one.
const eth = "eth0"

const ifaNoDAD = unix.IFA_F_NODAD

// Host is a network namespace with an interface eth0 on the lab's switch.
type Host struct {
	Name string

	lab *Lab
}

// Namespace returns the name for `ip netns exec`.
func (h *Host) Namespace() string { return h.lab.namespace(h.Name) }

func (h *Host) path() string { return filepath.Join(namespaces, h.Namespace()) }

func (h *Host) port() string { return "p-" + h.Name }

// Do calls f on a thread that is in the host's namespace. Sockets that f makes
// belong to the host for good; goroutines that f starts do not.
func (h *Host) Do(f func() error) error { return inNamespace(h.Namespace(), f) }

// Command prepares a program that will run on the host, as root.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.path(), "--", name}, args...)...)
}

// Start starts a prepared command on the host: unlike Command it may run as another
// user. It must have no Pdeathsig, which would follow a thread of the runtime.
func (h *Host) Start(cmd *exec.Cmd) error {
	return h.Do(func() error {
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start %s on host %s: %w", filepath.Base(cmd.Path), h.Name, err)
		}
		return nil
	})
}

// Processes returns what runs on the host, by process ID.
func (h *Host) Processes() ([]int, error) { return processesIn(h.path()) }

// DialContext connects from the host to an address of the lab; there is no
// resolver, so names do not work. It is what pgx calls a DialFunc.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from host %s: %w", h.Name, err)
	}
	err = h.Do(func() error {
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on the host.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = net.Listen(network, address) //nolint:noctx // it does not block
		return err
	})
	return l, err
}

// Address is one of the host's.
type Address struct {
	Prefix    netip.Prefix
	Interface string
	Valid     time.Duration // what is left of it; 0: it does not end
}

// Addresses returns those of all interfaces, as the kernel has them now.
func (h *Host) Addresses() ([]Address, error) {
	var all []Address
	err := h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				all = append(all, toAddress(link, a))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses of host %s: %w", h.Name, err)
	}
	return all, nil
}

func toAddress(link netlink.Link, a netlink.Addr) Address {
	ip, _ := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	out := Address{Prefix: netip.PrefixFrom(ip.Unmap(), bits), Interface: link.Attrs().Name}
	if forever := 1<<32 - 1; a.ValidLft > 0 && a.ValidLft < forever {
		out.Valid = time.Duration(a.ValidLft) * time.Second
	}
	return out
}

// Has tells whether the host's kernel has that address.
func (h *Host) Has(ip string) (bool, error) {
	want, err := netip.ParseAddr(ip)
	if err != nil {
		return false, fmt.Errorf("read address: %w", err)
	}
	all, err := h.Addresses()
	if err != nil {
		return false, err
	}
	for _, a := range all {
		if a.Prefix.Addr() == want {
			return true, nil
		}
	}
	return false, nil
}

// Hardware returns the Ethernet address of eth0.
func (h *Host) Hardware() (hw net.HardwareAddr, err error) {
	err = h.Do(func() error {
		link, err := netlink.LinkByName(eth)
		if err != nil {
			return fmt.Errorf("find %s of host %s: %w", eth, h.Name, err)
		}
		hw = link.Attrs().HardwareAddr
		return nil
	})
	return hw, err
}

// Neighbor is an entry of an ARP or neighbour table.
type Neighbor struct {
	IP       netip.Addr
	Hardware net.HardwareAddr // nil while it is being asked for
	State    int              // NUD_ of rtnetlink(7)
}

// Neighbors returns the host's tables, IPv4 and IPv6.
func (h *Host) Neighbors() ([]Neighbor, error) {
	var all []Neighbor
	err := h.Do(func() error {
		found, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range found {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, Neighbor{IP: ip.Unmap(), Hardware: n.HardwareAddr, State: n.State})
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read neighbours of host %s: %w", h.Name, err)
	}
	return all, nil
}
