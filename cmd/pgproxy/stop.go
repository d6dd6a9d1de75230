package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/watchdog"
)

// moveWait bounds how long a stop waits for the virtual addresses to be elsewhere, and
// for another leader.
const moveWait = 3 * time.Second

// leave has the virtual addresses move before this member stops, when what runs in the
// sessions that came to them has ended, or hold.drain is over. It reports whether all
// are elsewhere; without another member they stay.
func (m *member) leave(ctx context.Context) bool {
	held := m.heldAddresses()
	moves := len(held) > 0 && m.othersThere(ctx)
	if moves && m.server != nil {
		within, cancel := context.WithTimeout(ctx, m.running.Load().Hold.Drain)
		m.server.Settle(within, held)
		cancel()
	}
	m.leaving.Store(true)
	m.watchdog.Nudge()
	ctx, cancel := context.WithTimeout(ctx, moveWait)
	defer cancel()
	for moves {
		changed := m.watchdog.Changed()
		if len(m.heldAddresses()) == 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			moves = false
		}
	}
	if m.server != nil {
		m.server.Unsettle()
	}
	return len(held) == 0
}

// heldAddresses are the virtual addresses that the State gives to this member.
func (m *member) heldAddresses() (all []netip.Addr) {
	for _, a := range m.watchdog.State().Addresses {
		if a.Holder == m.cfg.Name {
			if p, err := netip.ParsePrefix(a.Address); err == nil { // validation has seen to it
				all = append(all, p.Addr().Unmap())
			}
		}
	}
	return all
}

// othersThere tells whether another member could take an address over.
func (m *member) othersThere(ctx context.Context) bool {
	return slices.ContainsFunc(m.watchdog.Status(ctx).Members, func(o watchdog.MemberStatus) bool {
		return o.Name != m.cfg.Name && !o.Witness && (o.State == watchdog.StateLeader || o.State == watchdog.StateFollower)
	})
}

// addressLeaves tells the clients of an address that has been given to another member.
func (m *member) addressLeaves(address string) {
	a := m.watchdog.State().Address(address)
	if p, err := netip.ParsePrefix(address); err == nil && m.server != nil && a != nil && a.Holder != m.cfg.Name {
		m.server.Leave(p.Addr().Unmap())
	}
}

// handOver gives leadership away, where there is somebody to take it.
func (m *member) handOver(ctx context.Context) {
	if _, _, leads := m.watchdog.Leading(); !leads || len(m.watchdog.Voters()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, moveWait)
	defer cancel()
	if err := m.watchdog.Transfer(ctx); err != nil {
		m.log.Warn("leadership not handed over", "err", err)
	}
}
