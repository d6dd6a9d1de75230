package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// TestSwitchover stops the primary cleanly; the target has all of its log, and the
// old one follows without a rewind. The way back fails, and it is started again.
func TestSwitchover(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1})
	h1, h2 := w.hosts["h1"], w.hosts["h2"]
	h2.waitStreaming("h1")
	w.exec("h1", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")

	w.do(cluster.Command{Kind: cluster.KindBegin, Operation: cluster.Switchover, Backend: "h1", Target: "h2"})
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseBarrier})
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseStop})
	old := h1.wait("stopped", func(l *cluster.Local) bool { return l.Stopped })
	if !old.Clean || old.End == 0 || old.Server != cluster.ServerStopped {
		t.Errorf("the old primary reports %+v", *old)
	}
	h2.wait("all received", func(l *cluster.Local) bool { return l.Server == cluster.ServerStandby && l.End >= old.End })
	if got := h2.agent.Local(); got.End != old.End {
		t.Errorf("the target has the log up to %v, the old primary wrote it up to %v", got.End, old.End)
	}
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhasePromote, Backend: "h2"})
	w.adopt("h2")
	h1.waitStreaming("h2")
	h1.wait("on the new timeline", func(l *cluster.Local) bool { return l.Timeline == 2 })
	if n := h1.stepsOf(t, ActionRewind); n != 0 {
		t.Errorf("%d rewinds", n)
	}

	w.do(cluster.Command{Kind: cluster.KindSetStatus, Backend: "h1", Status: cluster.StatusUp})
	w.do(cluster.Command{Kind: cluster.KindSetRole, Backend: "h1", Role: cluster.RoleStandby})
	w.do(cluster.Command{Kind: cluster.KindBegin, Operation: cluster.Switchover, Backend: "h2", Target: "h1"})
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseBarrier})
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseStop})
	h2.wait("stopped", func(l *cluster.Local) bool { return l.Stopped })
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseRestart})
	l := h2.wait("restarted", func(l *cluster.Local) bool { return l.Restarted })
	if l.Timeline != 2 || l.Server != cluster.ServerPrimary {
		t.Errorf("restarted as %s on timeline %d", l.Server, l.Timeline)
	}
}

// stepsOf returns how often a step was taken.
func (h *host) stepsOf(t *testing.T, a Action) int {
	t.Helper()
	total := 0
	for _, outcome := range []string{"done", "failed"} {
		total += counted(t, h.agent.metrics.steps.WithLabelValues(a.String(), outcome))
	}
	return total
}

// TestFrozenPrimary: a postmaster that is stopped by SIGSTOP, and its children, are
// killed in the barrier of a failover, and do not keep the agent.
func TestFrozenPrimary(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1})
	h1, h2 := w.hosts["h1"], w.hosts["h2"]
	h2.waitStreaming("h1")
	if err := h1.server.Pause(); err != nil {
		t.Fatal(err)
	}
	h1.wait("hung", func(l *cluster.Local) bool { return l.Server == cluster.ServerHung })
	w.refuse.Store(true)
	w.do(cluster.Command{Kind: cluster.KindBegin, Operation: cluster.Failover, Backend: "h1"})
	h1.wait("refused", func(l *cluster.Local) bool { return strings.Contains(l.Trouble, "not confirmed by the leader") })
	if len(processesIn(h1.cfg.DataDirectory)) == 0 {
		t.Error("killed without the leader's confirmation")
	}
	w.refuse.Store(false)
	l := h1.wait("stopped", func(l *cluster.Local) bool { return l.Server == cluster.ServerStopped })
	if l.Clean || len(processesIn(h1.cfg.DataDirectory)) != 0 {
		t.Errorf("the frozen primary is %+v", *l)
	}
	if !exists(filepath.Join(h1.cfg.DataDirectory, "standby.signal")) {
		t.Error("whoever starts it now starts a primary")
	}
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhaseDetach})
	h2.wait("detached", func(l *cluster.Local) bool { return l.Detached })
	w.do(cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhasePromote, Backend: "h2"})
	w.adopt("h2")
	h1.waitStreaming("h2")
}

