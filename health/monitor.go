package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Target is a backend to watch.
type Target struct {
	Name, Address string
}

// ConnConfig returns how the role of the probes connects to a backend: address,
// user, password, database and TLS. It is called for each connection, so that a
// changed password counts from the next probe on, by several goroutines at once.
type ConnConfig func(backend string) (*pgconn.Config, error)

// PrimaryFunc returns the backend that the cluster calls its primary and its
// timeline; "" and the last timeline when there is none. It must not block.
type PrimaryFunc func() (backend string, timeline uint32)

// Monitor watches all backends.
type Monitor struct {
	cfg     atomic.Pointer[Config]
	watched atomic.Pointer[watched]
	conn    ConnConfig
	primary PrimaryFunc
	sampler *Sampler
	metrics *metrics
	log     *slog.Logger

	observations atomic.Pointer[map[string]cluster.Observation]

	mu struct {
		sync.Mutex
		sights  []sight        // in the order of the configuration
		index   map[string]int // of a backend in sights
		ref     reference
		changed chan struct{} // closed and replaced when observations is
	}
}

// watched is the backends that are watched. It is immutable.
type watched struct {
	probers  map[string]*prober
	replaced chan struct{} // closed when other ones are
}

// New returns a Monitor of these backends, whose metrics are in reg.
func New(cfg Config, backends []Target, conn ConnConfig, primary PrimaryFunc, log *slog.Logger, reg prometheus.Registerer) (*Monitor, error) {
	metrics, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	m := &Monitor{conn: conn, primary: primary, metrics: metrics, log: log}
	m.mu.changed = make(chan struct{})
	m.observations.Store(&map[string]cluster.Observation{})
	m.watched.Store(&watched{replaced: make(chan struct{})})
	m.sampler = newSampler(cfg.Timeout, nil, conn, primary, m.Poke)
	if err := m.Configure(cfg, backends); err != nil {
		return nil, err
	}
	return m, nil
}

// Configure has other backends watched, or the same in another way. What is known of a
// backend that stays at its address is kept. It is called by one goroutine at a time.
func (m *Monitor) Configure(cfg Config, backends []Target) error {
	old, next := m.watched.Load(), &watched{probers: make(map[string]*prober, len(backends)), replaced: make(chan struct{})}
	for _, t := range backends {
		if next.probers[t.Name] != nil {
			return fmt.Errorf("configure health: two backends %q", t.Name)
		}
		p := old.probers[t.Name]
		if p == nil || p.target != t {
			p = newProber(t, &m.cfg, m.conn, m.log, m.post)
		}
		next.probers[t.Name] = p
	}
	m.cfg.Store(&cfg)
	m.mu.Lock()
	sights, index := make([]sight, len(backends)), make(map[string]int, len(backends))
	for i, t := range backends {
		sights[i].obs = cluster.Observation{Backend: t.Name, Address: t.Address}
		if before, ok := m.mu.index[t.Name]; ok && next.probers[t.Name] == old.probers[t.Name] {
			sights[i] = m.mu.sights[before]
		}
		index[t.Name] = i
	}
	m.mu.sights, m.mu.index = sights, index
	now := derive(sights, m.mu.ref)
	for name := range *m.observations.Swap(&now) {
		if _, still := now[name]; !still {
			m.metrics.forget(name)
		}
	}
	m.watched.Store(next)
	changed := m.mu.changed
	m.mu.changed = make(chan struct{})
	m.mu.Unlock()
	close(changed)
	close(old.replaced)
	m.sampler.configure(cfg.Timeout, backends)
	for name, p := range next.probers {
		if p == old.probers[name] {
			m.Poke(name) // the interval may be another one
		}
	}
	return nil
}

