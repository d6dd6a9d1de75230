package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/configs"
	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/health"
	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/proxy"
)

// member is one running pgproxy: every part, and the wires between them.
type member struct {
	log        *slog.Logger
	cluster    *cluster.Log
	monitor    *health.Monitor
	reconciler *failover.Reconciler
	server     *proxy.Server
	status     *statusServer // nil: none
}

// newMember constructs all parts. None of them has opened a connection or a port.
func newMember(cfg *configs.Config, log *slog.Logger) (*member, error) {
	m := &member{log: log}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	loneMemberMetrics(registry)
	var err error
	if m.cluster, err = newCluster(cfg); err != nil {
		return nil, err
	}
	if m.monitor, err = m.newMonitor(cfg, registry); err != nil {
		return nil, err
	}
	if m.reconciler, err = failover.New(cfg.Failover, cfg.Health.Retries, m.cluster, m.monitor, log, registry); err != nil {
		return nil, err
	}
	if m.server, err = m.newServer(cfg, registry); err != nil {
		return nil, err
	}
	if cfg.Metrics.Listen != "" {
		m.status = newStatusServer(cfg.Metrics.Listen, registry, m.usable)
	}
	return m, nil
}

// loneMemberMetrics are what is so while a member is alone and reads its
// configuration once: it leads itself.
func loneMemberMetrics(registry prometheus.Registerer) {
	for name, help := range map[string]string{
		"pgproxy_watchdog_leader":       "1 when this member leads.",
		"pgproxy_watchdog_quorum":       "1 when a majority of the members is connected.",
		"pgproxy_config_reload_success": "1 when the configuration was last read without a fault.",
	} {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		g.Set(1)
		registry.MustRegister(g)
	}
}

// newCluster makes the state of a lone member from the file.
func newCluster(cfg *configs.Config) (*cluster.Log, error) {
	specs := make([]cluster.Spec, len(cfg.Backends))
	for i, b := range cfg.Backends {
		specs[i] = cluster.Spec{Name: b.Name, Address: b.Address, Weight: b.Weight, Agent: b.Agent, MaxConnections: b.MaxConnections}
	}
	l := cluster.NewLog(cluster.State{})
	if _, err := l.Propose(context.Background(), cluster.Command{Kind: cluster.KindConfigure, At: time.Now(), Backends: specs}); err != nil {
		return nil, fmt.Errorf("configure cluster: %w", err)
	}
	return l, nil
}

func (m *member) newMonitor(cfg *configs.Config, registry prometheus.Registerer) (*health.Monitor, error) {
	targets := make([]health.Target, len(cfg.Backends))
	addresses := make(map[string]string, len(cfg.Backends))
	for i, b := range cfg.Backends {
		targets[i] = health.Target{Name: b.Name, Address: b.Address}
		addresses[b.Name] = b.Address
	}
	connect := func(backend string) (*pgconn.Config, error) { return m.server.MonitorConfig(addresses[backend]) }
	primary := func() (string, uint32) {
		s := m.cluster.State()
		return s.Primary, s.Timeline
	}
	return health.New(cfg.Health, targets, connect, primary, m.log, registry)
}

func (m *member) newServer(cfg *configs.Config, registry prometheus.Registerer) (*proxy.Server, error) {
	var password string
	if cfg.Monitor.PasswordFile != "" {
		var err error
		if password, err = configs.ReadSecret(cfg.Monitor.PasswordFile); err != nil {
			return nil, fmt.Errorf("read monitor.password_file: %w", err)
		}
	}
	return proxy.New(proxy.Config{
		Listen: cfg.Listen, Auth: cfg.Auth, Backends: cfg.Backends, BackendTLS: cfg.BackendTLS, Monitor: cfg.Monitor,
		Pool: cfg.Pool, Balance: cfg.Balance, Hold: cfg.Hold,
	}, proxy.Deps{
		Cluster:         m.cluster,
		Observations:    m.monitor.Observations,
		Poke:            m.monitor.Poke,
		Sampler:         m.monitor.Sampler(),
		HealthStats:     m.healthStats,
		Version:         versionText(),
		MonitorPassword: password,
		Logger:          m.log,
		Registerer:      registry,
	})
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
	state := m.cluster.State()
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

// run runs all parts until ctx ends: first the clients' side stops, then what it
// stands on. The first part that fails takes all others along.
func (m *member) run(ctx context.Context, ready chan<- struct{}) error {
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
	start("health", m.monitor.Run)
	start("failover", m.reconciler.Run)
	if m.status != nil {
		start("metrics", m.status.Run)
	}

	clients, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(under, cancel)()
	parts.Go(func() error {
		defer stop()
		if err := m.server.Run(clients); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		return nil
	})
	go func() {
		select {
		case <-m.server.Ready():
			close(ready)
			notifyReady()
		case <-clients.Done():
		}
	}()
	return parts.Wait()
}
