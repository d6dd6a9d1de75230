package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// patience bounds every wait for the real thing.
const patience = 40 * time.Second

// world is a cluster of real servers with an agent each, and a leader that is the
// test: it proposes commands to the log that they all read.
type world struct {
	t       *testing.T
	cluster *pgtest.Cluster
	log     *cluster.Log
	hosts   map[string]*host
	alone   atomic.Bool // no member has a lease, and nobody confirms
	refuse  atomic.Bool // the leader confirms nothing
	began   time.Time
}

// host is one server and its agent.
type host struct {
	w      *world
	name   string
	server *pgtest.Server
	agent  *Agent
	cfg    Config
	dir    string // data_dir of its pgproxy
	stop   func()
}

// newWorld starts servers h1 (the primary), h2, ... and the agents of those named,
// or all.
func newWorld(t *testing.T, o pgtest.Options, agents ...string) *world {
	t.Helper()
	w := &world{t: t, hosts: make(map[string]*host), began: time.Now()}
	w.cluster = pgtest.StartCluster(t, o)
	if err := w.cluster.Primary().Exec(t.Context(), "postgres", SetupSQL("repl")+"GRANT "+CheckpointRole+" TO repl"); err != nil {
		t.Fatal(err)
	}
	w.log = cluster.NewLog(cluster.State{})
	var specs []cluster.Spec
	for _, s := range w.cluster.Servers {
		specs = append(specs, cluster.Spec{Name: s.Name, Address: s.Address(), Weight: 1, Agent: s.Name})
		w.hosts[s.Name] = w.newHost(s)
	}
	w.do(cluster.Command{Kind: cluster.KindConfigure, Backends: specs})
	w.do(cluster.Command{Kind: cluster.KindAdoptPrimary, Backend: "h1", Timeline: 1, SystemID: w.systemID("h1")})
	for _, s := range w.cluster.Standbys() {
		w.do(cluster.Command{Kind: cluster.KindSetStatus, Backend: s.Name, Status: cluster.StatusUp})
		w.do(cluster.Command{Kind: cluster.KindSetRole, Backend: s.Name, Role: cluster.RoleStandby})
	}
	for name, h := range w.hosts {
		if len(agents) == 0 || strings.Contains(strings.Join(agents, " "), name) {
			h.run()
		}
	}
	return w
}

func (w *world) newHost(s *pgtest.Server) *host {
	h := &host{w: w, name: s.Name, server: s, dir: filepath.Join(w.cluster.Dir(), s.Name, "pgproxy"), stop: func() {}}
	h.cfg = Default()
	h.cfg.DataDirectory = s.DataDir
	h.cfg.BinDirectory = w.binaries()
	h.cfg.Connect = s.DSN("postgres", pgtest.Superuser)
	h.cfg.LogFile = s.LogFile
	h.cfg.Replication.User = pgtest.ReplUser
	w.t.Cleanup(func() {
		h.stop()
		// What the agent has started is nobody's child.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, dir := range []string{s.DataDir, s.DataDir + oldSuffix} {
			if err := killAll(ctx, dir); err != nil {
				w.t.Errorf("kill server %s: %v", s.Name, err)
			}
		}
	})
	return h
}

func (w *world) binaries() string {
	b, err := pgtest.FindBinaries()
	if err != nil {
		w.t.Fatal(err)
	}
	return b.Dir
}

