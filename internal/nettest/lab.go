package nettest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
)

const (
	bridge = "br0"
	// maxHostName leaves room for the prefix of the port's name (IFNAMSIZ is 16 with
	// its final zero).
	maxHostName = 13
	switchName  = "switch" // no host has it: it names the bridge's namespace
)

// labs numbers the labs of this process.
var labs atomic.Int64

// Lab is a switch with hosts. Its methods may be called by several goroutines.
type Lab struct {
	name string // of the namespaces, before the host's
	root string // the interface that AddRoot made; "": none

	mu struct {
		sync.Mutex
		hosts map[string]*Host
	}
}

// New makes a lab without hosts. The caller must Close it.
func New() (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make network namespaces: this needs root")
	}
	if _, err := exec.LookPath("nsenter"); err != nil {
		return nil, fmt.Errorf("make network namespaces: %w (Debian: apt-get install util-linux)", err)
	}
	if err := sweep(); err != nil {
		return nil, err
	}
	l := &Lab{name: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), labs.Add(1))}
	l.mu.hosts = map[string]*Host{}
	if err := l.makeSwitch(); err != nil {
		return nil, errors.Join(fmt.Errorf("make switch: %w", err), l.Close())
	}
	return l, nil
}

// Open returns a lab that another process has made and that still runs, by its
// Name. Who opens it does not Close it.
func Open(name string) (*Lab, error) {
	l := &Lab{name: name}
	l.mu.hosts = map[string]*Host{}
	found, err := filepath.Glob(filepath.Join(namespaces, name+"-*"))
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("open lab %s: it does not run", name)
	}
	for _, path := range found {
		host := strings.TrimPrefix(filepath.Base(path), name+"-")
		if host != switchName {
			l.mu.hosts[host] = &Host{Name: host, lab: l}
		}
	}
	return l, nil
}

// Name returns what Open takes.
func (l *Lab) Name() string { return l.name }

func (l *Lab) namespace(host string) string { return l.name + "-" + host }

// makeSwitch makes the bridge: no spanning tree, so that a port forwards at once,
// and no snooping, so that multicast reaches everybody.
func (l *Lab) makeSwitch() error {
	if err := makeNamespace(l.namespace(switchName)); err != nil {
		return err
	}
	return inNamespace(l.namespace(switchName), func() error {
		if err := writeSysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &off}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		return netlink.LinkSetUp(br)
	})
}

// Add makes a host with addresses such as 10.77.0.11/24 or fd77::11/64 on its eth0.
func (l *Lab) Add(name string, addresses ...string) (*Host, error) {
	if name == "" || len(name) > maxHostName || name == switchName || strings.ContainsAny(name, "/ \"") {
		return nil, fmt.Errorf("add host %q: not a name of 1 to %d bytes", name, maxHostName)
	}
	h := &Host{Name: name, lab: l}
	l.mu.Lock()
	_, exists := l.mu.hosts[name]
	if !exists {
		l.mu.hosts[name] = h // Close removes what a failure leaves
	}
	l.mu.Unlock()
	if exists {
		return nil, fmt.Errorf("add host %s: it exists", name)
	}
	if err := h.make(addresses); err != nil {
		return nil, fmt.Errorf("add host %s: %w", name, err)
	}
	return h, nil
}

func (h *Host) make(addresses []string) error {
	if err := makeNamespace(h.Namespace()); err != nil {
		return err
	}
	if err := h.lab.connect(h.port(), eth, h.Namespace()); err != nil {
		return err
	}
	return h.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
		return configure(eth, addresses)
	})
}

// connect makes a cable between a new port of the switch and the interface of that
// name in another namespace; "" is the one that this process runs in.
func (l *Lab) connect(port, name, namespace string) error {
	target, err := openNamespace(namespace)
	if err != nil {
		return err
	}
	defer target.Close()
	return inNamespace(l.namespace(switchName), func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index},
			PeerName:      name,
			PeerNamespace: netlink.NsFd(target),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make cable: %w", err)
		}
		return netlink.LinkSetUp(veth)
	})
}

// configure brings an interface of the current namespace up with its addresses.
func configure(name string, addresses []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("read address: %w", err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = ifaNoDAD // usable at once: nobody else has it
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", text, err)
		}
	}
	return nil
}

// AddRoot links the namespace of this process to the switch, by an interface of
// that name and address. It refuses where the machine has an address or a route in
// that network already.
func (l *Lab) AddRoot(name, address string) error {
	if err := NetworkFree(address); err != nil {
		return err
	}
	l.root = name
	if err := l.connect("p-root", name, ""); err != nil {
		return fmt.Errorf("link this machine to the lab: %w", err)
	}
	return configure(name, []string{address})
}

// NetworkFree tells why AddRoot would refuse that address.
func NetworkFree(address string) error {
	want, err := netip.ParsePrefix(address)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("read this machine's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue // the default route
		}
		bits, _ := r.Dst.Mask.Size()
		ip, ok := netip.AddrFromSlice(r.Dst.IP)
		if ok && bits > 0 && netip.PrefixFrom(ip.Unmap(), bits).Overlaps(want.Masked()) {
			return fmt.Errorf("link this machine to the lab: it has a route to %s, which overlaps %s", r.Dst, want.Masked())
		}
	}
	return nil
}

// Host returns a host by its name. A wrong name is a mistake in the caller.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.mu.hosts[name]; h != nil {
		return h
	}
	panic("BUG: no host is named " + name)
}

// Close kills what runs on the hosts and removes them. It may be called more than
// once.
func (l *Lab) Close() error {
	var errs []error
	if l.root != "" {
		if link, err := netlink.LinkByName(l.root); err == nil {
			errs = append(errs, netlink.LinkDel(link))
		}
		l.root = ""
	}
	l.mu.Lock()
	clear(l.mu.hosts)
	l.mu.Unlock()
	errs = append(errs, removeNamespaces(l.name+"-*"))
	return errors.Join(errs...)
}

// TB is what StartLab needs of a testing.TB.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// StartLab makes a lab that lives as long as the test, with hosts given as
// NAME=ADDRESS[,ADDRESS]: "h1=10.77.0.11/24,fd77::11/64".
func StartLab(t TB, hosts ...string) *Lab {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatalf("start lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	for _, text := range hosts {
		name, addresses, _ := strings.Cut(text, "=")
		if _, err := l.Add(name, strings.Split(addresses, ",")...); err != nil {
			t.Fatalf("start lab: %v", err)
		}
	}
	return l
}
