package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Mode says how an address is held.
type Mode string

// The modes; doc.go tells them apart.
const (
	ModeLayer2 Mode = "layer2"
	ModeLayer3 Mode = "layer3"
	ModeHooks  Mode = "hooks"
)

// Config is one entry of the section `vip`.
type Config struct {
	Address   string `yaml:"address"` // with the length of its prefix: 10.77.0.100/24
	Interface string `yaml:"interface"`
	Mode      Mode   `yaml:"mode"` // "": layer2
	// Check are gateways of the interface's segment; a member that reaches none of
	// them should not hold the address while another does.
	Check []string `yaml:"check"`
	Up    []string `yaml:"up"`   // command and arguments, run when the address was taken
	Down  []string `yaml:"down"` // and when it was given up
}

// prefix returns what Address says; the Config must be valid.
func (c *Config) prefix() netip.Prefix { return netip.MustParsePrefix(c.Address) }

// Validate calls fault for everything that is wrong, with the key below the entry.
// Whether the interface exists is known only when it is used.
func (c *Config) Validate(fault func(key, format string, args ...any)) {
	var addr netip.Addr
	if c.Address == "" {
		fault("address", "missing")
	} else if prefix, err := netip.ParsePrefix(c.Address); err != nil {
		fault("address", "want an address with the length of its prefix such as 10.0.0.5/24, got %q", c.Address)
	} else {
		addr = prefix.Addr()
		if why := unfit(prefix); why != "" {
			fault("address", "%q %s", c.Address, why)
		}
	}
	switch {
	case c.Interface == "":
		fault("interface", "missing")
	case len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ \t\n:"): // IFNAMSIZ, dev_valid_name of Linux
		fault("interface", "%q cannot be the name of an interface", c.Interface)
	}
	switch c.Mode {
	case "", ModeLayer2, ModeLayer3:
	case ModeHooks:
		if len(c.Up) == 0 {
			fault("mode", "hooks needs a command in up")
		}
	default:
		fault("mode", "want one of layer2, layer3, hooks, got %q", c.Mode)
	}
	for i, text := range c.Check {
		gateway, err := netip.ParseAddr(text)
		key := fmt.Sprintf("check[%d]", i)
		switch {
		case err != nil || gateway.Zone() != "" || gateway.IsUnspecified() || gateway.IsMulticast():
			fault(key, "want the address of a gateway such as 10.0.0.1, got %q", text)
		case addr.IsValid() && gateway.Is4() != addr.Is4():
			fault(key, "%q is not of the family of %q", text, c.Address)
		case gateway == addr:
			fault(key, "%q is the virtual address itself", text)
		}
	}
	for key, argv := range map[string][]string{"up": c.Up, "down": c.Down} {
		if len(argv) > 0 && argv[0] == "" {
			fault(key, "the command is empty")
		}
	}
}

// unfit says why no member can hold that address; "" it can.
func unfit(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case a.Is4In6():
		return "is an IPv4 address in IPv6's clothes; write it as IPv4"
	case a.IsUnspecified():
		return "is unspecified"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is not the address of one host"
	case a.IsLoopback():
		return "is a loopback address"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "is link-local; clients could use it only with an interface of theirs"
	case p.Bits() == 0:
		return "has a prefix of length 0"
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return "is the address of its network, not of a host"
	case a.Is4() && p.Bits() < 31 && !p.Contains(a.Next()):
		return "is the broadcast address of its network"
	}
	return ""
}

// validate returns all faults of all entries.
func validate(all []Config) error {
	var faults []error
	seen := make(map[netip.Addr]int)
	for i := range all {
		all[i].Validate(func(key, format string, args ...any) {
			faults = append(faults, fmt.Errorf("vip[%d].%s: "+format, append([]any{i, key}, args...)...))
		})
		if p, err := netip.ParsePrefix(all[i].Address); err == nil {
			if j, dup := seen[p.Addr()]; dup {
				faults = append(faults, fmt.Errorf("vip[%d].address: %q is that of vip[%d] already", i, p.Addr(), j))
			}
			seen[p.Addr()] = i
		}
	}
	return errors.Join(faults...)
}
