package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/configs"
	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/health"
	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/proxy"
)

// fileLook is how often it is looked whether the configuration file was changed. A
// changed one is taken when it has not changed any more between two looks: whoever
// writes it may not be done.
const fileLook = time.Second

// inForce is a configuration by which a member runs. It is immutable.
type inForce struct {
	*configs.Config
	specs []cluster.Spec // the backends
	file  string         // stands for specs in reports
	keys  configs.Keys
}

func newInForce(cfg *configs.Config) *inForce {
	f := &inForce{Config: cfg, keys: configs.KeysOf(cfg)}
	for _, b := range cfg.Backends {
		f.specs = append(f.specs, cluster.Spec{Name: b.Name, Address: b.Address, Weight: b.Weight, Agent: b.Agent, MaxConnections: b.MaxConnections})
	}
	f.file = fmt.Sprintf("%+v", f.specs)
	return f
}

// after returns what is in force when next was loaded.
func (f *inForce) after(next *configs.Config) *inForce {
	n := newInForce(configs.InForce(f.Config, next))
	if agent, ok := f.keys["agent"]; ok {
		n.keys["agent"] = agent // it goes on with the backend that it was started for
	}
	return n
}

func (f *inForce) proxy() proxy.Config {
	return proxy.Config{
		Listen: f.Listen, Auth: f.Auth, Backends: f.Backends, BackendTLS: f.BackendTLS, Monitor: f.Monitor,
		Pool: f.Pool, Balance: f.Balance, Hold: f.Hold, Limits: f.Limits,
	}
}

func (f *inForce) failover() failover.Settings {
	s := failover.Settings{
		Self: f.Name, Backends: f.specs, Retries: f.Health.Retries,
		Interval: f.Health.Interval, Timeout: f.Health.Timeout, Drain: f.Hold.Drain,
	}
	if f.Watchdog != nil {
		s.Lease = f.Watchdog.Lease
	}
	return s
}

func (f *inForce) agent() agent.Bounds {
	return agent.Bounds{
		FenceAfter: f.Failover.FenceAfter, RestartWait: f.Failover.RestartWait, SlotKeep: uint64(f.Failover.SlotKeep),
	}
}

// configure puts a configuration in force that was checked, or none of it.
func (m *member) configure(next *configs.Config) (pcp.Reloaded, error) {
	old := m.running.Load()
	var done pcp.Reloaded
	done.Changed, done.Restart = configs.Differ(old.keys, configs.KeysOf(next))
	now := old.after(next)
	password, err := readSecret("monitor.password_file", now.Monitor.PasswordFile)
	if err != nil {
		return done, err
	}
	if err := m.data.Reload(now.proxy(), password); err != nil {
		return done, err
	}
	m.reconciler.Configure(now.Failover, now.failover())
	m.level.Set(slogLevel(now.Log.Level))
	m.running.Store(now)
	m.configured.fire()
	m.watchdog.Nudge()
	return done, nil
}

// watchTargets keeps the monitor in step with the configuration and the State: what only
// one of them has is probed, too.
func (m *member) watchTargets(ctx context.Context) error {
	var last *inForce
	var watched []health.Target
	for {
		changed, configured := m.watchdog.Changed(), m.configured.wait()
		now := m.running.Load()
		targets := m.targets(now)
		if now != last && last != nil || !slices.Equal(targets, watched) {
			if err := m.monitor.Configure(now.Health, targets); err != nil {
				return fmt.Errorf("BUG: the monitor refuses what was checked: %w", err)
			}
		}
		last, watched = now, targets
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-configured:
		}
	}
}

// targets are the backends of the file, and those of the State that it does not have.
func (m *member) targets(now *inForce) []health.Target {
	var all []health.Target
	for _, s := range now.specs {
		all = append(all, health.Target{Name: s.Name, Address: s.Address})
	}
	for _, b := range m.watchdog.State().Backends {
		if !slices.ContainsFunc(now.specs, func(s cluster.Spec) bool { return s.Name == b.Name }) {
			all = append(all, health.Target{Name: b.Name, Address: b.Address})
		}
	}
	return all
}

