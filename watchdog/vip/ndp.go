package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
)

// Offsets in a packet without extension headers: RFC 8200 section 3, RFC 4861
// section 4.4. Neighbour discovery has none, and a hop limit of 255 shows that no
// router forwarded it.
const (
	ip6NextHeader = 6
	ip6HopLimit   = 7
	ip6Header     = 40
	naTarget      = ip6Header + 8

	icmp6    = 58
	icmp6NA  = 136
	hopLimit = 255
)

var allNodes = netip.MustParseAddr("ff02::1")

// ndpAsk is a solicitation of the owner of target. From :: it is the probe of RFC
// 4862 section 5.4.2, which changes nobody's cache; else it tells our hardware
// address, so that the answer needs no question.
func ndpAsk(hw net.HardwareAddr, from, target netip.Addr, to net.HardwareAddr) (frame, error) {
	group, err := ndp.SolicitedNodeMulticast(target)
	if err != nil {
		return frame{}, err
	}
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if from.IsValid() {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hw}}
	} else {
		from = netip.IPv6Unspecified()
	}
	f, err := ndpFrame(m, from, group)
	if to != nil {
		f.to = to
	}
	return f, err
}

// ndpClaim is the unsolicited advertisement of RFC 4861 section 7.2.6; the override
// flag replaces what neighbours have cached.
func ndpClaim(hw net.HardwareAddr, addr netip.Addr) ([]frame, error) {
	f, err := ndpFrame(&ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: hw}},
	}, addr, allNodes)
	return []frame{f}, err
}

// ndpFrame puts the message to a multicast group behind an IPv6 header. The kernel
// could do that, but not from an address that it does not have, nor from none.
func ndpFrame(m ndp.Message, from, group netip.Addr) (frame, error) {
	body, err := ndp.MarshalMessageChecksum(m, from, group)
	if err != nil {
		return frame{}, fmt.Errorf("make %T: %w", m, err)
	}
	b := make([]byte, ip6Header, ip6Header+len(body))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b[ip6NextHeader], b[ip6HopLimit] = icmp6, hopLimit
	src, dst := from.As16(), group.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	// RFC 2464 section 7.
	to := net.HardwareAddr{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}
	return frame{to, append(b, body...)}, nil
}

// ndpOwner returns the hardware address in an advertisement that says who owns
// addr, that of the frame where it tells none; nil for any other packet.
func ndpOwner(payload []byte, addr netip.Addr, sender net.HardwareAddr) net.HardwareAddr {
	if len(payload) < ip6Header || payload[ip6NextHeader] != icmp6 || payload[ip6HopLimit] != hopLimit {
		return nil
	}
	m, err := ndp.ParseMessage(payload[ip6Header:])
	if err != nil {
		return nil
	}
	na, ok := m.(*ndp.NeighborAdvertisement)
	if !ok || na.TargetAddress != addr {
		return nil
	}
	for _, o := range na.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target && len(l.Addr) == len(nobody) {
			return l.Addr
		}
	}
	return sender
}

// ndpFilter passes what ndpOwner looks for.
func ndpFilter(addr netip.Addr) []bpf.Instruction {
	a := addr.As16()
	var program []bpf.Instruction
	equal := func(offset uint32, size int, val uint32) {
		program = append(program,
			bpf.LoadAbsolute{Off: offset, Size: size},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipTrue: 1},
			bpf.RetConstant{Val: 0})
	}
	equal(ip6NextHeader, 1, icmp6)
	equal(ip6Header, 1, icmp6NA)
	for i := uint32(0); i < 16; i += 4 {
		equal(naTarget+i, 4, be32(a[i:]))
	}
	return append(program, bpf.RetConstant{Val: packetSize})
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
