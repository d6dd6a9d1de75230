package proxy

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// waiter is one acquire that waits. It stands among those of its group, in order of
// arrival; when a place has been found for a connection of its own, in the line for
// logins, where it still takes an idle one if that comes first.
//
// Invariants, whenever pools.mu is free: no connection is idle and no place free that
// could serve a waiter without a place; no connection is idle that a waiter with a place
// could use; no login could begin that does not.
type waiter struct {
	backend cluster.Backend
	primary bool // instead of backend: whichever is the primary
	client  *client
	grant   chan grant // of capacity 1
	seq     uint64     // in order of arrival, kept when it has to wait again; 0: not set yet

	// Guarded by pools.mu, and of no meaning once it has been served:
	pool   *backendPool  // nil: it is held
	at     *list.Element // in the waiting of its group, the logins of its pool, or those held
	placed bool
	queued time.Time // since when it waits for a connection
	held   time.Time // since when it first waited for a primary; zero: it never did
}

func newWaiter(b cluster.Backend, c *client) *waiter {
	return &waiter{backend: b, client: c, grant: make(chan grant, 1)}
}

// wait waits for an idle connection or the right to open one. What it was granted before
// and cannot use is closed; its place is his who comes first, which may still be this
// one.
func (p *pools) wait(ctx context.Context, w *waiter, useless *link) grant {
	var tick time.Duration
	p.locked(func() []*link {
		out := p.follow()
		if useless != nil {
			useless.group.pool.shake(useless)
			useless.group.pool.drop(useless)
			out = append(out, useless)
		}
		more, err := p.join(w)
		if useless != nil {
			more = append(more, useless.group.pool.dispatch()...)
		}
		if err != nil {
			w.grant <- grant{err: err}
			return append(out, more...)
		}
		tick = min(p.mu.cfg.Wait, p.mu.hold.Timeout, time.Until(p.deadline(w)))
		return append(out, more...)
	})
	select {
	case g := <-w.grant: // most often at once, without a timer
		if g.err == nil {
			p.waited(0)
		}
		return g
	default:
	}
	// Where it stands may change, and with that how long it waits there: it looks at
	// least as often as the shorter time passes.
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		var g grant
		var over bool
		select {
		case g = <-w.grant:
			over = true
		case <-timer.C:
			g, over = p.leave(w, func() error { return p.overdue(w, &tick) })
			timer.Reset(tick)
		case <-ctx.Done():
			g, over = p.leave(w, func() error { return context.Cause(ctx) })
		}
		if over {
			if w.pool != nil {
				p.waited(time.Since(w.queued))
			}
			return g
		}
	}
}

// join puts a waiter into the line of its backend's pool, or where it waits for a
// primary.
func (p *pools) join(w *waiter) ([]*link, error) {
	if w.seq == 0 {
		p.mu.arrivals++
		w.seq = p.mu.arrivals
	}
	if w.primary {
		return p.joinPrimary(w)
	}
	bp, err := p.enter(w.backend)
	if err == nil && bp.outage.on {
		err = errOutage
	}
	if err != nil {
		return nil, fmt.Errorf("connect to backend %q: %w", w.backend.Name, err)
	}
	bp.queue(w)
	return bp.dispatch(), nil
}

// overdue is what a client is told for whom nothing has come in time; nil: it may still
// wait, and is to be looked at again after tick.
func (p *pools) overdue(w *waiter, tick *time.Duration) error {
	left := time.Until(p.deadline(w))
	if left > 0 {
		*tick = min(left, p.mu.cfg.Wait, p.mu.hold.Timeout)
		return nil
	}
	if p.holds(w) {
		return noPrimary(p.cluster.State(), p.mu.hold.Timeout)
	}
	bp := w.pool
	g := bp.group(groupOf(w.client))
	b := boundConnects
	if !w.placed {
		b = bp.met(g, 1)
	}
	return &Refusal{Code: codeTooManyConnections, Message: fmt.Sprintf(
		"pgproxy: no server connection to %q for database %q, user %q within %v: %s",
		bp.backend.Name, g.key.database, g.key.user, p.mu.cfg.Wait, bp.describe(g, b))}
}

// leave takes a waiter out of the line because of an error, if there is one, unless it
// has just been served.
func (p *pools) leave(w *waiter, why func() error) (g grant, left bool) {
	p.locked(func() []*link {
		select {
		case g = <-w.grant:
			left = true
			return nil
		default:
		}
		err := why()
		if err == nil {
			return nil
		}
		g, left = grant{err: err}, true
		if w.pool == nil {
			p.mu.held.Remove(w.at)
			return nil
		}
		w.pool.unqueue(w)
		return w.pool.dispatch() // its place is for somebody else
	})
	return g, left
}

