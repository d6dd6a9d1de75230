package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// resetTimeout bounds the cleaning of a server connection after its release.
const resetTimeout = 5 * time.Second

// errBackendGone tells that a backend left the cluster, went down or changed its
// role while a connection to it was awaited or opened.
var errBackendGone = errors.New("backend is not in use any more")

// poolKey tells which connections of one backend are interchangeable: database,
// user and all startup parameters, application_name too, since RESET must give
// the client's own value. It is empty for a replication connection, which nobody
// gets a second time.
type poolKey string

func keyOf(c *client) poolKey {
	if c.replication != pgwire.ReplicationNone {
		return ""
	}
	var b strings.Builder
	b.WriteString(c.database)
	b.WriteByte(0)
	b.WriteString(c.user)
	for _, p := range c.params {
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
	cfg     PoolConfig
	cluster Cluster
	lease   Lease
	log     *slog.Logger
	login   func(ctx context.Context, b cluster.Backend, t *tenure, c *client) (*link, error)
	poke    func(backend string)
	waited  func(time.Duration) // observes how long acquire waited
	nudge   func()              // barred has changed
	barred  atomic.Uint64       // ID of the last operation for which everything to the old primary is closed

	lastID atomic.Uint64
	resets sync.WaitGroup

	mu struct {
		sync.Mutex
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

	open    int // idle, lent, being opened, being cleaned
	idle    map[poolKey][]*link
	lent    map[*serverConn]struct{}
	waiting *list.List // of *waiter, in order of arrival
}

// waiter is one acquire that waits. Invariant: while there is one, no idle
// connection and no free slot could serve the first.
type waiter struct {
	key   poolKey
	grant chan grant // of capacity 1
}

// grant is an idle connection, the right to open one, or the reason why neither
// will come.
type grant struct {
	link   *link
	gen    uint64
	gone   context.Context
	tenure *tenure // of a new connection to the primary; nil: to a standby
	err    error
}

func newPools(cfg PoolConfig, c Cluster, log *slog.Logger) *pools {
	p := &pools{
		cfg: cfg, cluster: c, lease: newAlways(), log: log,
		poke: func(string) {}, waited: func(time.Duration) {}, nudge: func() {},
	}
	p.mu.byName = make(map[string]*backendPool)
	return p
}

// acquire returns a connection for the client on that backend: an idle one of the
// same key, else a new one, for which it waits in the order of arrival while the
// backend has as many as it may. The backend must have the role in the cluster that it
// has in b. The error is a *Refusal, a *ServerError to be
// forwarded, errBackendGone, ctx's, or one of the network.
func (p *pools) acquire(ctx context.Context, b cluster.Backend, c *client) (*serverConn, error) {
	key := keyOf(c)
	for {
		bp, g, err := p.reserve(ctx, b, key, c)
		if err != nil {
			return nil, err
		}
		l := g.link
		fresh := l == nil
		switch {
		case fresh:
			if l, err = p.dial(ctx, bp, b, g, c); err != nil {
				return nil, err
			}
		case !quietConn(l.Conn, l.raw):
			// The server has closed it or said something: a restart, a shutdown, a new
			// setting. None is worth a guess.
			p.discard(bp, l)
			p.poke(b.Name)
			continue
		}
		sc := &serverConn{link: l, fresh: fresh, tx: pgwire.TxIdle, pool: bp}
		if err := p.lend(bp, sc); err != nil {
			return nil, err
		}
		return sc, nil
	}
}

// dial uses the right to open a connection, and gives it back on failure.
func (p *pools) dial(ctx context.Context, bp *backendPool, b cluster.Backend, g grant, c *client) (*link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.gone, func() { cancel(context.Cause(g.gone)) })()
	l, err := p.login(ctx, b, g.tenure, c)
	if err != nil {
		p.locked(func() []*link {
			bp.open--
			return bp.dispatch()
		})
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if _, ok := errors.AsType[*net.OpError](err); ok {
			p.poke(b.Name)
		}
		return nil, err
	}
	l.id = p.lastID.Add(1)
	l.key, l.gen, l.tenure = keyOf(c), g.gen, g.tenure
	l.created = time.Now()
	return l, nil
}

// reserve waits for an idle connection or the right to open one.
func (p *pools) reserve(ctx context.Context, b cluster.Backend, key poolKey, c *client) (*backendPool, grant, error) {
	began := time.Now()
	w := &waiter{key: key, grant: make(chan grant, 1)}
	var bp *backendPool
	var at *list.Element
	var refused error
	p.locked(func() []*link {
		out := p.follow()
		if bp, refused = p.enter(b); refused != nil {
			return out
		}
		at = bp.waiting.PushBack(w)
		return append(out, bp.dispatch()...)
	})
	if refused != nil {
		return nil, grant{}, fmt.Errorf("connect to backend %q: %w", b.Name, refused)
	}
	var g grant
	select {
	case g = <-w.grant: // most often at once, without a timer
	default:
		timer := time.NewTimer(p.cfg.Wait)
		defer timer.Stop()
		select {
		case g = <-w.grant:
		case <-timer.C:
			g = p.leave(bp, at, &Refusal{Code: codeTooManyConnections, Message: fmt.Sprintf(
				"pgproxy: no server connection to %q for database %q, user %q within %v",
				b.Name, c.database, c.user, p.cfg.Wait)})
		case <-ctx.Done():
			g = p.leave(bp, at, context.Cause(ctx))
		}
	}
	p.waited(time.Since(began))
	if g.err != nil {
		return nil, grant{}, g.err
	}
	return bp, g, nil
}

// leave takes a waiter out of the line because of err, unless it has just been
// served.
func (p *pools) leave(bp *backendPool, at *list.Element, err error) grant {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case g := <-at.Value.(*waiter).grant:
		return g
	default:
		bp.waiting.Remove(at)
		return grant{err: err}
	}
}

