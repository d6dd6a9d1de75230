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
	client  *client
	grant   chan grant // of capacity 1
	seq     uint64     // in order of arrival, kept when it has to wait again; 0: not set yet

	// Guarded by pools.mu, and of no meaning once it has been served:
	pool   *backendPool
	at     *list.Element // in the waiting of its group or in the logins of its pool
	placed bool
	queued time.Time // since when it waits
}

func newWaiter(b cluster.Backend, c *client) *waiter {
	return &waiter{backend: b, client: c, grant: make(chan grant, 1)}
}

// wait waits for an idle connection or the right to open one.
func (p *pools) wait(ctx context.Context, w *waiter) grant {
	began := time.Now()
	var patience time.Duration
	p.locked(func() []*link {
		out := p.follow()
		patience = p.mu.cfg.Wait
		bp, err := p.enter(w.backend)
		if err != nil {
			w.grant <- grant{err: fmt.Errorf("connect to backend %q: %w", w.backend.Name, err)}
			return out
		}
		if w.seq == 0 {
			p.mu.arrivals++
			w.seq = p.mu.arrivals
		}
		w.queued = began
		bp.queue(w)
		return append(out, bp.dispatch()...)
	})
	defer func() { p.waited(time.Since(began)) }()
	select {
	case g := <-w.grant: // most often at once, without a timer
		return g
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case g := <-w.grant:
		return g
	case <-timer.C:
		return p.leave(w, func() error { return w.overdue() })
	case <-ctx.Done():
		return p.leave(w, func() error { return context.Cause(ctx) })
	}
}

// overdue is what a client is told for whom nothing has come within pool.wait.
func (w *waiter) overdue() error {
	bp := w.pool
	g := bp.group(groupOf(w.client))
	b := boundConnects
	if !w.placed {
		b = bp.met(g, 1)
	}
	return &Refusal{Code: codeTooManyConnections, Message: fmt.Sprintf(
		"pgproxy: no server connection to %q for database %q, user %q within %v: %s",
		bp.backend.Name, g.key.database, g.key.user, bp.pools.mu.cfg.Wait, bp.describe(g, b))}
}

// leave takes a waiter out of the line because of an error, unless it has just been
// served.
func (p *pools) leave(w *waiter, why func() error) (g grant) {
	p.locked(func() []*link {
		select {
		case g = <-w.grant:
			return nil
		default:
			g = grant{err: why()}
			w.pool.unqueue(w)
			return w.pool.dispatch() // its place is for somebody else
		}
	})
	return g
}

// queue puts a waiter where its arrival has been.
func (bp *backendPool) queue(w *waiter) {
	g := bp.group(groupOf(w.client))
	g.client = w.client
	w.pool, w.placed = bp, false
	if g.waiting.Len() == 0 {
		bp.queues = append(bp.queues, g)
	}
	w.at = insert(&g.waiting, w)
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
	if w.placed {
		bp.logins.Remove(w.at)
		g.pending--
		bp.leavePlace(g)
		return
	}
	g.waiting.Remove(w.at)
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
		if l := g.take(w.client.poolKey()); l != nil {
			bp.unqueue(w)
			bp.hand(w, l)
			continue
		}
		if !bp.room(g, &out) {
			g.blocked = bp.round
			continue
		}
		bp.unqueue(w)
		bp.enterPlace(g)
		g.pending++
		w.placed, w.at = true, insert(&bp.logins, w)
	}
	for bp.logins.Len() > 0 && bp.opening < bp.pools.mu.cfg.Connects {
		w := bp.logins.Remove(bp.logins.Front()).(*waiter)
		bp.group(groupOf(w.client)).pending--
		bp.opening++
		bp.hand(w, nil)
	}
	return out
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
	g := grant{pool: bp, link: l, gen: bp.gen, gone: bp.gone}
	if bp.primary {
		g.tenure = bp.pools.mu.tenure // not nil: enter has seen to it, and its end clears the queues
	}
	w.grant <- g
}

// put gives a clean link to the first waiter that can use it, or keeps it.
func (bp *backendPool) put(l *link) (out []*link) {
	g := l.group
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

// clearQueues ends all waiting on a backend.
func (bp *backendPool) clearQueues(err error) {
	fail := func(w *waiter) {
		bp.unqueue(w)
		w.grant <- grant{err: err}
	}
	for len(bp.queues) > 0 {
		fail(bp.queues[0].waiting.Front().Value.(*waiter))
	}
	for bp.logins.Len() > 0 {
		fail(bp.logins.Front().Value.(*waiter))
	}
}
