package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetSize is more than any packet that is looked at: an ARP packet has 28
// bytes, an advertisement with its header and one option 72.
const packetSize = 256

// line asks and hears who owns one address on one interface: a packet socket that
// passes nothing else. One goroutine owns it.
type line struct {
	addr netip.Addr
	port port
	hw   net.HardwareAddr
	conn *packet.Conn
	buf  [packetSize]byte
}

// dial opens the line. It hears from now on.
func dial(addr netip.Addr, p port) (*line, error) {
	hw := hardwareAddr(p.hardware)
	if len(hw) != len(nobody) {
		return nil, fmt.Errorf("open packet socket: the interface has no Ethernet address but %q", p.hardware)
	}
	protocol, program := unix.ETH_P_IPV6, ndpFilter
	if addr.Is4() {
		protocol, program = unix.ETH_P_ARP, arpFilter
	}
	filter, err := bpf.Assemble(program(addr))
	if err != nil {
		return nil, fmt.Errorf("assemble packet filter: %w", err)
	}
	// Datagram: the kernel makes and removes the link header.
	conn, err := packet.Listen(&net.Interface{Index: p.index, HardwareAddr: hw}, packet.Datagram, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", explain(err))
	}
	return &line{addr: addr, port: p, hw: hw, conn: conn}, nil
}

func (l *line) close() {
	if l != nil {
		_ = l.conn.Close() // nothing is buffered
	}
}

// ask sends one question from that address, to all or to one neighbour only.
func (l *line) ask(from netip.Addr, to net.HardwareAddr) error {
	var f frame
	var err error
	if l.addr.Is4() {
		if to == nil {
			to = broadcast
		}
		f, err = arpAsk(l.hw, from, l.addr, to)
	} else {
		f, err = ndpAsk(l.hw, from, l.addr, to)
	}
	if err != nil {
		return fmt.Errorf("make question for %s: %w", l.addr, err)
	}
	return l.send(f)
}

// claim announces that the address is here.
func (l *line) claim() error {
	make := ndpClaim
	if l.addr.Is4() {
		make = arpClaim
	}
	frames, err := make(l.hw, l.addr)
	if err != nil {
		return fmt.Errorf("make announcement of %s: %w", l.addr, err)
	}
	for _, f := range frames {
		if err := l.send(f); err != nil {
			return err
		}
	}
	return nil
}

func (l *line) send(f frame) error {
	if _, err := l.conn.WriteTo(f.payload, &packet.Addr{HardwareAddr: f.to}); err != nil {
		return fmt.Errorf("send for %s: %w", l.addr, explain(err))
	}
	return nil
}

// hear returns the next one who says that the address is his, but this host; nil
// when nobody does until the deadline or the end of ctx.
func (l *line) hear(ctx context.Context, deadline time.Time) (net.HardwareAddr, error) {
	if err := l.conn.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		n, from, err := l.conn.ReadFrom(l.buf[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("hear of %s: %w", l.addr, explain(err))
		}
		var owner net.HardwareAddr
		if l.addr.Is4() {
			owner = arpOwner(l.buf[:n], l.addr)
		} else {
			owner = ndpOwner(l.buf[:n], l.addr, sender(from))
		}
		if owner != nil && !bytes.Equal(owner, l.hw) {
			return owner, nil
		}
	}
}

func sender(from net.Addr) net.HardwareAddr {
	if a, ok := from.(*packet.Addr); ok && len(a.HardwareAddr) == len(nobody) {
		return a.HardwareAddr
	}
	return nil
}