// lend enters a loan into the books, unless its generation has ended.
func (p *pools) lend(bp *backendPool, sc *serverConn) error {
	p.mu.Lock()
	if sc.gen == bp.gen && !p.mu.shutdown {
		sc.uses++
		bp.lent[sc] = struct{}{}
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	p.discard(bp, sc.link)
	return fmt.Errorf("connect to backend %q: %w", sc.backend, errBackendGone)
}

// closed takes a loan that was closed out of the books.
func (bp *backendPool) closed(sc *serverConn) {
	bp.pools.locked(func() []*link {
		delete(bp.lent, sc)
		bp.open--
		return bp.dispatch()
	})
}

// discard closes a link that is neither lent nor idle.
func (p *pools) discard(bp *backendPool, l *link) {
	p.locked(func() []*link {
		bp.open--
		return append(bp.dispatch(), l)
	})
}

// release ends a loan whose server waits for a query. leftClean: the session
// changed nothing that outlives it; otherwise the connection is cleaned in the
// background before anybody else gets it.
func (p *pools) release(sc *serverConn, leftClean bool) {
	quiet, ok := sc.end()
	if !ok {
		return
	}
	bp := sc.pool
	p.mu.Lock()
	delete(bp.lent, sc)
	keep := sc.gen == bp.gen && !p.mu.shutdown && sc.key != ""
	if keep && (!leftClean || quiet != nil || sc.tx != pgwire.TxIdle || len(sc.changed) > 0) {
		p.resets.Add(1) // under the lock, so that shutdown waits for it
		p.mu.Unlock()
		go p.clean(bp, sc.link, sc.tx, quiet)
		return
	}
	p.mu.Unlock()
	if !keep {
		p.discard(bp, sc.link)
		return
	}
	p.store(bp, sc.link)
}

// clean resets a link and puts it among the idle ones, or closes it.
func (p *pools) clean(bp *backendPool, l *link, tx byte, quiet <-chan struct{}) {
	defer p.resets.Done()
	if quiet != nil {
		// A cancel that arrives late must not hit the next holder. The server has sent
		// the signal before it closes the cancel's connection, and the DISCARD ALL that
		// follows takes it.
		<-quiet
	}
	if err := reset(l, tx); err != nil {
		p.log.Debug("server connection not reused", "backend", l.backend, "error", err)
		p.discard(bp, l)
		return
	}
	p.store(bp, l)
}

// store puts a clean link among the idle ones, or closes it when there are enough.
func (p *pools) store(bp *backendPool, l *link) {
	_ = l.SetDeadline(time.Time{}) // fails only on a closed one, which quietConn finds
	p.locked(func() []*link {
		if l.gen != bp.gen || p.mu.shutdown {
			bp.open--
			return append(bp.dispatch(), l)
		}
		l.idleSince = time.Now()
		bp.idle[l.key] = append(bp.idle[l.key], l)
		out := bp.dispatch()
		if idle := bp.idle[l.key]; len(idle) > p.cfg.Size {
			out = append(out, idle[0])
			bp.setIdle(l.key, idle[1:])
			bp.open--
		}
		return out
	})
}

// dispatch serves waiters in order for as long as one can be served, and returns
// idle links that had to make room.
func (bp *backendPool) dispatch() (out []*link) {
	for at := bp.waiting.Front(); at != nil; at = bp.waiting.Front() {
		w := at.Value.(*waiter)
		g := grant{gen: bp.gen, gone: bp.gone}
		if bp.primary {
			g.tenure = bp.pools.mu.tenure // not nil: enter has seen to it, and its end clears waiting
		}
		limit := bp.backend.MaxConnections
		switch idle := bp.idle[w.key]; {
		case len(idle) > 0:
			g.link = idle[len(idle)-1] // the one used last: the others may expire
			bp.setIdle(w.key, idle[:len(idle)-1])
		case limit == 0 || bp.open < limit:
			bp.open++
		default:
			oldest := bp.takeOldest()
			if oldest == nil {
				return out
			}
			out = append(out, oldest)
			bp.open--
			continue
		}
		bp.waiting.Remove(at)
		w.grant <- g
	}
	return out
}

func (bp *backendPool) setIdle(key poolKey, idle []*link) {
	if len(idle) == 0 {
		delete(bp.idle, key)
		return
	}
	bp.idle[key] = idle
}

// takeOldest takes out the link that has been idle longest. It walks over the
// keys, of which there are as many as users and databases in use.
func (bp *backendPool) takeOldest() *link {
	var oldest *link
	for _, idle := range bp.idle {
		if oldest == nil || idle[0].idleSince.Before(oldest.idleSince) {
			oldest = idle[0]
		}
	}
	if oldest != nil {
		bp.setIdle(oldest.key, bp.idle[oldest.key][1:])
	}
	return oldest
}

// expire takes out what has been idle for too long.
func (p *pools) expire() (out []*link) {
	limit := time.Now().Add(-p.cfg.Idle)
	for _, bp := range p.mu.byName {
		for key, idle := range bp.idle {
			n := 0
			for n < len(idle) && idle[n].idleSince.Before(limit) {
				n++
			}
			out = append(out, idle[:n]...)
			bp.open -= n
			bp.setIdle(key, idle[n:])
		}
	}
	return out
}

// reset brings a link whose server waits for a query back to the state after its
// login. What DISCARD ALL does not undo is the business of whoever released it.
func reset(l *link, tx byte) error {
	if err := l.SetDeadline(time.Now().Add(resetTimeout)); err != nil {
		return err
	}
	var out []byte
	answers := 1
	if tx != pgwire.TxIdle {
		// Not always: outside a transaction it would write a warning to the server's log.
		out = pgwire.AppendQuery(out, "ROLLBACK")
		answers++
	}
	if _, err := l.Write(pgwire.AppendQuery(out, "DISCARD ALL")); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	var buf []byte
	for answers > 0 {
		typ, body, err := readMessage(l, &buf, maxLoginMessage)
		if err != nil {
			return fmt.Errorf("reset: %w", err)
		}
		switch typ {
		case pgwire.ErrorResponse:
			return fmt.Errorf("reset: server says %s", pgwire.ErrorField(body, 'M'))
		case pgwire.ParameterStatus:
			if name, value, ok := pgwire.ReadParameterStatus(body); ok {
				l.noteParameter(string(name), string(value))
			}
		case pgwire.ReadyForQuery:
			if answers--; answers == 0 && (len(body) != 1 || body[0] != pgwire.TxIdle) {
				return errors.New("reset: server is still in a transaction")
			}
		}
	}
	if len(l.changed) > 0 {
		return errors.New("reset: a reported setting differs from the one at login")
	}
	return nil
}

// poolConn describes one server connection for SHOW and the metrics.
type poolConn struct {
	id                      uint64
	backend, database, user string
	pid                     uint32
	created                 time.Time
	idleSince               time.Time // zero: never idle yet; of the last time when lent
	uses                    uint64
	lent                    bool
}

// list describes all connections that are lent or idle.
func (p *pools) list() (conns []poolConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add := func(l *link, lent bool) {
		conns = append(conns, poolConn{
			id: l.id, backend: l.backend, database: l.database, user: l.user,
			pid: l.pid, created: l.created, idleSince: l.idleSince, uses: l.uses, lent: lent,
		})
	}
	for _, bp := range p.mu.byName {
		for sc := range bp.lent {
			add(sc.link, true)
		}
		for _, idle := range bp.idle {
			for _, l := range idle {
				add(l, false)
			}
		}
	}
	return conns
}
