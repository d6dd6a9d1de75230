package vip

import (
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
)

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

// frame is a packet behind its link header, and where that sends it.
type frame struct {
	to      net.HardwareAddr
	payload []byte
}

// arpAsk is a request for the owner of target. From 0.0.0.0 it is a probe, which
// changes nobody's cache (RFC 5227 section 2.1.1).
func arpAsk(hw net.HardwareAddr, from, target netip.Addr, to net.HardwareAddr) (frame, error) {
	if !from.IsValid() {
		from = netip.IPv4Unspecified()
	}
	return arpFrame(arp.OperationRequest, hw, from, nobody, target, to)
}

// arpClaim are the announcements of RFC 5227 section 2.3 in both forms, for some
// switches and hosts ignore one of them. In the reply both hardware addresses are
// ours: else Linux, when its entry is younger than a second (locktime), ignores it.
func arpClaim(hw net.HardwareAddr, addr netip.Addr) ([]frame, error) {
	request, err := arpFrame(arp.OperationRequest, hw, addr, nobody, addr, broadcast)
	if err != nil {
		return nil, err
	}
	reply, err := arpFrame(arp.OperationReply, hw, addr, hw, addr, broadcast)
	return []frame{request, reply}, err
}

func arpFrame(op arp.Operation, hw net.HardwareAddr, from netip.Addr, toHW net.HardwareAddr, target netip.Addr, dst net.HardwareAddr) (frame, error) {
	p, err := arp.NewPacket(op, hw, from, toHW, target)
	if err != nil {
		return frame{}, err
	}
	payload, err := p.MarshalBinary()
	return frame{dst, payload}, err
}

// arpOwner returns the sender of an ARP packet that says it owns addr; nil for any
// other packet. A probe says nothing: switches that track their ports send them.
func arpOwner(payload []byte, addr netip.Addr) net.HardwareAddr {
	var p arp.Packet
	if p.UnmarshalBinary(payload) != nil || p.SenderIP != addr || len(p.SenderHardwareAddr) != len(nobody) {
		return nil
	}
	return p.SenderHardwareAddr
}

// arpFilter passes what arpOwner looks for. Offsets from the ARP header (RFC 826).
func arpFilter(addr netip.Addr) []bpf.Instruction {
	const senderIP = 14
	a := addr.As4()
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: senderIP, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: be32(a[:]), SkipFalse: 1},
		bpf.RetConstant{Val: packetSize},
		bpf.RetConstant{Val: 0},
	}
}
