package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/configs"
	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/health"
	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/identity"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/proxy"
	"github.com/pgproxy/pgproxy/watchdog"
	"github.com/pgproxy/pgproxy/watchdog/vip"
)

// member is one running pgproxy: every part, and the wires between them.
type member struct {
	cfg     *configs.Config // that it was started with
	running atomic.Pointer[inForce]
	log     *slog.Logger
	level   *slog.LevelVar // of log
	began   time.Time

	watchdog   *watchdog.Watchdog
	monitor    *health.Monitor
	reconciler *failover.Reconciler
	data       *proxy.Server // a witness has one, too, which lends the monitor its login
	server     *proxy.Server // data; nil: a witness, which serves nobody
	agent      *agent.Agent  // nil: no server on this host
	addresses  *vip.Holder   // nil: none to hold
	operator   *pcp.Server   // nil: no interface
	status     *statusServer // nil: none
	reloader   *reloader     // nil: no file to read again

	// primary is what the State named when it was last looked at, and since when.
	primary struct {
		sync.Mutex
		name     string
		timeline uint32
		since    time.Time
	}
	leaving       atomic.Bool
	changes       event // of the State and the lease
	configured    event // of running
	reloadSuccess prometheus.Gauge
	stop          context.CancelFunc
}

// newMember constructs all parts. None of them has opened a connection or a port.
func newMember(cfg *configs.Config, log *slog.Logger, level *slog.LevelVar) (*member, error) {
	m := &member{cfg: cfg, log: log, level: level, began: time.Now(), stop: func() {}, reloadSuccess: newReloadSuccess()}
	m.running.Store(newInForce(cfg))
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(m.reloadSuccess)

	secret, err := readSecret("watchdog.secret_file", m.secretFile())
	if err != nil {
		return nil, err
	}
	id, err := m.newWatchdog(secret, registry)
	if err != nil {
		return nil, err
	}
	if m.monitor, err = m.newMonitor(cfg, registry); err != nil {
		return nil, err
	}
	if m.reconciler, err = m.newReconciler(registry); err != nil {
		return nil, err
	}
	if m.data, err = m.newServer(secret, registry); err != nil {
		return nil, err
	}
	if !cfg.Witness() {
		m.server = m.data
	}
	if err := m.newAgent(registry); err != nil {
		return nil, err
	}
	if err := m.newAddresses(registry); err != nil {
		return nil, err
	}
	if m.operator, err = m.newOperator(id, registry); err != nil {
		return nil, err
	}
	if cfg.Metrics.Listen != "" {
		m.status = newStatusServer(cfg.Metrics.Listen, registry, m.usable, pcp.StatusPage(m.operatorDeps(nil, "", registry)))
	}
	return m, nil
}

func newReloadSuccess() prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pgproxy_config_reload_success", Help: "1 when the configuration was last read without a fault.",
	})
	g.Set(1)
	return g
}

func (m *member) secretFile() string {
	if m.cfg.Watchdog == nil {
		return ""
	}
	return m.cfg.Watchdog.SecretFile
}

// readSecret returns the content of a secret file, "" where none is named.
func readSecret(key, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	secret, err := configs.ReadSecret(file)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return secret, nil
}

// newWatchdog makes the watchdog, of a lone member too, and returns the identity that
// the secret gives; nil without one.
func (m *member) newWatchdog(secret string, registry prometheus.Registerer) (*identity.Identity, error) {
	cfg := watchdog.Default()
	var id *identity.Identity
	if m.cfg.Watchdog != nil {
		cfg = *m.cfg.Watchdog
		var err error
		if id, err = identity.New([]byte(secret), m.cfg.Name); err != nil {
			return nil, fmt.Errorf("use watchdog.secret_file: %w", err)
		}
	}
	var err error
	m.watchdog, err = watchdog.New(cfg, watchdog.Deps{
		Name: m.cfg.Name, DataDir: m.cfg.DataDir, Identity: id, Witness: m.cfg.Witness(),
		Report: m.report, Probe: m.probe, Cancel: m.cancel, Logger: m.log, Registerer: registry,
	})
	return id, err
}