// run runs the agent until stop.
func (h *host) run() {
	h.w.t.Helper()
	a, err := New(h.cfg, Deps{
		Backend: h.name, DataDir: h.dir, Password: pgtest.Password(pgtest.ReplUser),
		State: h.w.log.State, Changed: h.w.log.Changed,
		Held: func() time.Time {
			if h.w.alone.Load() {
				return h.w.began
			}
			return time.Now().Add(time.Second)
		},
		Confirm: func(context.Context, string) error {
			if h.w.alone.Load() || h.w.refuse.Load() {
				return errors.New("no leader")
			}
			return nil
		},
		Nudge:        func() {},
		Observations: h.w.observations,
		Managed:      true,
		Bounds: func() Bounds {
			return Bounds{FenceAfter: 500 * time.Millisecond, RestartWait: time.Hour, SlotKeep: 64 << 20}
		},
		Logger:     slog.New(slog.NewTextHandler(testWriter{h.w.t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		h.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	h.agent = a
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.w.t.Errorf("agent of %s: %v", h.name, err)
		}
		h.stop = func() {}
	}
}

// testWriter gives log lines to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// observations are what the probers of a member would see.
func (w *world) observations() map[string]cluster.Observation {
	all := make(map[string]cluster.Observation)
	for name, h := range w.hosts {
		if h.agent == nil {
			continue
		}
		l := h.agent.Local()
		if l.Server == cluster.ServerStandby {
			all[name] = cluster.Observation{Backend: name, At: time.Now(), Role: cluster.RoleStandby, Timeline: l.Timeline, ReplayLSN: l.End}
		}
	}
	return all
}

// do applies a command.
func (w *world) do(c cluster.Command) cluster.State {
	w.t.Helper()
	c.At, c.Expect = time.Now(), w.log.State().Epoch
	s, err := w.log.Propose(w.t.Context(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// wait waits until what the agent of a server reports is as wanted.
func (h *host) wait(what string, ok func(*cluster.Local) bool) *cluster.Local {
	h.w.t.Helper()
	ctx, cancel := context.WithTimeout(h.w.t.Context(), patience)
	defer cancel()
	for {
		l := h.agent.Look(ctx)
		if ctx.Err() == nil && ok(l) {
			return l
		}
		if ctx.Err() != nil {
			h.w.t.Fatalf("%s: not %s: %+v\n%s", h.name, what, *l, h.logTail())
		}
	}
}

func (h *host) logTail() string { return h.server.LogTail(15) }

// waitStreaming waits until the server streams from source as this agent has it.
func (h *host) waitStreaming(source string) *cluster.Local {
	h.w.t.Helper()
	l := h.wait("a standby at rest", func(l *cluster.Local) bool {
		return l.Server == cluster.ServerStandby && l.Task == "" && !l.Marker && h.streams(source)
	})
	return l
}

// streams asks the source for a walsender of this server that uses its slot: not the
// one of before it was told to.
func (h *host) streams(source string) bool {
	v, err := h.w.hosts[source].server.QueryValue(h.w.t.Context(), "postgres", fmt.Sprintf(
		`SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
		WHERE r.state = 'streaming' AND r.application_name = '%s' AND s.slot_name = '%s'`, h.name, slotName(h.name)))
	return err == nil && v == "1"
}

func (w *world) systemID(name string) uint64 {
	var id int64
	if _, err := fmt.Sscan(w.value(name, "SELECT system_identifier FROM pg_control_system()"), &id); err != nil {
		w.t.Fatal(err)
	}
	return uint64(id)
}

func (w *world) value(name, sql string) string {
	w.t.Helper()
	v, err := w.hosts[name].server.QueryValue(w.t.Context(), "postgres", sql)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) exec(name, sql string) {
	w.t.Helper()
	if err := w.hosts[name].server.Exec(w.t.Context(), "postgres", sql); err != nil {
		w.t.Fatal(err)
	}
}

// failover does what the leader would: barrier, detach, promote, adopt.
func (w *world) failover(to string, standbys ...string) {
	w.t.Helper()
	old := w.log.State().Primary
	s := w.do(cluster.Command{Kind: cluster.KindBegin, Operation: cluster.Failover, Backend: old})
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseDetach})
	for _, name := range append(standbys, to) {
		w.hosts[name].wait("detached", func(l *cluster.Local) bool { return l.Operation == s.Operation.ID && l.Detached })
	}
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhasePromote, Backend: to})
	w.adopt(to)
}

// adopt waits for the promotion and ends the operation.
func (w *world) adopt(to string) {
	w.t.Helper()
	state := w.log.State()
	l := w.hosts[to].wait("promoted", func(l *cluster.Local) bool { return l.Operation == state.Operation.ID && l.Promoted })
	if l.Timeline != state.Timeline+1 || len(l.History) == 0 || l.History[len(l.History)-1].Timeline != state.Timeline {
		w.t.Fatalf("promoted: timeline %d, history %v", l.Timeline, l.History)
	}
	w.do(cluster.Command{Kind: cluster.KindAdoptPrimary, Backend: to, Timeline: l.Timeline, SystemID: l.SystemID, History: l.History})
}

func TestRefusesRoot(t *testing.T) {
	// The tests run as postgres; what root gets is seen by running as root only.
	if _, err := New(Config{}, Deps{Registerer: prometheus.NewRegistry(), Logger: slog.Default()}); err == nil {
		t.Error("an empty configuration is taken")
	}
	if os.Geteuid() == 0 {
		t.Error("the tests run as root")
	}
}

// TestFailover kills the primary. Its standby is detached, promoted and followed,
// and the old primary comes back by a rewind with what it alone had discarded.
func TestFailover(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 2})
	for _, name := range []string{"h2", "h3"} {
		w.hosts[name].waitStreaming("h1")
	}
	w.exec("h1", "CREATE TABLE kept AS SELECT 1 AS n")
	if err := w.cluster.WaitForCatchup(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Written where nobody sees it any more.
	w.exec("h2", "SELECT pg_wal_replay_pause()")
	if err := w.hosts["h1"].server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.hosts["h1"].wait("stopped", func(l *cluster.Local) bool { return l.Server == cluster.ServerStopped && !l.Clean })
	w.failover("h2", "h3")
	if got := w.value("h2", "SELECT count(*) FROM kept"); got != "1" {
		t.Errorf("%s rows on the new primary", got)
	}
	w.hosts["h3"].waitStreaming("h2")
	w.hosts["h1"].waitStreaming("h2")
	if got := w.value("h2", "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name IN ('pgproxy_h1', 'pgproxy_h3')"); got != "2" {
		t.Errorf("%s slots are in use", got)
	}
	if got := w.value("h1", "SHOW port"); got != fmt.Sprint(w.hosts["h1"].server.Port) {
		t.Errorf("the rewound server has the port %s, of its source", got)
	}
}
