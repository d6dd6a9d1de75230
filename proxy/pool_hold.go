package proxy

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// retryPrimary is how often one login is tried on a primary that takes none, unless the
// cluster or the lease changes before.
const retryPrimary = 250 * time.Millisecond

var (
	// errNoPrimary tells that the state has no primary.
	errNoPrimary = fmt.Errorf("there is no primary: %w", errBackendGone)
	// errDraining tells that nothing new may begin on the primary.
	errDraining = fmt.Errorf("the primary is paused or being replaced: %w", errBackendGone)
	// errOutage tells that the primary takes no logins now.
	errOutage = fmt.Errorf("the primary could not be reached a moment ago: %w", errBackendGone)
)

// outage is a time in which the primary takes no logins though the State names it:
// nobody answers, or it is starting or stopping. One login at a time finds out.
type outage struct {
	on    bool
	ended time.Time // of the last one
	next  time.Time // when the next login may be tried
}

// probe reports that a login may be tried now, which is then under way.
func (o *outage) probe(every time.Duration) bool {
	now := time.Now()
	if now.Before(o.next) {
		return false
	}
	o.next = now.Add(every)
	return true
}

// acquirePrimary is acquire on whichever server is the primary. All who wait for one
// stand in one line, which outlives each of them: they are served in the order in which
// they began to wait. An error is a *Refusal, a *ServerError to be forwarded, or ctx's;
// one for which waiting may help is not returned within hold.timeout.
func (p *pools) acquirePrimary(ctx context.Context, c *client) (*serverConn, error) {
	w := newWaiter(cluster.Backend{}, c)
	w.primary = true
	for {
		sc, err := p.serve(ctx, w)
		if err == nil || !isTransient(err) || ctx.Err() != nil {
			return sc, err
		}
		p.log.Debug("no connection to the primary", "error", err)
		w.failed(time.Now()) // nobody else has it now
	}
}

// failed notes that there was no primary for a waiter, or none that could be reached.
func (w *waiter) failed(now time.Time) {
	if w.held.IsZero() {
		w.held = now
	}
}

// within bounds the login of one who waits for a primary.
func (p *pools) within(ctx context.Context, w *waiter) (context.Context, context.CancelFunc) {
	if !w.primary {
		return ctx, func() {}
	}
	p.mu.Lock()
	limit := p.mu.hold.Timeout
	p.mu.Unlock()
	if !w.held.IsZero() {
		limit -= time.Since(w.held)
	}
	return context.WithTimeout(ctx, limit)
}

// primary returns the pool of the primary if something new may begin there now. follow
// has just been called.
func (p *pools) primary() (*backendPool, error) {
	state := p.mu.state
	if state == nil {
		return nil, errNoPrimary // shut down before the first use
	}
	b := state.Backend(state.Primary)
	switch {
	case b == nil:
		return nil, errNoPrimary
	case state.Holds():
		return nil, errDraining
	}
	return p.enter(*b)
}

// joinPrimary puts a waiter into the line of the primary's pool, or among the held.
func (p *pools) joinPrimary(w *waiter) ([]*link, error) {
	bp, err := p.primary()
	if (err != nil || bp.outage.on) && w.held.IsZero() && p.heldNow() >= p.mu.hold.MaxClients {
		return nil, &Refusal{Code: codeCannotConnectNow, Message: fmt.Sprintf(
			"pgproxy: no primary, and hold.max_clients %d wait for one", p.mu.hold.MaxClients)}
	}
	if err != nil {
		p.keep(w)
		return nil, nil
	}
	if bp.outage.on {
		w.failed(time.Now())
	}
	bp.queue(w)
	return bp.dispatch(), nil
}

// keep holds a waiter until there is a primary.
func (p *pools) keep(w *waiter) {
	w.failed(time.Now())
	w.pool, w.placed = nil, false
	w.at = insert(&p.mu.held, w)
}

