package proxy

import (
	"container/list"
	"context"
	"net/netip"
	"sync"
	"time"
)

// evictAfter is how long a connection has at least to authenticate when others
// wait for its place.
const evictAfter = time.Second

// gate bounds the connections that have not authenticated yet, so that a flood of
// them costs bounded memory and does not lock out real users:
//
//  1. Up to the limit everyone enters.
//  2. At the limit the listener waits; the backlog of the kernel takes the rest.
//  3. The address that has the most half-open connections loses its oldest one as
//     soon as that is older than evictAfter. So one address cannot take all places,
//     and one that only connects gives way to those who authenticate at once.
type gate struct {
	limit int
	freed chan struct{} // of capacity 1: a place may be free

	mu struct {
		sync.Mutex
		n      int
		byAddr map[netip.Prefix]*list.List // of *halfOpen, oldest first
	}
}

// halfOpen is one connection inside the gate.
type halfOpen struct {
	since time.Time
	evict func() // does not block
}

func newGate(limit int) *gate {
	g := &gate{limit: max(limit, 1), freed: make(chan struct{}, 1)}
	g.mu.byAddr = make(map[netip.Prefix]*list.List)
	return g
}

// count returns how many connections are inside.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.n
}

// enter waits for a place. evict is called, at most once, when the connection loses
// it; leave must be called in any case. The error is ctx's.
func (g *gate) enter(ctx context.Context, addr netip.Addr, evict func()) (leave func(), err error) {
	key := network(addr)
	for {
		leave, wait := g.try(key, evict)
		if leave != nil {
			return leave, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-g.freed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

// try takes a place, by eviction where it must; else wait is when to try again.
func (g *gate) try(key netip.Prefix, evict func()) (leave func(), wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.mu.n >= g.limit {
		victims := g.heaviest()
		oldest := victims.Front().Value.(*halfOpen)
		if wait = evictAfter - now.Sub(oldest.since); wait > 0 {
			return nil, wait
		}
		victims.Remove(victims.Front())
		g.mu.n--
		oldest.evict()
	}
	line := g.mu.byAddr[key]
	if line == nil {
		line = list.New()
		g.mu.byAddr[key] = line
	}
	g.mu.n++
	h := &halfOpen{since: now, evict: evict}
	at := line.PushBack(h)
	return func() { g.leave(key, line, at) }, 0
}

func (g *gate) leave(key netip.Prefix, line *list.List, at *list.Element) {
	g.mu.Lock()
	before := line.Len()
	line.Remove(at) // does nothing when it was evicted
	g.mu.n -= before - line.Len()
	if line.Len() == 0 && g.mu.byAddr[key] == line {
		delete(g.mu.byAddr, key)
	}
	g.mu.Unlock()
	select {
	case g.freed <- struct{}{}:
	default:
	}
}

// heaviest returns the line of the address with the most connections, and of these
// the one whose first is oldest. It walks over at most limit addresses.
func (g *gate) heaviest() *list.List {
	var heaviest *list.List
	for _, line := range g.mu.byAddr {
		if heaviest == nil || line.Len() > heaviest.Len() ||
			line.Len() == heaviest.Len() && line.Len() > 0 &&
				line.Front().Value.(*halfOpen).since.Before(heaviest.Front().Value.(*halfOpen).since) {
			heaviest = line
		}
	}
	return heaviest
}

// network is what counts as one address: an IPv4 address, an IPv6 /64, all Unix
// sockets.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // a Unix socket has no address
	}
	return p
}