// queue puts a waiter where its arrival has been.
func (bp *backendPool) queue(w *waiter) {
	g := bp.group(groupOf(w.client))
	w.pool, w.placed, w.queued = bp, false, time.Now()
	g.client, g.used = w.client, w.queued
	if w.primary {
		bp.held++
	}
	if g.waiting.Len() == 0 {
		bp.queues = append(bp.queues, g)
	}
	w.at = insert(&g.waiting, w)
	bp.pools.queued.Add(1)
	if bp.outage.on {
		bp.pools.wakeUp() // which may have seen nobody for whom a login is to be tried again
	}
}

// insert puts a waiter into a line in order of arrival; most often it is the last.
func insert(line *list.List, w *waiter) *list.Element {
	for at := line.Back(); at != nil; at = at.Prev() {
		if at.Value.(*waiter).seq < w.seq {
			return line.InsertAfter(w, at)
		}
	}
	return line.PushFront(w)
}

// unqueue takes a waiter out of its line, and gives back its place.
func (bp *backendPool) unqueue(w *waiter) {
	g := bp.group(groupOf(w.client))
	if w.primary {
		bp.held--
	}
	if w.placed {
		bp.logins.Remove(w.at)
		g.pending--
		bp.leavePlace(g)
		return
	}
	bp.leaveGroup(w, g)
}

func (bp *backendPool) leaveGroup(w *waiter, g *group) {
	g.waiting.Remove(w.at)
	bp.pools.queued.Add(-1)
	if g.waiting.Len() == 0 {
		bp.queues = slices.DeleteFunc(bp.queues, func(o *group) bool { return o == g })
	}
}

// dispatch serves waiters for as long as one can be served, in order of arrival but
// for those who wait for something else than the ones behind them, and returns idle
// links that had to make room.
func (bp *backendPool) dispatch() (out []*link) {
	bp.round++
	for {
		w, g := bp.first()
		if w == nil {
			break
		}
		if l := g.take(w.client); l != nil {
			bp.unqueue(w)
			bp.hand(w, l)
			continue
		}
		if !bp.room(g, &out) {
			g.blocked = bp.round
			continue
		}
		bp.leaveGroup(w, g)
		bp.enterPlace(g)
		g.pending++
		w.placed, w.at = true, insert(&bp.logins, w)
	}
	bp.openNext()
	return out
}

// openNext lets logins begin.
func (bp *backendPool) openNext() {
	for bp.logins.Len() > 0 && bp.opening < max(bp.pools.mu.cfg.Connects, 1) {
		w := bp.logins.Front().Value.(*waiter)
		if bp.outage.on && !bp.outage.probe(bp.pools.retry) {
			return
		}
		g := bp.group(groupOf(w.client))
		bp.unqueue(w)
		bp.enterPlace(g) // for what it opens
		bp.opening++
		bp.hand(w, nil)
	}
}

// first returns the waiter without a place that came first among those that could not
// be said to be blocked in this round.
func (bp *backendPool) first() (w *waiter, g *group) {
	for _, o := range bp.queues {
		if o.blocked == bp.round {
			continue
		}
		if head := o.waiting.Front().Value.(*waiter); w == nil || head.seq < w.seq {
			w, g = head, o
		}
	}
	return w, g
}

// hand gives a waiter a link or, with nil, the right to open one.
func (bp *backendPool) hand(w *waiter, l *link) {
	if l != nil {
		l.state = linkLent
	}
	w.grant <- bp.granted(l)
}

// granted is a grant of this generation.
func (bp *backendPool) granted(l *link) grant {
	g := grant{pool: bp, backend: bp.backend, link: l, gen: bp.gen, gone: bp.gone}
	if l != nil {
		g.doubt = bp.doubts(l)
	}
	if bp.primary {
		g.tenure = bp.pools.mu.tenure // not nil: enter has seen to it, and its end clears the queues
	}
	return g
}

// put gives a clean link to the first waiter that can use it, or keeps it.
func (bp *backendPool) put(l *link) (out []*link) {
	g := l.group
	if bp.met(g, 0) != boundNone { // it was lowered
		bp.drop(l)
		return append(bp.dispatch(), l)
	}
	l.state = linkIdle
	if g.pending > 0 {
		for at := bp.logins.Front(); at != nil; at = at.Next() {
			if w := at.Value.(*waiter); w.client.poolKey() == l.key && groupOf(w.client) == g.key {
				bp.unqueue(w)
				bp.hand(w, l)
				return bp.dispatch()
			}
		}
	}
	g.idle = append(g.idle, l)
	if len(bp.queues) > 0 {
		out = bp.dispatch()
	}
	bp.trim(g, &out)
	return out
}