// resume lets those who are held into the line of the primary's pool, which wakes
// nobody before his turn.
func (p *pools) resume() []*link {
	if p.mu.held.Len() == 0 {
		return nil
	}
	bp, err := p.primary()
	if err != nil {
		return nil
	}
	for at := p.mu.held.Front(); at != nil; at = p.mu.held.Front() {
		w := p.mu.held.Remove(at).(*waiter)
		bp.queue(w)
	}
	return bp.dispatch()
}

// suspend holds those who wait for the primary in the line of its pool.
func (bp *backendPool) suspend() { bp.clearQueues(nil) }

// clearQueues ends all waiting on a backend with an error; who waits for a primary is
// held. With nil the others stay.
func (bp *backendPool) clearQueues(err error) {
	var again []*waiter
	bp.eachWaiter(func(w *waiter) {
		switch {
		case w.primary:
			bp.unqueue(w)
			again = append(again, w)
		case err != nil:
			bp.unqueue(w)
			w.grant <- grant{err: err}
		}
	})
	// Sorted, each finds its place at the end: there may be thousands.
	slices.SortFunc(again, func(a, b *waiter) int { return cmp.Compare(a.seq, b.seq) })
	for _, w := range again {
		bp.pools.keep(w)
	}
}

// eachWaiter calls f with every waiter; f may take it out of its line.
func (bp *backendPool) eachWaiter(f func(*waiter)) {
	walk := func(line *list.List) {
		for at := line.Front(); at != nil; {
			w := at.Value.(*waiter)
			at = at.Next()
			f(w)
		}
	}
	for _, g := range slices.Clone(bp.queues) {
		walk(&g.waiting)
	}
	walk(&bp.logins)
}

// setBack begins or prolongs an outage: a login on the primary has failed.
func (bp *backendPool) setBack() {
	now := time.Now()
	if !bp.outage.on {
		bp.outage.on = true
		bp.eachWaiter(func(w *waiter) { w.failed(now) })
	}
	bp.outage.next = now.Add(bp.pools.retry)
	bp.pools.wakeUp()
}

// recover ends an outage: a login has succeeded.
func (bp *backendPool) recover() {
	if bp.outage.on {
		bp.outage = outage{ended: time.Now()}
	}
}

// retryNow has a login tried at once where there is an outage: something has changed.
func (p *pools) retryNow() (out []*link) {
	for _, bp := range p.mu.byName {
		if bp.outage.on {
			bp.outage.next = time.Time{}
			out = append(out, bp.dispatch()...)
		}
	}
	return out
}

// retryDue does the same where it is time.
func (p *pools) retryDue() (out []*link) {
	now := time.Now()
	for _, bp := range p.mu.byName {
		if bp.outage.on && !now.Before(bp.outage.next) {
			out = append(out, bp.dispatch()...)
		}
	}
	return out
}

// holds reports that a waiter waits for a primary, not for a connection.
func (p *pools) holds(w *waiter) bool {
	return w.pool == nil || w.primary && w.pool.outage.on
}

// deadline is when a waiter has waited for long enough.
func (p *pools) deadline(w *waiter) time.Time {
	if !p.holds(w) {
		since := w.queued
		if w.primary && w.pool.outage.ended.After(since) {
			since = w.pool.outage.ended
		}
		return since.Add(p.mu.cfg.Wait)
	}
	return w.held.Add(p.mu.hold.Timeout)
}

// noPrimary is what a client is told whose statement has waited for hold.timeout.
func noPrimary(state *cluster.State, timeout time.Duration) *Refusal {
	why := "no primary"
	if state.Paused != nil {
		why = "paused by an operator, no primary"
	}
	return &Refusal{Code: codeCannotConnectNow, Message: fmt.Sprintf("pgproxy: %s within %v", why, timeout)}
}

// heldNow counts the waiters for a primary.
func (p *pools) heldNow() int {
	n := p.mu.held.Len()
	for _, bp := range p.mu.byName {
		if bp.outage.on {
			n += bp.held
		}
	}
	return n
}

// heldClients counts the sessions that wait for a primary.
func (p *pools) heldClients() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heldNow()
}

// holdWith takes new bounds for waiting for a primary.
func (p *pools) holdWith(cfg HoldConfig) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.hold = cfg
}
