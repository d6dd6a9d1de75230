package proxy

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// errBackendGone tells that a backend left the cluster, went down or changed its
// role while a connection to it was awaited or opened.
var errBackendGone = errors.New("backend is not in use any more")

// poolKey tells which connections of one backend are interchangeable: database,
// user, whether an event loop serves them, and all startup parameters; application_name
// too, since RESET must give the client's own value, but for clients that rename. It is
// empty for a replication connection, which nobody gets a second time.
type poolKey string

// poolKey is made once, when it is first asked for.
func (c *client) poolKey() poolKey {
	c.keyed.Do(func() { c.key = keyOf(c) })
	return c.key
}

func keyOf(c *client) poolKey {
	if c.replication != pgwire.ReplicationNone {
		return ""
	}
	var b strings.Builder
	b.WriteString(c.database)
	b.WriteByte(0)
	b.WriteString(c.user)
	if c.renames {
		b.WriteString("\x00\x01") // apart from those who have no name to give
	}
	if c.loop != nil {
		b.WriteString("\x00\x02") // apart from those whose connections block
	}
	for _, p := range c.params {
		if c.renames && p.Name == "application_name" {
			continue
		}
		b.WriteByte(0)
		b.WriteString(p.Name)
		b.WriteByte(0)
		b.WriteString(p.Value)
	}
	return poolKey(b.String())
}

// pools holds the server connections to all backends: lent, idle and being
// cleaned. It is safe for concurrent use.
type pools struct {
	cluster Cluster
	lease   Lease
	log     *slog.Logger
	login   func(ctx context.Context, b cluster.Backend, t *tenure, c *client) (*link, error)
	poke    func(backend string)
	// goesOn is Deps.GoesOn.
	goesOn func(ctx context.Context, backend string, began uint64) bool
	waited func(time.Duration) // observes how long acquire waited
	nudge  func()              // barred has changed
	trust  atomic.Int64        // a Duration: how long a greeting is passed on without a look at the server
	barred atomic.Uint64       // ID of the last operation for which everything to the old primary is closed

	lastID     atomic.Uint64
	queued     atomic.Int64   // waiters in the lines of all groups
	background sync.WaitGroup // links that are cleaned, logins that nobody waits for
	wake       chan struct{}  // to run; of capacity 1
	retry      time.Duration  // see retryPrimary

	mu struct {
		sync.Mutex
		cfg      PoolConfig
		limits   []LimitConfig
		hold     HoldConfig
		held     list.List      // of *waiter that wait for a primary, in order of arrival
		arrivals uint64         // seq of the last waiter
		state    *cluster.State // that byName was last made to agree with
		byName   map[string]*backendPool
		tenure   *tenure   // of the connections to the primary; nil: there are none
		leaving  []*tenure // over, their connections not known to be closed
		shutdown bool
	}
}

// backendPool is the part of pools for one backend. All fields are guarded by
// pools.mu.
type backendPool struct {
	pools   *pools
	backend cluster.Backend
	primary bool
	// gen is raised when the connections of before must not be used again; gone ends
	// the logins of that generation.
	gen  uint64
	gone context.Context
	end  context.CancelCauseFunc

	open    int                // places taken: connections, and the rights to open one
	opening int                // logins under way
	links   map[*link]struct{} // logged in: idle, lent, being cleaned
	groups  map[groupKey]*group
	limits  []int // places taken, by entry of `limits`
	// greetings are of this generation only.
	greetings map[poolKey]*greeted

	queues []*group  // with waiters that have no place
	logins list.List // of *waiter with a place, until a login may begin
	round  uint64    // of dispatch
	held   int       // waiters for whichever is the primary
	outage outage    // of a primary that takes no logins
	shaken time.Time // when a connection has ended that cast doubt on the idle ones
	look   *look     // because of that; nil: none is under way
}

// grant is an idle connection, the right to open one, or the reason why neither
// will come.
type grant struct {
	pool    *backendPool
	backend cluster.Backend
	link    *link
	doubt   *look // after which the link may be of use; nil: it is
	gen     uint64
	gone    context.Context
	tenure  *tenure // of a new connection to the primary; nil: to a standby
	err     error
}

func newPools(cfg PoolConfig, c Cluster, log *slog.Logger) *pools {
	p := &pools{
		cluster: c, lease: newAlways(), log: log,
		wake: make(chan struct{}, 1), retry: retryPrimary,
		poke: func(string) {}, waited: func(time.Duration) {}, nudge: func() {},
		goesOn: func(context.Context, string, uint64) bool { return true },
	}
	p.trust.Store(int64(DefaultAuth().Cache))
	p.mu.cfg, p.mu.hold = cfg, DefaultHold()
	p.mu.byName = make(map[string]*backendPool)
	return p
}

// acquire returns a connection for the client on that backend: an idle one of the
// same key, else a new one, for which it waits in the order of arrival while there are
// as many as there may be. The backend must have the role in the cluster that it
// has in b. The error is a *Refusal, a *ServerError to be
// forwarded, errBackendGone, ctx's, or one of the network.
func (p *pools) acquire(ctx context.Context, b cluster.Backend, c *client) (*serverConn, error) {
	return p.serve(ctx, newWaiter(b, c))
}

