package nettest

import (
	"fmt"
	"net"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
)

// onPort calls f with the host's port, in the namespace of the switch.
func (h *Host) onPort(f func(port netlink.Link) error) error {
	return inNamespace(h.lab.namespace(switchName), func() error {
		port, err := netlink.LinkByName(h.port())
		if err != nil {
			return fmt.Errorf("find port of host %s: %w", h.Name, err)
		}
		return f(port)
	})
}

// Cut takes the host's port out of the switch: nothing passes, but the host sees a
// carrier, as behind a switch that has lost its uplink.
func (h *Host) Cut() error {
	return h.onPort(func(port netlink.Link) error {
		if err := netlink.LinkSetNoMaster(port); err != nil {
			return fmt.Errorf("cut host %s: %w", h.Name, err)
		}
		return nil
	})
}

// Heal ends Cut, Carrier(false) and every CutFrom that names the host.
func (h *Host) Heal() error {
	if err := h.Carrier(true); err != nil {
		return err
	}
	err := h.onPort(func(port netlink.Link) error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		if port.Attrs().MasterIndex == br.Attrs().Index {
			return nil
		}
		if err := netlink.LinkSetMaster(port, br); err != nil {
			return fmt.Errorf("heal host %s: %w", h.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.healFrom()
}

// Linked tells whether the host's cable is in and its port in the switch.
func (h *Host) Linked() (linked bool, err error) {
	err = h.onPort(func(port netlink.Link) error {
		linked = port.Attrs().MasterIndex != 0 && port.Attrs().Flags&net.FlagUp != 0
		return nil
	})
	return linked, err
}

// Carrier plugs the host's cable in, or pulls it: eth0 loses its carrier.
func (h *Host) Carrier(up bool) error {
	return h.onPort(func(port netlink.Link) error {
		set, what := netlink.LinkSetUp, "plug in"
		if !up {
			set, what = netlink.LinkSetDown, "pull"
		}
		if err := set(port); err != nil {
			return fmt.Errorf("%s cable of host %s: %w", what, h.Name, err)
		}
		return nil
	})
}

// Way is a direction of CutFrom.
type Way uint8

// The ways.
const (
	WayUnknown Way = iota
	Both
	Out // what the host sends to the other is lost
	In  // what the other sends to the host is lost
)

// The rules of cut pairs are elements of a set, that nft adds and deletes by value.
const (
	cutTable = `add table bridge lab
add set bridge lab cut { type ifname . ifname; }
add chain bridge lab forward { type filter hook forward priority 0; }
flush chain bridge lab forward
add rule bridge lab forward iifname . oifname @cut drop
`
	cutPair = "add element bridge lab cut { %q . %q }\n"
)

// CutFrom loses what goes between the host and another one, on the switch.
func (h *Host) CutFrom(other *Host, way Way) error {
	rules := cutTable
	if way == Both || way == Out {
		rules += fmt.Sprintf(cutPair, h.port(), other.port())
	}
	if way == Both || way == In {
		rules += fmt.Sprintf(cutPair, other.port(), h.port())
	}
	if rules == cutTable {
		return fmt.Errorf("cut host %s from %s: no way given", h.Name, other.Name)
	}
	return h.lab.nft(rules)
}

// healFrom removes the pairs that name the host.
func (h *Host) healFrom() error {
	out, err := h.lab.nftOutput("list", "sets", "bridge")
	if err != nil || !strings.Contains(out, "set cut") {
		return err
	}
	var rules strings.Builder
	for line := range strings.SplitSeq(strings.NewReplacer(",", "\n", "{", "\n", "}", "\n").Replace(out), "\n") {
		from, to, ok := strings.Cut(strings.TrimSpace(line), " . ")
		if ok && (strings.Trim(from, `"`) == h.port() || strings.Trim(to, `"`) == h.port()) {
			fmt.Fprintf(&rules, "delete element bridge lab cut { %s . %s }\n", from, to)
		}
	}
	if rules.Len() == 0 {
		return nil
	}
	return h.lab.nft(rules.String())
}

func (l *Lab) nft(rules string) error {
	return inNamespace(l.namespace(switchName), func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("run nft (Debian: apt-get install nftables): %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

// nftOutput returns what nft prints; nothing where nft is not installed, as then no
// rule was ever made.
func (l *Lab) nftOutput(args ...string) (out string, err error) {
	if _, err := exec.LookPath("nft"); err != nil {
		return "", nil
	}
	err = inNamespace(l.namespace(switchName), func() error {
		b, err := exec.Command("nft", args...).Output()
		out = string(b)
		if err != nil {
			return fmt.Errorf("run nft: %w", err)
		}
		return nil
	})
	return out, err
}