func (m *member) newReconciler(registry prometheus.Registerer) (*failover.Reconciler, error) {
	return failover.New(m.cfg.Failover, m.running.Load().failover(), leader{m.watchdog}, m.log, registry)
}

// newAgent makes the agent where this host has a server.
func (m *member) newAgent(registry prometheus.Registerer) error {
	if m.cfg.Agent == nil {
		return nil
	}
	password, err := readSecret("agent.replication.password_file", m.cfg.Agent.Replication.PasswordFile)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(m.cfg.Backends, func(b proxy.BackendConfig) bool { return b.Agent == m.cfg.Name })
	backend := m.cfg.Backends[i].Name // validation has seen that there is one
	m.agent, err = agent.New(*m.cfg.Agent, agent.Deps{
		Backend: backend, DataDir: m.cfg.DataDir, Password: password,
		State: m.caughtUp, Changed: m.watchdog.Changed, Held: m.watchdog.Held,
		Confirm: func(ctx context.Context, _ string) error { return m.confirm(ctx, backend) },
		Nudge:   m.watchdog.Nudge, Observations: m.monitor.Observations,
		Managed: m.cfg.Failover.Mode == failover.ModeManaged,
		Bounds:  func() agent.Bounds { return m.running.Load().agent() },
		Logger:  m.log, Registerer: registry,
	})
	return err
}

// caughtUp returns the State, and an empty one until this member has all of what its
// leader had when they met: the agent must not carry out what is long over.
func (m *member) caughtUp() *cluster.State {
	select {
	case <-m.watchdog.Ready():
		return m.watchdog.State()
	default:
		return &cluster.State{}
	}
}

func (m *member) newAddresses(registry prometheus.Registerer) error {
	if len(m.cfg.VIP) == 0 || m.cfg.Witness() {
		return nil
	}
	var err error
	m.addresses, err = vip.New(m.cfg.VIP, vip.Deps{
		Wanted: m.wanted, Changed: m.wantedChanged, Leaving: m.addressLeaves, Hardware: m.watchdog.Hardware,
		Logger: m.log, Registerer: registry,
	})
	return err
}

func (m *member) newMonitor(cfg *configs.Config, registry prometheus.Registerer) (*health.Monitor, error) {
	connect := func(backend string) (*pgconn.Config, error) {
		address, err := m.addressOf(backend)
		if err != nil {
			return nil, err
		}
		return m.data.MonitorConfig(address)
	}
	primary := func() (string, uint32) {
		s := m.watchdog.State()
		return s.Primary, s.Timeline
	}
	return health.New(cfg.Health, m.targets(m.running.Load()), connect, primary, m.log, registry)
}

func (m *member) newServer(secret string, registry prometheus.Registerer) (*proxy.Server, error) {
	cfg := m.cfg
	password, err := readSecret("monitor.password_file", cfg.Monitor.PasswordFile)
	if err != nil {
		return nil, err
	}
	return proxy.New(m.running.Load().proxy(), proxy.Deps{
		Cluster:             m.watchdog,
		Lease:               lease{m.watchdog},
		Nudge:               m.watchdog.Nudge,
		CancelElsewhere:     m.watchdog.CancelElsewhere,
		ClusterSecret:       []byte(secret),
		Observations:        m.monitor.Observations,
		ObservationsChanged: m.monitor.Changed,
		Poke:                m.monitor.Poke,
		GoesOn:              m.goesOn,
		Sampler:             m.monitor.Sampler(),
		HealthStats:         m.healthStats,
		Version:             versionText(),
		MonitorPassword:     password,
		Logger:              m.log,
		Registerer:          registry,
	})
}

// cancel is what other members ask for whose clients have sent them a cancel key of
// this one's sessions.
func (m *member) cancel(ctx context.Context, pid uint32, secret []byte) bool {
	return m.server != nil && m.server.CancelHere(ctx, pid, secret)
}

// goesOn tells whether a server that has ended a connection goes on: it takes clients,
// and is not another run of it.
func (m *member) goesOn(ctx context.Context, backend string, began uint64) bool {
	ctx, done := context.WithTimeout(ctx, 2*m.running.Load().Health.Timeout)
	defer done()
	before := m.monitor.Observations()[backend].PostmasterAt
	if began != 0 {
		before = time.UnixMicro(int64(began))
	}
	o, err := m.monitor.Probe(ctx, backend)
	return err == nil && o.Ready && o.PostmasterAt.Equal(before)
}

