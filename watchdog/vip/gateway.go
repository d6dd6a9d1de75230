package vip

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	askEvery = time.Second
	// askWait bounds the wait for an answer.
	askWait = 500 * time.Millisecond
	// misses in a row after which a gateway counts as unreachable.
	maxMisses = 3
)

// gateway is one to ask on one interface.
type gateway struct {
	iface string
	addr  netip.Addr
}

// gateways returns each once, whatever number of addresses names it.
func (h *Holder) gateways() []gateway {
	var all []gateway
	seen := make(map[gateway]bool)
	for i := range h.cfgs {
		for _, text := range h.cfgs[i].Check {
			if gw := (gateway{h.cfgs[i].Interface, netip.MustParseAddr(text)}); !seen[gw] {
				seen[gw] = true
				all = append(all, gw)
			}
		}
	}
	return all
}

// asker knows whether one gateway can be reached. It asks for its hardware address
// rather than for an ICMP echo: that needs no privilege of its own, and gateways
// that drop echoes answer it.
type asker struct {
	holder  *Holder
	kernel  kernel
	gw      gateway
	line    *line
	known   net.HardwareAddr // that answered; asked alone, so that not all hosts are woken
	misses  int              // in a row; begins as if it had never answered
	trouble trouble
}

// interrogate asks a gateway every second until ctx ends.
func (h *Holder) interrogate(ctx context.Context, k kernel, gw gateway) {
	a := &asker{holder: h, kernel: k, gw: gw, misses: maxMisses, trouble: trouble{log: h.log.With("gateway", gw.addr)}}
	defer func() { a.line.close() }()
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		p, changed := h.ports.get(gw.iface)
		if p.carrier && !p.silent {
			a.ask(ctx, p)
		} else {
			a.miss()
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}

// ask asks once and notes the outcome.
func (a *asker) ask(ctx context.Context, p port) {
	owner, err := a.once(ctx, p)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		a.trouble.is(time.Now(), "ask gateway", err)
		a.line.close()
		a.line = nil
		a.miss()
		return
	case owner == nil:
		a.miss()
	default:
		a.known = owner
		if a.misses >= maxMisses {
			a.holder.reachable(a.gw, true)
		}
		a.misses = 0
	}
	a.trouble.over()
}

func (a *asker) once(ctx context.Context, p port) (net.HardwareAddr, error) {
	if a.line != nil && a.line.port != p {
		a.line.close()
		a.line = nil
	}
	if a.line == nil {
		var err error
		if a.line, err = dial(a.gw.addr, p); err != nil {
			return nil, err
		}
	}
	// What came in since the last question is no answer to this one.
	for {
		owner, err := a.line.hear(ctx, time.Now().Add(time.Millisecond))
		if err != nil {
			return nil, err
		}
		if owner == nil {
			break
		}
	}
	to := a.known
	if a.misses > 0 {
		to = nil
	}
	if err := a.line.ask(a.kernel.source(p.index, a.gw.addr, a.holder.ours), to); err != nil {
		return nil, err
	}
	return a.line.hear(ctx, time.Now().Add(askWait))
}

func (a *asker) miss() {
	if a.misses++; a.misses == maxMisses {
		a.holder.reachable(a.gw, false)
	}
}

// reachable notes whether a gateway answers, and what follows for the addresses.
func (h *Holder) reachable(gw gateway, answers bool) {
	h.log.Info("gateway of a virtual address", "gateway", gw.addr, "interface", gw.iface, "reachable", answers)
	h.mu.Lock()
	h.mu.answers[gw] = answers
	any := make([]bool, len(h.cfgs))
	for i := range h.cfgs {
		for _, text := range h.cfgs[i].Check {
			any[i] = any[i] || h.mu.answers[gateway{h.cfgs[i].Interface, netip.MustParseAddr(text)}]
		}
	}
	h.mu.Unlock()
	for i := range h.cfgs {
		if len(h.cfgs[i].Check) > 0 {
			h.note(func(j int) bool { return i == j }, func(l *cluster.Link) { l.Gateway = any[i] })
		}
	}
}
