package proxy

import (
	"context"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// warm opens connections in the background, so that each group in use has pool.min idle
// ones on each backend where it is used: by the credential of the client who used it last,
// only where nobody waits, and as many at once as pool.connects allows.
func (p *pools) warm() {
	p.locked(func() []*link {
		if p.mu.cfg.Min == 0 || p.mu.shutdown {
			return nil
		}
		limit := time.Now().Add(-p.mu.cfg.Idle)
		for _, bp := range p.mu.byName {
			if !p.mayWarm(bp) {
				continue
			}
			for _, g := range bp.groups {
				for g.client != nil && g.used.After(limit) && bp.short(g) && bp.opening < p.mu.cfg.Connects {
					bp.enterPlace(g)
					bp.opening++
					g.warming++
					grant, c := bp.granted(nil), g.client
					p.background.Go(func() { p.warmOne(g, grant, c) })
				}
			}
		}
		return nil
	})
}

// mayWarm reports that connections may be opened on a backend that nobody waits for.
func (p *pools) mayWarm(bp *backendPool) bool {
	if bp.outage.on || bp.logins.Len() > 0 || len(bp.queues) > 0 || bp.backend.Status != cluster.StatusUp {
		return false
	}
	if !bp.primary {
		return bp.backend.Role == cluster.RoleStandby
	}
	_, err := p.primary()
	return err == nil
}

// short reports that a group has fewer idle connections than are to be kept ready, and
// may have more.
func (bp *backendPool) short(g *group) bool {
	return len(g.idle)+g.warming < bp.pools.mu.cfg.Min && !g.key.replication && bp.met(g, 1) == boundNone
}

// warmOne opens one connection and puts it among the idle ones.
func (p *pools) warmOne(g *group, grant grant, c *client) {
	l, err := p.dial(context.Background(), grant, c) // it ends with the pool's generation
	p.mu.Lock()
	g.warming--
	if err != nil && g.client == c {
		g.client = nil // until somebody uses it again
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Debug("no connection opened ahead", "backend", grant.backend.Name, "error", err)
		return
	}
	p.store(grant.pool, l)
	p.wakeUp() // there may be more to open
}

// inherit takes over the groups in use from the other backends: the clients of the old
// primary are about to come.
func (bp *backendPool) inherit() {
	for _, other := range bp.pools.mu.byName {
		for key, g := range other.groups {
			if other == bp || g.client == nil {
				continue
			}
			if own := bp.group(key); own.used.Before(g.used) {
				own.client, own.used = g.client, g.used
			}
		}
	}
}
