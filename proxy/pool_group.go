package proxy

import (
	"container/list"
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// groupKey tells for which connections of one backend pool.size is meant.
type groupKey struct {
	database, user string
	replication    bool // not pooled, nor bounded by pool.size
}

func groupOf(c *client) groupKey {
	return groupKey{c.database, c.user, c.replication != pgwire.ReplicationNone}
}

// group is the connections of one database and user on one backend, whatever their
// startup parameters. All fields are guarded by pools.mu.
type group struct {
	key     groupKey
	pool    *backendPool
	limit   int       // index of the entry of `limits` that holds for it; -1: none
	open    int       // places taken, as in backendPool
	idle    []*link   // in the order in which they became idle: the last is used first
	waiting list.List // of *waiter that have no place, in order of arrival
	pending int       // waiters in backendPool.logins
	warming int       // connections being opened for nobody
	blocked uint64    // the last round of dispatch in which its first waiter could not be served
	client  *client   // the one who used it last
	used    time.Time // when it was last used
}

// group returns the group of that key.
func (bp *backendPool) group(key groupKey) *group {
	g := bp.groups[key]
	if g == nil {
		g = &group{key: key, pool: bp, limit: limitOf(bp.pools.mu.limits, key)}
		bp.groups[key] = g
	}
	return g
}

// limitOf returns the index of the entry that holds, if it bounds connections, else -1.
func limitOf(entries []LimitConfig, key groupKey) int {
	i := (&limits{entries: entries}).find(key.user, key.database)
	if i >= 0 && entries[i].MaxConnections == 0 {
		return -1
	}
	return i
}

// take takes out the idle link for that client that was used last: the others may expire.
func (g *group) take(c *client) *link { return g.remove(g.last(c)) }

// takeSure is take unless that link is in doubt; then most often all others are, too.
func (g *group) takeSure(c *client) *link {
	i := g.last(c)
	if i >= 0 && g.pool.doubts(g.idle[i]) != nil {
		return nil
	}
	return g.remove(i)
}

// takeExact takes out the idle link of that id if it had that many uses.
func (g *group) takeExact(key poolKey, id, uses uint64) *link {
	return g.remove(slices.IndexFunc(g.idle, func(l *link) bool { return l.id == id && l.uses == uses && l.key == key }))
}

// last returns the place of the idle link for that client that was used last, one of the
// client's own event loop before all others: a session is served without contention where
// one loop has all of its connections. -1: there is none.
func (g *group) last(c *client) int {
	key, other := c.poolKey(), -1
	for i := len(g.idle) - 1; i >= 0; i-- {
		switch l := g.idle[i]; {
		case l.key != key:
		case c.loop == nil || l.sock.on(c.loop):
			return i
		case other < 0:
			other = i
		}
	}
	return other
}

// remove takes out an idle link; nil: the index is -1.
func (g *group) remove(i int) *link {
	if i < 0 {
		return nil
	}
	l := g.idle[i]
	g.idle = slices.Delete(g.idle, i, i+1)
	return l
}

// enterPlace takes a place for a connection of the group.
func (bp *backendPool) enterPlace(g *group) { bp.places(g, 1) }

func (bp *backendPool) leavePlace(g *group) { bp.places(g, -1) }

func (bp *backendPool) places(g *group, n int) {
	bp.open += n
	g.open += n
	if g.limit >= 0 {
		bp.limits[g.limit] += n
	}
}

// ceiling is what a connection of a group may wait for.
type ceiling int

const (
	boundNone ceiling = iota
	boundSize
	boundLimit
	boundBackend
	boundConnects
)

// met returns the narrowest bound that does not allow n connections more; boundNone:
// all of them do.
func (bp *backendPool) met(g *group, n int) ceiling {
	p := bp.pools
	switch limit := bp.backend.MaxConnections; {
	case p.mu.cfg.Mode == PoolTransaction && !g.key.replication && g.open+n > p.mu.cfg.Size:
		return boundSize
	case g.limit >= 0 && bp.limits[g.limit]+n > p.mu.limits[g.limit].MaxConnections:
		return boundLimit
	case limit > 0 && bp.open+n > limit:
		return boundBackend
	}
	return boundNone
}

// describe names a bound in the words of the configuration.
func (bp *backendPool) describe(g *group, b ceiling) string {
	cfg := &bp.pools.mu.cfg
	switch b {
	case boundSize:
		return fmt.Sprintf("pool.size %d", cfg.Size)
	case boundLimit:
		e := &bp.pools.mu.limits[g.limit]
		return fmt.Sprintf("limits.max_connections %d%s", e.MaxConnections, e.scope())
	case boundBackend:
		return fmt.Sprintf("backends.max_connections %d", bp.backend.MaxConnections)
	case boundConnects:
		return fmt.Sprintf("pool.connects %d", cfg.Connects)
	case boundNone:
	}
	return "those who came before"
}

// room makes room for one connection of the group, by closing what has been idle for
// longest where a bound is met. The links go to out.
func (bp *backendPool) room(g *group, out *[]*link) bool {
	for {
		b := bp.met(g, 1)
		if b == boundNone {
			return true
		}
		l := bp.oldest(g, b)
		if l == nil {
			return false
		}
		bp.evict(l, out)
	}
}

// trim closes idle connections of the group, or of those that share a bound with it,
// where there are more than there may be.
func (bp *backendPool) trim(g *group, out *[]*link) {
	for {
		b := bp.met(g, 0)
		if b == boundNone {
			break
		}
		l := bp.oldest(g, b)
		if l == nil {
			break
		}
		bp.evict(l, out)
	}
	for len(g.idle) > bp.pools.mu.cfg.Size { // in session mode
		bp.evict(g.idle[0], out)
	}
}

// evict takes an idle link out of the books.
func (bp *backendPool) evict(l *link, out *[]*link) {
	i := slices.Index(l.group.idle, l)
	l.group.idle = slices.Delete(l.group.idle, i, i+1)
	bp.drop(l)
	*out = append(*out, l)
}

// oldest returns the link that has been idle for longest among those that count
// against that bound of the group. It walks over the groups, of which there are as
// many as users and databases in use.
func (bp *backendPool) oldest(g *group, b ceiling) *link {
	if b == boundSize {
		if len(g.idle) == 0 {
			return nil
		}
		return g.idle[0]
	}
	var oldest *link
	for _, o := range bp.groups {
		if len(o.idle) == 0 || b == boundLimit && o.limit != g.limit {
			continue
		}
		if l := o.idle[0]; oldest == nil || l.idleSince.Before(oldest.idleSince) {
			oldest = l
		}
	}
	return oldest
}

// configure takes new bounds. What is too much and idle is closed now, what is lent
// when it comes back.
func (p *pools) configure(cfg PoolConfig, limits []LimitConfig) {
	p.locked(func() (out []*link) {
		p.mu.cfg, p.mu.limits = cfg, limits
		for _, bp := range p.mu.byName {
			bp.limits = make([]int, len(limits))
			for _, g := range bp.groups {
				if g.limit = limitOf(limits, g.key); g.limit >= 0 {
					bp.limits[g.limit] += g.open
				}
			}
			out = append(out, bp.adjust()...)
		}
		return out
	})
}

// adjust makes a pool agree with bounds that have changed.
func (bp *backendPool) adjust() (out []*link) {
	for _, g := range bp.groups {
		bp.trim(g, &out)
	}
	return append(out, bp.dispatch()...)
}