// TestFence: without the quorum the primary becomes a standby of nobody. It is the
// primary again when the quorum comes back and nobody has taken its place.
func TestFence(t *testing.T) {
	w := newWorld(t, pgtest.Options{}, "h1")
	h1 := w.hosts["h1"]
	h1.wait("primary", func(l *cluster.Local) bool { return l.Server == cluster.ServerPrimary })
	w.alone.Store(true)
	l := h1.wait("fenced", func(l *cluster.Local) bool { return l.Server == cluster.ServerStandby && l.Task == "" })
	if l.Timeline != 1 {
		t.Errorf("timeline %d", l.Timeline)
	}
	if err := h1.server.Exec(t.Context(), "postgres", "CREATE TABLE t ()"); err == nil {
		t.Error("it takes writes")
	}
	w.alone.Store(false)
	l = h1.wait("primary", func(l *cluster.Local) bool { return l.Server == cluster.ServerPrimary && l.Task == "" })
	if l.Timeline != 1 {
		t.Errorf("timeline %d", l.Timeline)
	}
	w.exec("h1", "CREATE TABLE t ()")
}

// TestColdStart: the recorded primary and its standby are started as what they were.
// An operator's shutdown is respected, a crash of a standby is not.
func TestColdStart(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1}, "none")
	h1, h2 := w.hosts["h1"], w.hosts["h2"]
	for _, h := range []*host{h2, h1} {
		if err := h.server.Stop(t.Context(), pgtest.StopFast); err != nil {
			t.Fatal(err)
		}
	}
	// A standby that somebody has made a primary by removing the file would be one.
	if err := os.Remove(filepath.Join(h2.cfg.DataDirectory, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	w.refuse.Store(true)
	h1.run()
	h2.run()
	h2.wait("standby", func(l *cluster.Local) bool { return l.Server == cluster.ServerStandby })
	h1.wait("refused", func(l *cluster.Local) bool { return strings.Contains(l.Trouble, "not confirmed") })
	if postmaster(h1.cfg.DataDirectory) != 0 {
		t.Error("the primary was started without the leader's confirmation")
	}
	w.refuse.Store(false)
	h1.wait("primary", func(l *cluster.Local) bool { return l.Server == cluster.ServerPrimary })
	h2.waitStreaming("h1")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h2.agent.stopFast(ctx, h2.agent.cfg.StopTimeout); err != nil { // as an operator would
		t.Fatal(err)
	}
	h2.wait("stopped", func(l *cluster.Local) bool { return l.Server == cluster.ServerStopped && l.Clean })
	for range 3 {
		if l := h2.agent.Look(ctx); l.Server != cluster.ServerStopped || l.Task != "" {
			t.Fatalf("what its operator has stopped is %+v", *l)
		}
	}
	if err := h2.agent.start(ctx); err != nil { // and again
		t.Fatal(err)
	}
	h2.waitStreaming("h1")
	if err := killAll(ctx, h2.cfg.DataDirectory); err != nil {
		t.Fatal(err)
	}
	h2.wait("stopped", func(l *cluster.Local) bool { return l.Server != cluster.ServerStandby })
	h2.waitStreaming("h1")
}

// TestSlots: every server has a slot for each other one, and a standby's moves with
// what the others have replayed.
func TestSlots(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 2})
	for _, name := range []string{"h2", "h3"} {
		w.hosts[name].waitStreaming("h1")
	}
	w.exec("h1", "SELECT pg_create_physical_replication_slot('pgproxy_gone')")
	w.exec("h1", "SELECT pg_create_physical_replication_slot('mine')")
	for name, others := range map[string]string{"h1": "{mine,pgproxy_h2,pgproxy_h3}", "h2": "{pgproxy_h1,pgproxy_h3}", "h3": "{pgproxy_h1,pgproxy_h2}"} {
		w.hosts[name].until("SELECT array_agg(slot_name::text ORDER BY slot_name) FILTER (WHERE slot_name NOT IN ('h2', 'h3')) = '" + others + "' FROM pg_replication_slots")
	}
	before := w.value("h2", "SELECT min(restart_lsn) FROM pg_replication_slots")
	w.exec("h1", "CREATE TABLE t AS SELECT generate_series(1, 10000)")
	if err := w.cluster.WaitForCatchup(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.hosts["h2"].until("SELECT min(restart_lsn) > '" + before + "' AND max(restart_lsn) <= pg_last_wal_replay_lsn() FROM pg_replication_slots")
	l := w.hosts["h2"].wait("slots", func(l *cluster.Local) bool { return len(l.Slots) == 2 })
	if l.Slots[0].Backend == l.Slots[1].Backend {
		t.Errorf("slots %v", l.Slots)
	}
}

