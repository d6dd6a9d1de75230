package proxy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// run keeps the pools in step with the cluster and the lease, closes what is too old,
// and has connections opened that are to be kept ready, until ctx ends; then it closes
// all idle connections and waits for those being cleaned.
func (p *pools) run(ctx context.Context) {
	upkeep := time.NewTicker(time.Hour)
	defer upkeep.Stop()
	lease := time.NewTimer(0)
	defer lease.Stop()
	every := time.Duration(0)
	for {
		changed, leased := p.cluster.Changed(), p.lease.Changed()
		p.locked(func() []*link { return append(p.follow(), p.retryDue()...) })
		p.acknowledge()
		p.warm()
		lease.Reset(p.nextEnd())
		if e := upkeepOf(p.bounds()); e != every {
			every = e
			upkeep.Reset(e)
		}
		select {
		case <-ctx.Done():
			p.shutdown()
			return
		case <-changed:
			p.locked(p.retryNow)
		case <-leased:
			p.locked(p.retryNow)
		case <-lease.C:
		case <-p.wake:
		case <-upkeep.C:
			p.locked(p.expire)
		}
	}
}

// upkeepOf is how often the pools look for what is too old.
func upkeepOf(cfg PoolConfig) time.Duration {
	every := min(cfg.Idle/2, time.Minute)
	if cfg.Lifetime > 0 {
		every = min(every, cfg.Lifetime/20)
	}
	return max(every, time.Millisecond)
}

// wakeUp has run look again.
func (p *pools) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default: // it will
	}
}

// nextEnd is how long it takes at least until the tenure ends, or a login is to be tried
// again.
func (p *pools) nextEnd() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := time.Hour
	if p.mu.tenure != nil {
		next = p.mu.tenure.remaining()
	}
	for _, bp := range p.mu.byName {
		if bp.outage.on && bp.logins.Len() > 0 {
			next = min(next, max(time.Until(bp.outage.next), time.Millisecond))
		}
	}
	return next
}

// acknowledge notes that the operation under way has nothing to fear of this member:
// no connection to the old primary is open or written to.
func (p *pools) acknowledge() {
	p.mu.Lock()
	state, leaving := p.mu.state, slices.Clone(p.mu.leaving)
	p.mu.Unlock()
	p.finish(leaving)
	if state.Operation.Barred() && p.barred.Swap(state.Operation.ID) != state.Operation.ID {
		p.nudge()
	}
}

// locked calls f under the lock, then closes the connections of tenures that are
// over and terminates the links that f took out.
func (p *pools) locked(f func() []*link) {
	p.mu.Lock()
	out := f()
	leaving := slices.Clone(p.mu.leaving)
	p.mu.Unlock()
	p.finish(leaving)
	for _, l := range out {
		l.terminate()
	}
}

