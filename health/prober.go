package health

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// pokeGap is the least time between two probes of a backend, however often it is
// poked.
const pokeGap = 50 * time.Millisecond

// errSkipped marks a probe that could not be tried for a reason on our side.
var errSkipped = errors.New("probe not possible")

// prober probes one backend. Its goroutine owns the fields below post.
type prober struct {
	target Target
	cfg    Config
	conn   ConnConfig
	log    *slog.Logger
	post   func(sight)

	poke  chan struct{} // capacity 1: probe now
	stats atomic.Pointer[Stats]

	sight   sight
	started time.Time // of the last probe
	trouble trouble
}

func newProber(t Target, cfg Config, conn ConnConfig, log *slog.Logger, post func(sight)) *prober {
	p := &prober{target: t, cfg: cfg, conn: conn, log: log.With("backend", t.Name), post: post, poke: make(chan struct{}, 1)}
	p.stats.Store(&Stats{})
	p.sight.obs = cluster.Observation{Backend: t.Name, Address: t.Address}
	return p
}

// run checks the backend every interval, and when it is poked, until ctx ends.
func (p *prober) run(ctx context.Context) {
	for ctx.Err() == nil {
		p.check(ctx)
		p.wait(ctx, p.cfg.Interval)
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
		if p.sight.obs.Alive || p.sight.obs.Failures > p.cfg.Retries {
			break
		}
		retries++
		p.wait(ctx, p.cfg.Interval/5)
	}
	s := p.stats.Load().checked(p.sight.obs.At, time.Since(start), retries, p.sight.obs.Alive)
	p.stats.Store(&s)
}

// probe asks once and posts what it saw.
func (p *prober) probe(ctx context.Context) error {
	p.started = time.Now()
	f, err := p.ask(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping: says nothing about the backend
	}
	now := time.Now()
	o := cluster.Observation{
		Backend: p.target.Name, Address: p.target.Address,
		At: now, ProbeDuration: now.Sub(p.started), Err: err,
	}
	switch {
	case err == nil:
		o.Alive, o.Ready = true, true
		o.Role, o.SystemID, o.Timeline = f.role, f.systemID, f.timeline
		o.Version, o.PostmasterAt = f.version, f.startedAt
		if f.role == cluster.RolePrimary {
			o.LSN, o.ReplayLSN = f.insert, f.insert
		} else {
			o.LSN, o.ReplayLSN = max(f.received, f.replayed), f.replayed
		}
		p.sight.facts = f
	case errors.Is(err, errSkipped):
		o.Alive, o.Failures = p.sight.obs.Alive, p.sight.obs.Failures
	case answered(err):
		o.Alive = true
	default:
		o.Failures = p.sight.obs.Failures + 1
	}
	p.sight.obs = o
	p.trouble.report(p.log, now, err)
	p.post(p.sight)
	return err
}

// ask opens a connection, asks and closes it, all within the timeout.
func (p *prober) ask(ctx context.Context) (*facts, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	conn, err := connect(ctx, p.conn, p.target.Name)
	if err != nil {
		return nil, err
	}
	defer disconnect(conn)
	return askFacts(ctx, conn, p.sight.facts)
}

// answered tells whether err came from a PostgreSQL server: an ErrorResponse
// (57P03 starting up, 53300 too many connections, 28P01 ...), or a certificate
// that we do not accept. Such a server is alive, though of no use.
func answered(err error) bool {
	var pgErr *pgconn.PgError
	var certErr *tls.CertificateVerificationError
	return errors.As(err, &pgErr) || errors.As(err, &certErr)
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
