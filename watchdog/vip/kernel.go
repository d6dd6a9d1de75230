package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// lifetime of an address that is not renewed, in the kernel's unit of a second.
	lifetime = 2 * time.Second
	// renewEvery leaves room for four renewals that come late or fail.
	renewEvery = 400 * time.Millisecond
	// stale is the age of the last renewal from which on the kernel may have
	// removed the address: its clock ticks in jiffies.
	stale = lifetime - 100*time.Millisecond
	// netlinkTimeout bounds the wait for the kernel's answer.
	netlinkTimeout = time.Second

	flags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_NODAD // NODAD: IPv6 only; taking was preceded by a probe
)

// kernel changes and reads the addresses of this network namespace. Several
// goroutines use it at once.
type kernel struct{ *netlink.Handle }

func openKernel() (kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return kernel{}, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return kernel{}, fmt.Errorf("set timeout of netlink socket: %w", err)
	}
	return kernel{h}, nil
}

// leased is the address as it stands on the interface: doc.go says why so.
func leased(addr netip.Addr, index int) *netlink.Addr {
	bits := addr.BitLen()
	a := &netlink.Addr{
		IPNet:       &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)},
		LinkIndex:   index,
		Flags:       flags,
		ValidLft:    int(lifetime / time.Second),
		PreferedLft: 0, // deprecated at once
	}
	if addr.Is4() {
		a.Flags &^= unix.IFA_F_NODAD
		a.Scope = unix.RT_SCOPE_HOST
	}
	return a
}

// set adds the address to the interface, or renews its lifetime there.
func (k kernel) set(addr netip.Addr, index int) error {
	return explain(k.AddrReplace(nil, leased(addr, index)))
}

// remove takes the address from the interface; that it is not there is no error.
func (k kernel) remove(addr netip.Addr, index int) error {
	err := k.AddrDel(nil, leased(addr, index))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return explain(err)
}

// permanentError is an address of ours that somebody configured for good.
type permanentError struct {
	addr netip.Addr
	on   string
}

func (e *permanentError) Error() string {
	return fmt.Sprintf("virtual address %s is configured permanently on interface %s of this host; remove it there: pgproxy adds it where it is to be", e.addr, e.on)
}

// clean removes the addresses, on whatever interface, that have a lifetime: those
// that an earlier run left. It touches nothing when one of them is permanent.
func (k kernel) clean(ours []netip.Addr) error {
	all, err := k.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of this host: %w", explain(err))
	}
	found := slices.DeleteFunc(all, func(a netlink.Addr) bool { return !slices.Contains(ours, fromIP(a.IP)) })
	for _, a := range found {
		if a.Flags&unix.IFA_F_PERMANENT != 0 {
			return &permanentError{fromIP(a.IP), k.name(a.LinkIndex)}
		}
	}
	var faults []error
	for _, a := range found {
		if err := k.AddrDel(nil, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			faults = append(faults, fmt.Errorf("remove %s from %s: %w", a.IPNet, k.name(a.LinkIndex), explain(err)))
		}
	}
	return errors.Join(faults...)
}

// source returns an address of the interface from which a neighbour can be asked
// for target: none of ours; one of its subnet where there is one; invalid where
// there is none at all.
func (k kernel) source(index int, target netip.Addr, ours []netip.Addr) netip.Addr {
	family := netlink.FAMILY_V6
	if target.Is4() {
		family = netlink.FAMILY_V4
	}
	all, err := k.AddrList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, family)
	if err != nil {
		return netip.Addr{}
	}
	var best netip.Addr
	for _, a := range all {
		own := fromIP(a.IP)
		if slices.Contains(ours, own) || a.Flags&unix.IFA_F_TENTATIVE != 0 {
			continue
		}
		if !best.IsValid() || a.Contains(target.AsSlice()) {
			best = own
		}
	}
	return best
}

func (k kernel) name(index int) string {
	link, err := k.LinkByIndex(index)
	if err != nil {
		return strconv.Itoa(index)
	}
	return link.Attrs().Name
}

func fromIP(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// errPrivileges is what EPERM means here.
var errPrivileges = errors.New("pgproxy needs the capabilities CAP_NET_ADMIN and CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)")

// explain adds to the kernel's error what the operator can do.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", err, errPrivileges)
	case errors.Is(err, unix.EACCES): // inet6_addr_add of Linux
		return fmt.Errorf("%w: is IPv6 disabled on the interface? (sysctl net.ipv6.conf.*.disable_ipv6)", err)
	}
	return err
}

// privileges returns an error unless this process has the two capabilities.
func privileges() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // capabilities 0 to 31, 32 to 63
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("read the capabilities of this process: %w", err)
	}
	const want = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	if data[0].Effective&want != want {
		return errPrivileges
	}
	return nil
}

// deaf tells whether the interface would not answer ARP requests for a /32 of
// scope host: arp_ignore is 2 (sender in another subnet) or above. The greater of
// the values of all interfaces and of this one counts (ip-sysctl of Linux).
func deaf(iface string) bool {
	for _, name := range []string{"all", iface} {
		text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/arp_ignore")
		if err != nil {
			continue
		}
		if level, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && level >= 2 {
			return true
		}
	}
	return false
}