func (m *member) healthStats(backend string) proxy.HealthStats {
	s := m.monitor.Stats(backend)
	return proxy.HealthStats{
		Total: s.Total, Success: s.Success, Fail: s.Fail, Skip: s.Skip, Retry: s.Retry, MaxRetry: s.MaxRetry,
		AverageRetry: s.AverageRetry(),
		MaxDuration:  s.MaxDuration, MinDuration: s.MinDuration, AverageDuration: s.AverageDuration(),
		Last: s.Last, LastSuccess: s.LastSuccess, LastSkip: s.LastSkip, LastFail: s.LastFail,
	}
}

// usable reports whether clients can be served; the error says why not.
func (m *member) usable() error {
	state := m.watchdog.State()
	if state.Primary != "" {
		return nil
	}
	for _, b := range state.Backends {
		if b.Status == cluster.StatusUp && b.Role == cluster.RoleStandby {
			return nil
		}
	}
	return errors.New("no backend is up")
}

// run runs all parts until ctx ends, or an operator stops this member: first the
// addresses go elsewhere, then the clients' side stops, then leadership is handed
// over, and last goes what all of that stands on. The first part that fails takes all
// others along.
func (m *member) run(ctx context.Context, ready chan<- struct{}) error {
	ctx, m.stop = context.WithCancel(ctx)
	defer m.stop()
	under, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	parts, under := errgroup.WithContext(under)
	start := func(name string, run func(context.Context) error) {
		parts.Go(func() error {
			if err := run(under); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	holding, release := context.WithCancel(under)
	released := make(chan struct{})
	parts.Go(func() error { // first, for it takes leftover addresses away
		defer close(released)
		return m.hold(holding)
	})
	start("watchdog", m.watchdog.Run)
	start("health", m.monitor.Run)
	start("backends", m.watchTargets)
	start("failover", m.reconciler.Run)
	start("report", m.tellChanges)
	start("changes", m.joinChanges)
	if m.reloader != nil {
		start("reload", m.reloader.Run)
	}
	if m.agent != nil {
		start("agent", m.agent.Run)
	}
	if m.addresses != nil {
		start("links", m.tellLinks)
	}
	if m.operator != nil {
		start("pcp", m.operator.Run)
	}
	if m.status != nil {
		start("metrics", m.status.Run)
	}

	defer release()
	clients, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(under, cancel)()
	parts.Go(func() error {
		defer stop()
		err := m.serve(clients)
		m.handOver(under)
		return err
	})
	parts.Go(func() error {
		select {
		case <-ctx.Done():
			if m.leave(under) {
				release()
				<-released
			}
			cancel()
		case <-under.Done():
		}
		return nil
	})
	parts.Go(func() error {
		select {
		case <-m.serving():
			close(ready)
			notifyReady()
		case <-clients.Done():
		}
		return nil
	})
	return parts.Wait()
}

// hold holds the virtual addresses until ctx ends.
func (m *member) hold(ctx context.Context) error {
	if m.addresses == nil {
		return nil
	}
	if err := m.addresses.Run(ctx); err != nil {
		return fmt.Errorf("vip: %w", err)
	}
	return nil
}

// serve serves clients until ctx ends; a witness only waits.
func (m *member) serve(ctx context.Context) error {
	if m.server == nil {
		<-ctx.Done()
		return nil
	}
	known := time.NewTimer(firstState)
	defer known.Stop()
	select {
	case <-m.watchdog.Ready():
	case <-known.C: // there is no leader; who comes is held
	case <-ctx.Done():
		return nil
	}
	if err := m.server.Run(ctx); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}

// serving is closed when this member does its work.
func (m *member) serving() <-chan struct{} {
	if m.server == nil {
		return m.watchdog.Ready()
	}
	return m.server.Ready()
}

// firstState bounds how long clients are not let in because the State is not known:
// before it no server is, and they would be refused.
const firstState = 2 * time.Second
