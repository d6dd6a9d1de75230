package proxy

import (
	"container/list"
	"context"
	"net/netip"
	"sync"
	"time"
)

// How long a connection has at least, from accept on, when others wait for its
// place: until it has sent its first packet, which an honest client does at once,
// and to authenticate.
const (
	silentFor  = 100 * time.Millisecond
	evictAfter = time.Second
)

// gate bounds the connections that have not authenticated yet, so that a flood of
// them costs bounded memory and does not lock out real users:
//
//  1. Up to the limit everyone enters.
//  2. At the limit the listener waits; the backlog of the kernel takes the rest.
//  3. The address that has the most half-open connections loses its oldest one that
//     is silent for longer than silentFor, or else any that is older than
//     evictAfter. So one address cannot take all places, and one that only connects
//     gives way to those who authenticate at once.
//  4. Who is inside for longer than the time that a startup may take loses its place.
type gate struct {
	freed chan struct{} // of capacity 1: a place may be free

	mu struct {
		sync.Mutex
		limits StartupLimits
		byAddr map[netip.Prefix]*line
		all    list.List   // of *place, in the order of their entrance
		expiry *time.Timer // not later than when the oldest one's time is over
		armed  bool        // it runs
	}
}

// line is the half-open connections of one address, each list with the oldest
// first. Its fields are guarded by gate.mu.
type line struct {
	silent, spoken list.List // of *place
}

// place is one connection inside the gate.
type place struct {
	gate  *gate
	key   netip.Prefix
	since time.Time
	evict func(cause error) // does not block

	// Guarded by gate.mu.
	inside *list.Element // of all; nil: evicted or left
	line   *line
	list   *list.List // the one of line's that holds at
	at     *list.Element
}

func newGate(limits StartupLimits) *gate {
	g := &gate{freed: make(chan struct{}, 1)}
	g.mu.limits = limits
	g.mu.byAddr = make(map[netip.Prefix]*line)
	g.mu.expiry = time.AfterFunc(time.Hour, g.expire)
	g.mu.expiry.Stop()
	return g
}

// count returns how many connections are inside.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.all.Len()
}

// newPlace makes a place for a connection that has not entered yet. evict is called, at
// most once, when it loses the place, with what it is to be told.
func (g *gate) newPlace(addr netip.Addr, evict func(cause error)) *place {
	return &place{gate: g, key: network(addr), evict: evict}
}

// enter waits until the connection has its place; leave must be called in any case. The
// error is ctx's.
func (g *gate) enter(ctx context.Context, p *place) error {
	for {
		wait := g.try(p)
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-g.freed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// try takes a place, by eviction where it must; else wait is when to try again.
func (g *gate) try(p *place) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.since = time.Now()
	if g.mu.all.Len() >= max(g.mu.limits.MaxHalfOpen, 1) {
		victim, wait := g.heaviest().victim(p.since)
		if wait > 0 {
			return wait
		}
		g.remove(victim)
		victim.evict(errEvicted)
	}
	p.line = g.mu.byAddr[p.key]
	if p.line == nil {
		p.line = new(line)
		g.mu.byAddr[p.key] = p.line
	}
	p.list = &p.line.silent
	p.at = p.list.PushBack(p)
	p.inside = g.mu.all.PushBack(p)
	if !g.mu.armed {
		g.mu.armed = true
		g.mu.expiry.Reset(g.mu.limits.Timeout)
	}
	return 0
}

// expire evicts those whose time is over.
func (g *gate) expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.armed = false
	for at := g.mu.all.Front(); at != nil; at = g.mu.all.Front() {
		p := at.Value.(*place)
		if left := g.mu.limits.Timeout - time.Since(p.since); left > 0 {
			g.mu.armed = true
			g.mu.expiry.Reset(left)
			return
		}
		g.remove(p)
		p.evict(errStartupTimeout)
		g.wake()
	}
}

// clear evicts all.
func (g *gate) clear(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for at := g.mu.all.Front(); at != nil; at = g.mu.all.Front() {
		p := at.Value.(*place)
		g.remove(p)
		p.evict(cause)
	}
}

// victim returns who has to go, or how long there will be none yet. The line is not
// empty.
func (l *line) victim(now time.Time) (p *place, wait time.Duration) {
	wait = evictAfter
	if at := l.silent.Front(); at != nil {
		p = at.Value.(*place)
		if wait = silentFor - now.Sub(p.since); wait <= 0 {
			return p, 0
		}
	}
	if at := l.spoken.Front(); at != nil {
		p = at.Value.(*place)
		wait = min(wait, evictAfter-now.Sub(p.since))
	}
	return p, wait
}

// spoke tells that the connection has sent its first packet. Places that spoke later
// stand behind although they may be older, by silentFor at most while others wait.
func (p *place) spoke() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.inside != nil && p.list == &p.line.silent {
		p.list.Remove(p.at)
		p.list = &p.line.spoken
		p.at = p.list.PushBack(p)
	}
}

// leave gives the place back, if it was not lost.
func (p *place) leave() {
	g := p.gate
	g.mu.Lock()
	g.remove(p)
	g.mu.Unlock()
	g.wake()
}

// resize changes the limits. Who is inside stays, as long as he may.
func (g *gate) resize(limits StartupLimits) {
	g.mu.Lock()
	g.mu.limits = limits
	if g.mu.armed {
		g.mu.expiry.Reset(0)
	}
	g.mu.Unlock()
	g.wake()
}

// wake has a listener that waits try again.
func (g *gate) wake() {
	select {
	case g.freed <- struct{}{}:
	default:
	}
}

// remove takes a connection out, once; the lock is held.
func (g *gate) remove(p *place) {
	if p.inside == nil {
		return
	}
	p.list.Remove(p.at)
	g.mu.all.Remove(p.inside)
	p.inside = nil
	if p.line.len() == 0 {
		delete(g.mu.byAddr, p.key)
	}
}

func (l *line) len() int { return l.silent.Len() + l.spoken.Len() }

// heaviest returns the line of the address with the most connections. It walks over
// at most limit addresses.
func (g *gate) heaviest() *line {
	var heaviest *line
	for _, l := range g.mu.byAddr {
		if heaviest == nil || l.len() > heaviest.len() || l.len() == heaviest.len() && l.oldest().Before(heaviest.oldest()) {
			heaviest = l
		}
	}
	return heaviest
}

// oldest returns when the first connection of the line entered.
func (l *line) oldest() time.Time {
	var oldest time.Time
	for _, at := range []*list.Element{l.silent.Front(), l.spoken.Front()} {
		if at == nil {
			continue
		}
		if since := at.Value.(*place).since; oldest.IsZero() || since.Before(oldest) {
			oldest = since
		}
	}
	return oldest
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
