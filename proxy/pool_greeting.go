package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// greeted is what a server has told at the last login of a key. Links share it.
type greeted struct {
	params  []pgwire.Parameter
	notices []byte // whole NoticeResponses
	gen     uint64
	checked time.Time // when the server was last seen to take that user
}

// maxGreetings bounds the keys whose greetings a backend's pool remembers; with more,
// all are forgotten.
const maxGreetings = 10_000

// greeting returns what the server tells a client that logs in, without one when that
// was looked at within auth.cache; else a connection is acquired and released. The errors
// are those of acquire.
func (p *pools) greeting(ctx context.Context, b cluster.Backend, c *client) (*greeted, error) {
	if known := p.known(b, c); known != nil {
		return known, nil
	}
	sc, err := p.acquire(ctx, b, c)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	bp, known := sc.pool, sc.pool.greetings[sc.key]
	if known == nil || known.gen != sc.gen {
		known = bp.greet(sc.link)
	}
	known.checked = time.Now() // what an earlier login was told is older than the last one
	p.mu.Unlock()
	p.release(sc, true)
	return known, nil
}

// known returns the greeting for a client if it can still be trusted; nil: it cannot.
func (p *pools) known(b cluster.Backend, c *client) *greeted {
	p.mu.Lock()
	defer p.mu.Unlock()
	bp := p.current(b)
	if bp == nil {
		return nil
	}
	g := bp.greetings[c.poolKey()]
	if g == nil || g.gen != bp.gen || time.Since(g.checked) > time.Duration(p.trust.Load()) {
		return nil
	}
	return g
}

// greet remembers what the server has told at the login of a link, whose copy it makes
// the same as the remembered one where they are equal.
func (bp *backendPool) greet(l *link) *greeted {
	now := time.Now()
	if old := bp.greetings[l.key]; old != nil && slices.Equal(old.params, l.params) && string(old.notices) == string(l.notices) {
		l.params, l.notices = old.params, old.notices
		old.gen, old.checked = l.gen, now
		return old
	}
	if len(bp.greetings) >= maxGreetings {
		clear(bp.greetings)
	}
	g := &greeted{params: l.params, notices: l.notices, gen: l.gen, checked: now}
	bp.greetings[l.key] = g
	return g
}