// serve waits, and uses what it is granted.
func (p *pools) serve(ctx context.Context, w *waiter) (*serverConn, error) {
	var useless *link
	for {
		g := p.wait(ctx, w, useless)
		if g.err != nil {
			return nil, g.err
		}
		l := g.link
		fresh := l == nil
		switch {
		case fresh:
			var err error
			limited, done := p.within(ctx, w)
			l, err = p.dial(limited, g, w.client)
			done()
			if err != nil {
				return nil, err
			}
		case !g.doubt.well(ctx, g.gone), !l.quiet():
			// The server has closed it or said something: a restart, a shutdown, a new
			// setting. None is worth a guess.
			useless = l
			p.poke(l.backend)
			continue
		}
		if sc := p.lend(g.pool, l, fresh); sc != nil {
			return sc, nil
		}
		if g.gone.Err() != nil {
			p.discard(g.pool, l)
			return nil, context.Cause(g.gone)
		}
		useless = l // closeIdle has not left it out
	}
}

// try is acquire for whom an idle connection is there that nobody waits for and that is
// not in doubt; else it returns nil. It does not block.
func (p *pools) try(b cluster.Backend, c *client) *serverConn {
	sc, _ := p.tryFor(b, c, func(g *group) *link { return g.takeSure(c) })
	return sc
}

// acquireExact returns the connection of that id, if nobody has used it since it had had
// that many uses, else nil.
func (p *pools) acquireExact(ctx context.Context, b cluster.Backend, c *client, id, uses uint64) *serverConn {
	sc, doubt := p.tryFor(b, c, func(g *group) *link { return g.takeExact(c.poolKey(), id, uses) })
	if doubt.well(ctx, ctx) {
		return sc
	}
	sc.Close()
	return nil
}

// unseen is for how long after its release try does not look at a connection: the look
// costs more than all the rest, and the server may always die just after it.
const unseen = time.Millisecond

// tryFor lends what take returns, which may be of use only after a look.
func (p *pools) tryFor(b cluster.Backend, c *client, take func(*group) *link) (*serverConn, *look) {
	for {
		p.mu.Lock()
		bp := p.current(b)
		if bp == nil {
			p.mu.Unlock()
			return nil, nil
		}
		// While somebody waits who could use it no connection is idle.
		g := bp.groups[groupOf(c)]
		if g == nil {
			p.mu.Unlock()
			return nil, nil
		}
		l := take(g)
		if l == nil {
			p.mu.Unlock()
			return nil, nil
		}
		doubt, idleSince := bp.doubts(l), l.idleSince
		sc := bp.loan(l, false)
		g.client = c
		p.mu.Unlock()
		if time.Since(idleSince) < unseen || l.quiet() {
			return sc, doubt
		}
		sc.broke()
		sc.Close()
		p.poke(b.Name)
	}
}

// dial uses the right to open a connection, and gives it back on failure.
func (p *pools) dial(ctx context.Context, g grant, c *client) (*link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.gone, func() { cancel(context.Cause(g.gone)) })()
	l, err := p.login(ctx, g.backend, g.tenure, c)
	if err == nil {
		if l.tenure = g.tenure; c.loop != nil {
			if err = l.watch(c.loop); err != nil {
				_ = l.Close()
			}
		}
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		suspect := isTransient(err) && !errors.Is(err, errBackendGone)
		p.locked(func() []*link {
			bp := g.pool
			bp.opening--
			bp.leavePlace(bp.group(groupOf(c)))
			if suspect && bp.primary && bp.gen == g.gen {
				bp.setBack()
			}
			return bp.dispatch()
		})
		if suspect {
			p.poke(g.backend.Name)
		}
		return nil, err
	}
	l.id = p.lastID.Add(1)
	l.key, l.gen = c.poolKey(), g.gen
	l.created, l.jitter = time.Now(), rand.Float64()/10
	if l.check == nil {
		l.check = quietCheck(l.Conn, l.raw)
	}
	p.locked(func() []*link {
		g.pool.opening--
		g.pool.recover()
		if l.key != "" {
			g.pool.greet(l)
		}
		l.group = g.pool.group(groupOf(c))
		l.state = linkLent
		g.pool.links[l] = struct{}{}
		return g.pool.dispatch()
	})
	return l, nil
}

// lend enters a loan into the books, unless its generation has ended.
func (p *pools) lend(bp *backendPool, l *link, fresh bool) *serverConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.gen != bp.gen || p.mu.shutdown {
		return nil
	}
	return bp.loan(l, fresh)
}

// loan lends a link that is not idle any more.
func (bp *backendPool) loan(l *link, fresh bool) *serverConn {
	l.uses++
	l.state = linkLent
	if bp.short(l.group) {
		bp.pools.wakeUp()
	}
	l.loan = &l.sole
	l.sole.begin(l, bp, fresh)
	return l.loan
}

// closed takes a loan that was closed out of the books.
func (bp *backendPool) closed(sc *serverConn) {
	bp.pools.locked(func() []*link {
		bp.drop(sc.link)
		return bp.dispatch()
	})
}

// discard closes a link that is neither lent nor idle.
func (p *pools) discard(bp *backendPool, l *link) {
	p.locked(func() []*link {
		bp.drop(l)
		return append(bp.dispatch(), l)
	})
}

// drop takes a link that is to be closed, or was, out of the books.
func (bp *backendPool) drop(l *link) {
	l.loan = nil
	delete(bp.links, l)
	bp.leavePlace(l.group)
}