// Run probes and samples until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { m.sampler.run(ctx) })
	running := make(map[*prober]context.CancelFunc)
	for {
		w := m.watched.Load()
		for p, stop := range running {
			if w.probers[p.target.Name] != p {
				stop()
				delete(running, p)
			}
		}
		for _, p := range w.probers {
			if running[p] == nil {
				ctx, stop := context.WithCancel(ctx)
				running[p] = stop
				all.Go(func() { p.run(ctx) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return nil
		case <-w.replaced:
		}
	}
}

// Observations returns what was last seen of each backend that was probed. The
// map is shared: nobody may write to it.
func (m *Monitor) Observations() map[string]cluster.Observation { return *m.observations.Load() }

// Changed returns a channel that is closed when newer Observations are there.
// Who takes the channel first and the Observations afterwards misses none.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.changed
}

// Poke has a backend probed at once: a connection to it broke. It never blocks;
// while a probe is under way one more is sent, for that one may have been sent
// before.
func (m *Monitor) Poke(backend string) {
	if p := m.watched.Load().probers[backend]; p != nil {
		select {
		case p.poke <- struct{}{}:
		default:
		}
	}
}

// Probe looks at a backend afresh: it returns what was seen by a probe that was
// sent after the call, or a later one. Calls made at the same time share it. The
// error is ctx's, or says that there is no such backend or that the Monitor has
// stopped.
func (m *Monitor) Probe(ctx context.Context, backend string) (cluster.Observation, error) {
	p := m.watched.Load().probers[backend]
	if p == nil {
		return cluster.Observation{}, fmt.Errorf("probe backend %q: no such backend", backend)
	}
	posted := p.next()
	m.Poke(backend)
	select {
	case <-posted:
		return m.Observations()[backend], nil
	case <-p.ended:
		return cluster.Observation{}, fmt.Errorf("probe backend %q: stopped", backend)
	case <-ctx.Done():
		return cluster.Observation{}, fmt.Errorf("probe backend %q: %w", backend, ctx.Err())
	}
}

// Sights returns the Observations as this member reports them to the leader, in
// the order of the configuration: without those that could not be made for a
// reason of our own.
func (m *Monitor) Sights() []cluster.Sight {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	observations := m.Observations()
	var sights []cluster.Sight
	for _, s := range m.mu.sights {
		o, ok := observations[s.obs.Backend]
		if !ok || errors.Is(o.Err, errSkipped) {
			continue
		}
		r := cluster.Sight{
			Backend: o.Backend, Address: o.Address, Age: now.Sub(o.At), Took: o.ProbeDuration,
			Seen: s.seen, Alive: o.Alive, Ready: o.Ready, Refused: o.Refused, Failures: o.Failures,
			Role: o.Role, SystemID: o.SystemID, Timeline: o.Timeline, LSN: o.LSN, LagBytes: o.LagBytes,
			PostmasterAt: o.PostmasterAt, Streaming: o.Streaming || o.ReplicaState == "streaming",
			SyncState: o.SyncState, SyncNames: o.SyncNames,
		}
		if o.Err != nil {
			r.Error = o.Err.Error()
		}
		sights = append(sights, r)
	}
	return sights
}

// Stats returns the counts of a backend's health checks.
func (m *Monitor) Stats(backend string) Stats {
	if p := m.watched.Load().probers[backend]; p != nil {
		return *p.stats.Load()
	}
	return Stats{}
}

// Sampler returns the sampler of log positions, which lives as long as Run.
func (m *Monitor) Sampler() *Sampler { return m.sampler }

// post takes what a prober saw and publishes what all of them say together.
func (m *Monitor) post(p *prober, s sight) {
	primary, _ := m.primary()
	m.mu.Lock()
	if m.watched.Load().probers[s.obs.Backend] != p {
		m.mu.Unlock()
		return // it is not watched any more
	}
	i := m.mu.index[s.obs.Backend]
	before := m.mu.sights[i]
	m.mu.sights[i] = s
	if s.obs.Backend == primary && s.obs.Ready && s.obs.Role == cluster.RolePrimary {
		m.mu.ref = m.mu.ref.observe(s)
	}
	now := derive(m.mu.sights, m.mu.ref)
	old := *m.observations.Swap(&now)
	changed := m.mu.changed
	m.mu.changed = make(chan struct{})
	m.metrics.observe(now)
	m.mu.Unlock()
	close(changed)

	if !s.obs.Ready || restarted(before.facts, s.facts) {
		m.sampler.forget(s.obs.Backend)
	}
	for name, o := range now {
		if was := old[name].Incompatible; o.Incompatible != was && o.Incompatible != "" {
			m.log.Warn("standby gets no reads: its answers could differ", "backend", name, "why", o.Incompatible)
		} else if o.Incompatible != was && o.Ready {
			m.log.Info("standby may answer reads again", "backend", name)
		}
	}
}

// restarted tells whether a server was started again between two answers.
func restarted(a, b *facts) bool {
	return a != nil && b != nil && !a.startedAt.Equal(b.startedAt)
}