// TestLogGone: the primary has removed what a standby needs next. There is no way
// back but a copy.
func TestLogGone(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1, Settings: map[string]string{"min_wal_size": "32", "max_wal_size": "32"}})
	h1, h2 := w.hosts["h1"], w.hosts["h2"]
	h2.waitStreaming("h1")
	h2.remembered()
	h1.stop()
	h2.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := killAll(ctx, h2.cfg.DataDirectory); err != nil {
		t.Fatal(err)
	}
	h1.until("SELECT NOT bool_or(active) FROM pg_replication_slots")
	w.exec("h1", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
	for range 4 {
		w.exec("h1", "SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)")
		w.exec("h1", "CHECKPOINT")
	}
	h1.run()
	h2.run()
	h2.wait("rebuild", func(l *cluster.Local) bool { return l.Task == "rebuild" })
	h2.waitStreaming("h1")
}

// TestDebianLayout: postgresql.conf and its like lie outside of the data directory.
// The running server is adopted and says where.
func TestDebianLayout(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1}, "none")
	h1, h2 := w.hosts["h1"], w.hosts["h2"]
	for _, h := range []*host{h1, h2} {
		h.moveConfiguration(t)
	}
	h1.run()
	h2.run()
	h2.waitStreaming("h1")
	h1.remembered()
	h2.remembered()
	h1.killServer(t)
	h1.wait("stopped", func(l *cluster.Local) bool { return l.Server == cluster.ServerStopped })
	w.failover("h2")
	h1.waitStreaming("h2")
	if exists(filepath.Join(h1.cfg.DataDirectory, "postgresql.conf")) {
		t.Error("the rewound server has a postgresql.conf in its data directory")
	}
	if got, want := w.value("h1", "SHOW config_file"), filepath.Join(filepath.Dir(h1.dir), "etc", "postgresql.conf"); got != want {
		t.Errorf("it was started with %s, want %s", got, want)
	}
	w.recover("h1", false)
	if got := w.value("h1", "SHOW port"); got != fmt.Sprint(h1.server.Port) {
		t.Errorf("the port is %s", got)
	}
	// pgproxy stops, the server does not.
	pid := postmaster(h1.cfg.DataDirectory)
	h1.stop()
	if pid == 0 || postmaster(h1.cfg.DataDirectory) != pid {
		t.Error("the server has not outlived the agent")
	}
}

// moveConfiguration makes the layout of Debian and starts the server with it.
func (h *host) moveConfiguration(t *testing.T) {
	t.Helper()
	if err := h.server.Stop(t.Context(), pgtest.StopFast); err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(filepath.Dir(h.dir), "etc")
	if err := os.Mkdir(etc, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		if err := os.Rename(filepath.Join(h.cfg.DataDirectory, name), filepath.Join(etc, name)); err != nil {
			t.Fatal(err)
		}
	}
	conf, err := os.OpenFile(filepath.Join(etc, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conf, "data_directory = '%s'\nhba_file = '%s/pg_hba.conf'\nident_file = '%s/pg_ident.conf'\n", h.cfg.DataDirectory, etc, etc)
	if err := conf.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := h.server.Command(t.Context(), "pg_ctl", "start", "-D", h.cfg.DataDirectory, "-l", h.server.LogFile,
		"-o", "-c config_file="+filepath.Join(etc, "postgresql.conf")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// killServer kills a server that is not the child of this process.
func (h *host) killServer(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := killAll(ctx, h.cfg.DataDirectory); err != nil {
		t.Fatal(err)
	}
}

// TestLookIsBounded: a server that does not answer, and a disk that does not, keep
// nobody longer than a look may take.
func TestLookIsBounded(t *testing.T) {
	w := newWorld(t, pgtest.Options{}, "h1")
	h1 := w.hosts["h1"]
	if err := h1.server.Pause(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if l := h1.agent.Look(t.Context()); l.Server != cluster.ServerHung {
		t.Errorf("a frozen server is %s", l.Server)
	}
	if took := time.Since(began); took > 10*h1.cfg.Timeout {
		t.Errorf("a look took %v", took)
	}
}
