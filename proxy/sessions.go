package proxy

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// Sampler gives log positions for read-your-writes (package health).
type Sampler interface {
	Samples() *cluster.Samples
	Mark() uint64
	Request()
	Changed() <-chan struct{} // closed when Samples is newer
}

// sessions is what all sessions share.
type sessions struct {
	cfg        atomic.Pointer[Config] // in force; see Server.Reload
	cluster    Cluster
	observed   func() map[string]cluster.Observation
	seen       func() <-chan struct{} // closed when observed is about to return newer ones; nil: never
	poke       func(backend string)
	goesOn     func(ctx context.Context, backend string, began uint64) bool
	sampler    Sampler
	pools      *pools
	loops      []*eventLoop  // none: goroutines serve everybody
	ended      func(*client) // a session has ended that went on by itself
	cancels    *cancelRegistry
	statements *session.Statements // nil: a session keeps its server connections
	classifier atomic.Pointer[lb.Classifier]
	redirects  atomic.Pointer[lb.Redirects]
	catalogs   *catalogs
	floors     *floors
	drains     *drains
	metrics    *metrics
	reporter   *reporter
	log        *slog.Logger

	lastID   atomic.Uint64
	routing  atomic.Pointer[routing]
	settling atomic.Pointer[settling]
	paused   atomic.Bool            // every session has been told of the pause
	limits   atomic.Pointer[limits] // see setLimits
	relimit  chan struct{}          // of capacity 1: limits has changed
	reroute  chan struct{}          // of capacity 1: cfg has changed
	census   *census
	draining atomic.Pointer[[]byte] // what idle sessions are told when all are to end

	buffers      buffers    // of readers that block
	wheel        lb.Wheel   // over all servers, for the first choice of a session
	standbyWheel lb.Wheel   // over the standbys
	starting     func() int // connections that have not authenticated yet

	mu struct {
		sync.Mutex
		byID map[uint64]*clientSession
	}
}

// newSessions makes what sessions share; none of it does anything before run.
func newSessions(cfg Config, deps Deps, p *pools, c *cancelRegistry, l *lookups, starting func() int) (*sessions, error) {
	sh := &sessions{
		cluster: deps.Cluster, observed: deps.Observations, seen: deps.ObservationsChanged, poke: deps.Poke, goesOn: deps.GoesOn, sampler: deps.Sampler,
		pools: p, cancels: c, floors: newFloors(), drains: newDrains(p.nudge), log: deps.Logger, starting: starting,
	}
	sh.mu.byID = make(map[uint64]*clientSession)
	sh.census, sh.relimit, sh.reroute = newCensus(), make(chan struct{}, 1), make(chan struct{}, 1)
	sh.setLimits(cfg.Limits)
	sh.cfg.Store(&cfg)
	if cfg.Pool.Mode == PoolTransaction {
		sh.statements = session.NewStatements()
	}
	classifier, redirects, err := newBalancing(cfg.Balance)
	if err != nil {
		return nil, err
	}
	sh.classifier.Store(classifier)
	sh.redirects.Store(redirects)
	sh.metrics = newMetrics()
	if err := sh.metrics.register(deps.Registerer, sh); err != nil {
		return nil, err
	}
	sh.catalogs = newCatalogs(cfg.Balance, l.catalog, deps.Logger)
	sh.reporter = &reporter{sessions: sh, health: deps.HealthStats, version: deps.Version}
	p.waited = func(d time.Duration) { sh.metrics.poolWait.observe(0, d) }
	return sh, nil
}

// routing is what balancing needs of the cluster, made anew when something
// changed and not for each statement.
type routing struct {
	standbys      []lb.Candidate // those that may get reads
	all           []lb.Candidate // the same and the primary
	standbyWeight int
	primaryWeight int
	hasPrimary    bool // it may be used: without one even reads with a weight for it go to standbys
}

// upPrimary returns the primary unless it is known to be down; nil: there is none.
func upPrimary(state *cluster.State) *cluster.Backend {
	if b := state.Backend(state.Primary); b != nil && b.Status == cluster.StatusUp {
		return b
	}
	return nil
}

// run keeps the routing in step with the cluster and the catalogs with their
// databases, until ctx ends.
func (sh *sessions) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { sh.catalogs.run(ctx) })
	wg.Go(func() { sh.enforce(ctx) })
	lapse := time.NewTimer(0)
	defer lapse.Stop()
	var told held
	for {
		changed, leased := sh.cluster.Changed(), sh.pools.lease.Changed()
		var seen <-chan struct{}
		if sh.seen != nil {
			seen = sh.seen()
		}
		told = sh.yield(told)
		if remaining := sh.route(); remaining > 0 {
			lapse.Reset(remaining)
		} else {
			lapse.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-leased:
		case <-seen:
		case <-sh.reroute:
		case <-lapse.C:
		}
	}
}

// reconfigure puts another configuration in force, also for the routing.
func (sh *sessions) reconfigure(cfg *Config) {
	sh.cfg.Store(cfg)
	select {
	case sh.reroute <- struct{}{}:
	default: // it is due
	}
}

// route computes the routing and returns for how long it holds; 0: until something
// changes. That a lease has run out is for the clock to say.
func (sh *sessions) route() time.Duration {
	state := sh.cluster.State()
	r := &routing{standbys: lb.UsableStandbys(state, sh.observed(), sh.cfg.Load().Balance.MaxLag)}
	r.all = slices.Clone(r.standbys)
	var remaining time.Duration
	if b := upPrimary(state); b != nil && !state.Holds() {
		if remaining = max(time.Until(sh.pools.lease.Until(b.Name)), 0); remaining > 0 {
			r.hasPrimary, r.primaryWeight = true, b.Weight
			r.all = append(r.all, lb.Candidate{Name: b.Name, Weight: b.Weight, Primary: true, Usable: true})
		}
	}
	r.standbyWeight = lb.TotalWeight(r.standbys)
	sh.metrics.configure(state.Backends)
	sh.routing.Store(r)
	return remaining
}

// drain tells every session to end as soon as it is idle.
func (sh *sessions) drain(raw []byte) {
	sh.draining.Store(&raw)
	for _, s := range sh.all() {
		s.drain()
	}
}

// abort ends every session at once.
func (sh *sessions) abort() {
	for _, s := range sh.all() {
		s.abort()
	}
}

func (sh *sessions) add(s *clientSession) {
	s.clock.since.Store(monotonic())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.mu.byID[s.id] = s
}

func (sh *sessions) remove(s *clientSession) {
	sh.mu.Lock()
	delete(sh.mu.byID, s.id)
	sh.mu.Unlock()
	sh.drains.gone(s)
}

// all returns the sessions in the order of their start.
func (sh *sessions) all() []*clientSession {
	sh.mu.Lock()
	all := make([]*clientSession, 0, len(sh.mu.byID))
	for _, s := range sh.mu.byID {
		all = append(all, s)
	}
	sh.mu.Unlock()
	slices.SortFunc(all, func(a, b *clientSession) int { return int(int64(a.id) - int64(b.id)) })
	return all
}
