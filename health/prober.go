package health

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// pokeGap is the least time between two probes of a backend, however often it is
// poked.
const pokeGap = 50 * time.Millisecond

// errSkipped marks a probe that could not be tried for a reason on our side.
var errSkipped = errors.New("probe not possible")

// maxAsks bounds the probes of one backend that are under way at once. The second
// is there for who wants a fresh look while the first waits for a server that hangs.
const maxAsks = 2

// prober probes one backend. Its goroutine owns the fields below outcomes.
type prober struct {
	target Target
	cfg    *atomic.Pointer[Config]
	conn   ConnConfig
	log    *slog.Logger
	post   func(*prober, sight)

	poke  chan struct{} // capacity 1: probe now
	stats atomic.Pointer[Stats]
	ended chan struct{} // closed when run has returned

	mu struct {
		sync.Mutex
		posted chan struct{} // closed when a probe that has not been sent yet is posted; nil: nobody waits
	}

	outcomes chan outcome // of the probes under way
	sight    sight
	started  time.Time // of the last probe
	answered time.Time // start of the probe that was posted last
	trouble  trouble
}

// outcome is how a probe ended.
type outcome struct {
	facts         *facts
	err           error
	started, done time.Time
	posted        chan struct{} // to be closed; nil: nobody waits
}

func newProber(t Target, cfg *atomic.Pointer[Config], conn ConnConfig, log *slog.Logger, post func(*prober, sight)) *prober {
	p := &prober{
		target: t, cfg: cfg, conn: conn, log: log.With("backend", t.Name), post: post,
		poke: make(chan struct{}, 1), ended: make(chan struct{}), outcomes: make(chan outcome, maxAsks),
	}
	p.stats.Store(&Stats{})
	p.sight.obs = cluster.Observation{Backend: t.Name, Address: t.Address}
	return p
}

// next returns a channel that is closed when a probe has been posted that is sent
// after this call.
func (p *prober) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.posted == nil {
		p.mu.posted = make(chan struct{})
	}
	return p.mu.posted
}

// run checks the backend every interval, and when it is poked, until ctx ends.
func (p *prober) run(ctx context.Context) {
	defer close(p.ended)
	for ctx.Err() == nil {
		p.check(ctx)
		p.wait(ctx, p.cfg.Load().Interval)
	}
}

// wait returns after that time since the last probe started, or when poked, but
// not before pokeGap.
func (p *prober) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(time.Until(p.started.Add(d)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return
	case <-t.C:
		return
	case <-p.poke:
	}
	t.Reset(time.Until(p.started.Add(min(d, pokeGap))))
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// check is one health check: a probe and, when it found a backend dead that was
// not, its retries. They follow sooner than an interval, for all that waits for
// the verdict.
func (p *prober) check(ctx context.Context) {
	start := time.Now()
	retries := 0
	for {
		err := p.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errSkipped) {
			s := p.stats.Load().skipped(p.sight.obs.At)
			p.stats.Store(&s)
			return
		}
		if p.sight.obs.Alive || p.sight.obs.Failures > p.cfg.Load().Retries {
			break
		}
		retries++
		p.wait(ctx, p.cfg.Load().Interval/5)
	}
	s := p.stats.Load().checked(p.sight.obs.At, time.Since(start), retries, p.sight.obs.Alive)
	p.stats.Store(&s)
}

// probe asks, once more when it is poked meanwhile, and posts what it saw. The
// error is that of the last answer.
func (p *prober) probe(ctx context.Context) error {
	p.send(ctx)
	gap := time.NewTimer(pokeGap)
	defer gap.Stop()
	var err error
	rested := false // pokeGap is over
	for underWay := 1; underWay > 0; {
		var poke <-chan struct{}
		if rested && underWay < maxAsks {
			poke = p.poke
		}
		select {
		case a := <-p.outcomes:
			underWay--
			err = p.take(ctx, a)
		case <-gap.C:
			rested = true
		case <-poke:
			p.send(ctx)
			underWay++
			rested = false
			gap.Reset(pokeGap)
		}
	}
	return err
}