// finish returns when no connection of these tenures is open.
func (p *pools) finish(leaving []*tenure) {
	if len(leaving) == 0 {
		return
	}
	for _, t := range leaving {
		t.end()
		t.report(p.log)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.leaving = slices.DeleteFunc(p.mu.leaving, func(t *tenure) bool { return slices.Contains(leaving, t) })
}

// follow makes the pools agree with the cluster's state:
//
//  1. Connections to a backend that was removed, is being rebuilt or is no longer the
//     primary are closed, the lent ones too; so are those to a standby that went
//     down, whose reads run elsewhere, and those to the primary when its lease ends.
//  2. Connections to one that left status up for another reason, or became the
//     primary, are not used again; lent ones end with their loan. The primary may
//     still work for them, and nobody else can while it is the recorded one.
//
// Then those who wait for a primary are let in where there is one.
func (p *pools) follow() []*link {
	if p.mu.shutdown {
		return nil
	}
	return append(p.agree(), p.resume()...)
}

func (p *pools) agree() (out []*link) {
	state := p.cluster.State()
	if t := p.mu.tenure; t != nil && (state.Primary != t.backend || state.Timeline != t.timeline || !t.holds()) {
		out = p.endTenure()
	}
	if state == p.mu.state {
		return out
	}
	p.mu.state = state
	for name, bp := range p.mu.byName {
		b := state.Backend(name)
		if b == nil || b.Address != bp.backend.Address {
			if p.mu.tenure != nil && p.mu.tenure.backend == name {
				out = append(out, p.endTenure()...)
			}
			out = append(out, bp.retire(true)...)
			delete(p.mu.byName, name)
		}
	}
	for _, b := range state.Backends {
		primary := state.Primary == b.Name
		bp := p.mu.byName[b.Name]
		if bp == nil {
			bp = &backendPool{
				pools: p, primary: primary, backend: b, links: make(map[*link]struct{}),
				groups: make(map[groupKey]*group), limits: make([]int, len(p.mu.limits)),
				greetings: make(map[poolKey]*greeted),
			}
			bp.gone, bp.end = context.WithCancelCause(context.Background())
			p.mu.byName[b.Name] = bp
			if primary {
				bp.inherit()
			}
			continue
		}
		before, demoted := bp.backend.Status, bp.primary && !primary
		rebuilt := b.Status != before && b.Status == cluster.StatusRecovering
		promoted := primary && !bp.primary
		bp.backend, bp.primary = b, primary
		left := b.Status != before && before == cluster.StatusUp
		lost := b.Status != before && b.Status == cluster.StatusDown
		if demoted || promoted || left || rebuilt || lost {
			// Of a primary that is none any more also those from when it was a standby: a
			// barrier is not acknowledged while one is open.
			out = append(out, bp.retire(demoted || rebuilt || lost && !primary)...)
		}
		if demoted || promoted {
			bp.outage = outage{}
		}
		if promoted {
			bp.inherit()
		}
		if primary && state.Holds() {
			bp.suspend()
		}
		out = append(out, bp.adjust()...) // the limit may have changed
	}
	return out
}

// bounds returns the configuration.
func (p *pools) bounds() PoolConfig {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.cfg
}

// current returns the pool of a backend if it may be used as what it is in b, and
// nothing has changed that follow has not seen.
func (p *pools) current(b cluster.Backend) *backendPool {
	if p.mu.shutdown || p.cluster.State() != p.mu.state {
		return nil
	}
	bp := p.mu.byName[b.Name]
	if bp == nil || bp.backend.Address != b.Address || bp.primary != (b.Role == cluster.RolePrimary) {
		return nil
	}
	if bp.primary && (p.mu.tenure == nil || !p.mu.tenure.holds() || p.mu.state.Holds()) {
		return nil
	}
	return bp
}

// enter returns the pool of a backend if it may be used as what it is in b: the primary
// only under a tenure, which begins here. follow has just been called.
func (p *pools) enter(b cluster.Backend) (*backendPool, error) {
	bp := p.mu.byName[b.Name]
	switch {
	case bp == nil || bp.backend.Address != b.Address || p.mu.shutdown:
		return nil, errBackendGone
	case bp.primary != (b.Role == cluster.RolePrimary):
		return nil, errBackendGone // the caller has seen an older State
	case !bp.primary || p.mu.tenure != nil:
		return bp, nil
	}
	t := newTenure(b.Name, p.mu.state.Timeline, p.cluster, p.lease)
	if !t.holds() {
		return nil, errNoLease
	}
	p.mu.tenure = t
	return bp, nil
}

// endTenure takes the connections to the primary out of use. Those that are lent or
// being opened, too, are closed by finish.
func (p *pools) endTenure() []*link {
	t := p.mu.tenure
	p.mu.tenure = nil
	t.expired = p.cluster.State().Primary == t.backend
	p.mu.leaving = append(p.mu.leaving, t)
	if bp := p.mu.byName[t.backend]; bp != nil {
		return bp.retire(false)
	}
	return nil
}

// present returns the tenure for a connection that is not the pools'; nil: b is a
// standby.
func (p *pools) present(b cluster.Backend) (t *tenure, err error) {
	p.locked(func() []*link {
		out := p.follow()
		var bp *backendPool
		if bp, err = p.enter(b); err == nil && bp.primary {
			t = p.mu.tenure
		}
		return out
	})
	return t, err
}

// retire ends the generation: idle links are returned to be closed, logins and
// waiters end; hard closes the lent ones too.
func (bp *backendPool) retire(hard bool) (out []*link) {
	bp.gen++
	bp.end(fmt.Errorf("connect to backend %q: %w", bp.backend.Name, errBackendGone))
	bp.clearQueues(context.Cause(bp.gone))
	bp.gone, bp.end = context.WithCancelCause(context.Background())
	bp.evictAll(&out)
	for l := range bp.links {
		if l.loan != nil && hard {
			// Not Close: that takes the lock. The holder sees the error and ends the loan.
			_ = l.raw.Close()
		}
	}
	return out
}

// closeIdle closes the idle connections of a backend, and those that are lent or being
// opened now when they come back. Who waits goes on waiting.
func (p *pools) closeIdle(backend string) {
	p.locked(func() (out []*link) {
		bp := p.mu.byName[backend]
		if bp == nil {
			return nil
		}
		bp.gen++
		bp.evictAll(&out)
		return append(out, bp.dispatch()...)
	})
}

func (bp *backendPool) evictAll(out *[]*link) {
	for l := range bp.links {
		if l.state == linkIdle {
			bp.evict(l, out)
		}
	}
}

func (p *pools) shutdown() {
	p.locked(func() (out []*link) {
		p.mu.shutdown = true
		for _, bp := range p.mu.byName {
			out = append(out, bp.retire(false)...)
		}
		return out
	})
	p.background.Wait()
}