// addressOf returns where the monitor finds a backend.
func (m *member) addressOf(backend string) (string, error) {
	for _, t := range m.targets(m.running.Load()) {
		if t.Name == backend {
			return t.Address, nil
		}
	}
	return "", fmt.Errorf("no backend %q", backend)
}

// reloader keeps a member in step with its configuration file: on SIGHUP, by an
// operator's order, and when the file has changed.
type reloader struct {
	member  *member
	path    string
	hangup  <-chan os.Signal
	orders  chan chan<- outcome
	success prometheus.Gauge
	log     *slog.Logger

	// The goroutine of Run owns the rest.
	seen  fileStamp         // at the last look
	tried [sha256.Size]byte // of the content that was read last, whatever came of it
}

// outcome is how a reload ended.
type outcome struct {
	done pcp.Reloaded
	err  error
}

// fileStamp tells whether a file was written.
type fileStamp struct {
	mtime time.Time
	size  int64
}

// newReloader returns the reloader of a member that was made of f.
func newReloader(m *member, f *loaded, hangup <-chan os.Signal) *reloader {
	return &reloader{
		member: m, path: f.Name, hangup: hangup, orders: make(chan chan<- outcome), success: m.reloadSuccess, log: m.log,
		tried: sha256.Sum256(f.data),
	}
}

// Run reloads until ctx ends.
func (r *reloader) Run(ctx context.Context) error {
	look := time.NewTicker(fileLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.hangup:
			_, _ = r.reload() // what came of it is in the log
		case reply := <-r.orders:
			done, err := r.reload()
			reply <- outcome{done, err}
		case <-look.C:
			if r.changed() {
				_, _ = r.reload()
			}
		}
	}
}

// order has the file read now.
func (r *reloader) order(ctx context.Context) (pcp.Reloaded, error) {
	reply := make(chan outcome, 1)
	select {
	case r.orders <- reply:
	case <-ctx.Done():
		return pcp.Reloaded{}, ctx.Err()
	}
	select {
	case o := <-reply:
		return o.done, o.err
	case <-ctx.Done():
		return pcp.Reloaded{}, ctx.Err()
	}
}

// changed tells whether the file has another content than when it was read last, and
// is not being written.
func (r *reloader) changed() bool {
	info, err := os.Stat(r.path)
	if err != nil {
		return false // while it is being replaced it may be missing
	}
	now := fileStamp{info.ModTime(), info.Size()}
	if now != r.seen {
		r.seen = now
		return false
	}
	data, err := os.ReadFile(r.path)
	return err == nil && sha256.Sum256(data) != r.tried
}

// reload reads, checks and takes the file, and logs what came of it.
func (r *reloader) reload() (pcp.Reloaded, error) {
	done, err := r.take()
	if err != nil {
		r.success.Set(0)
		for _, line := range strings.Split(err.Error(), "\n") {
			r.log.Error("configuration not reloaded, the old one stays", "fault", line)
		}
		return done, err
	}
	r.success.Set(1)
	r.log.Info("configuration reloaded", "file", r.path, "changed", strings.Join(done.Changed, " "))
	if len(done.Restart) > 0 {
		r.log.Warn("keys have changed that need a restart", "keys", strings.Join(done.Restart, " "))
	}
	return done, nil
}

func (r *reloader) take() (pcp.Reloaded, error) {
	f, err := readConfig(r.path)
	if err != nil {
		return pcp.Reloaded{}, err
	}
	r.tried = sha256.Sum256(f.data)
	if len(f.Faults) > 0 {
		return pcp.Reloaded{}, f.Faults
	}
	for _, w := range f.Warnings {
		r.log.Warn(w.Error())
	}
	return r.member.configure(f.Config)
}

// reload is for operators.
func (m *member) reload(ctx context.Context) (pcp.Reloaded, error) {
	if m.reloader == nil {
		return pcp.Reloaded{}, errors.New("this member has no configuration file")
	}
	return m.reloader.order(ctx)
}

// runs is for operators.
func (m *member) runs() pcp.Running {
	r := pcp.Running{Member: m.cfg.Name, Keys: m.running.Load().keys}
	if m.reloader != nil {
		r.File = m.reloader.path
	}
	return r
}