// send begins a probe, whose answer comes to p.outcomes.
func (p *prober) send(ctx context.Context) {
	p.mu.Lock()
	posted := p.mu.posted
	p.mu.posted = nil
	p.mu.Unlock()
	started, last := time.Now(), p.sight.facts
	p.started = started
	go func() {
		f, err := p.ask(ctx, last)
		p.outcomes <- outcome{facts: f, err: err, started: started, done: time.Now(), posted: posted}
	}()
}

// take posts an answer, unless that of a probe that was sent later is there.
func (p *prober) take(ctx context.Context, a outcome) error {
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping: says nothing about the backend
	}
	if a.posted != nil {
		defer close(a.posted) // by then its answer is posted, or a later one is already
	}
	if a.started.Before(p.answered) {
		return a.err
	}
	p.answered = a.started
	p.sight.obs = p.observation(a)
	p.sight.seen = p.sight.seen || p.sight.obs.Alive
	if a.err == nil {
		p.sight.facts = a.facts
	}
	p.trouble.report(p.log, a.done, a.err)
	p.post(p, p.sight)
	return a.err
}

func (p *prober) observation(a outcome) cluster.Observation {
	o := cluster.Observation{
		Backend: p.target.Name, Address: p.target.Address,
		At: a.done, ProbeDuration: a.done.Sub(a.started), Err: a.err,
	}
	switch f := a.facts; {
	case a.err == nil:
		o.Alive, o.Ready = true, true
		o.Role, o.SystemID, o.Timeline = f.role, f.systemID, f.timeline
		o.Version, o.PostmasterAt = f.version, f.startedAt
		o.SyncNames, o.Streaming = f.syncNames, f.streaming
		if f.role == cluster.RolePrimary {
			o.LSN, o.ReplayLSN = f.insert, f.insert
		} else {
			o.LSN, o.ReplayLSN = max(f.received, f.replayed), f.replayed
		}
	case errors.Is(a.err, errSkipped):
		o.Alive, o.Failures = p.sight.obs.Alive, p.sight.obs.Failures
	case answered(a.err):
		o.Alive = true
	default:
		o.Failures, o.Refused = p.sight.obs.Failures+1, refused(a.err)
	}
	return o
}

// ask opens a connection, asks and closes it, all within the timeout. last is what
// the backend said last, nil nothing.
func (p *prober) ask(ctx context.Context, last *facts) (*facts, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Load().Timeout)
	defer cancel()
	conn, err := connect(ctx, p.conn, p.target.Name)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	return askFacts(ctx, conn, last)
}

// answered tells whether err came from a PostgreSQL server: an ErrorResponse
// (57P03 starting up, 53300 too many connections, 28P01 ...), or a certificate
// that we do not accept. Such a server is alive, though of no use.
func answered(err error) bool {
	var pgErr *pgconn.PgError
	var certErr *tls.CertificateVerificationError
	return errors.As(err, &pgErr) || errors.As(err, &certErr)
}

// refused tells whether the host answered that nobody listens: a reset of the
// connection attempt, or no socket in the directory of a server on this host.
func refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return errors.Is(err, syscall.ECONNREFUSED) || ok && op.Op == "dial" && op.Net == "unix" && errors.Is(err, syscall.ENOENT)
}

// trouble logs a state that lasts once, and then each minute with a count.
type trouble struct {
	text   string
	count  int
	logged time.Time
}

func (t *trouble) report(log *slog.Logger, now time.Time, err error) {
	switch {
	case err == nil && t.text != "":
		log.Info("backend answers", "after_failures", t.count)
		*t = trouble{}
	case err == nil:
	case t.text == "" || now.Sub(t.logged) >= time.Minute:
		t.text, t.logged = err.Error(), now
		t.count++
		log.Warn("backend is not ready", "err", err, "probes", t.count)
	default:
		t.count++
	}
}
