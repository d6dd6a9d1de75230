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

// TestDivergedStandby: a standby has more log than the one that was promoted. It
// takes that back by itself and follows.
func TestDivergedStandby(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 2})
	w.hosts["h2"].waitStreaming("h1")
	h3 := w.hosts["h3"]
	h3.waitStreaming("h1")
	// h2 stops receiving; h3 goes on.
	h2 := w.hosts["h2"]
	h2.stop()
	w.exec("h2", "ALTER SYSTEM SET primary_conninfo = ''")
	w.exec("h2", "SELECT pg_reload_conf()")
	h2.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
	w.exec("h1", "CREATE TABLE lost AS SELECT generate_series(1, 1000) AS n")
	if err := w.cluster.WaitForCatchup(t.Context(), "h3"); err != nil {
		t.Fatal(err)
	}
	h2.run()
	if err := w.hosts["h1"].server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.failover("h2") // the leader cannot wait for h3: say its host was cut off
	h3.waitStreaming("h2")
	if got := w.value("h3", "SELECT count(*) FROM pg_class WHERE relname = 'lost'"); got != "0" {
		t.Error("the diverged standby has kept what the new primary does not have")
	}
	w.exec("h2", "CREATE TABLE after_failover ()")
	h3.until("SELECT to_regclass('after_failover') IS NOT NULL")
	w.hosts["h1"].waitStreaming("h2")
}

// until waits until a query of one boolean is true on the server.
func (h *host) until(sql string) {
	h.w.t.Helper()
	ctx, cancel := context.WithTimeout(h.w.t.Context(), patience)
	defer cancel()
	err := pollUntil(ctx, func() (bool, error) {
		v, err := h.server.QueryValue(ctx, "postgres", sql)
		return err == nil && v == "t", nil
	})
	if err != nil {
		h.w.t.Fatalf("%s: not so: %s\n%s", h.name, sql, h.logTail())
	}
}

// recover has a server rebuilt, as an operator would, and waits for its end.
func (w *world) recover(name string, inPlace bool) {
	w.t.Helper()
	s := w.do(cluster.Command{Kind: cluster.KindRecover, Backend: name, InPlace: inPlace})
	w.awaitRebuilt(name, s.Backend(name).Recovery.ID)
}

func (w *world) awaitRebuilt(name string, id uint64) {
	w.t.Helper()
	h := w.hosts[name]
	h.wait("rebuilt", func(l *cluster.Local) bool { return l.Recovery == id && l.Rebuilt && l.Server == cluster.ServerStandby })
	h.waitStreaming(w.log.State().Primary)
	w.do(cluster.Command{Kind: cluster.KindRecovered, Backend: name})
	h.wait("clean", func(l *cluster.Local) bool {
		return l.Task == "" && l.Trouble == "" && !exists(h.cfg.DataDirectory+newSuffix) && !exists(h.cfg.DataDirectory+oldSuffix)
	})
}

// TestRebuildDeleted: the data directory is gone, configuration and all. What the
// server was is remembered.
func TestRebuildDeleted(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1})
	h2 := w.hosts["h2"]
	h2.waitStreaming("h1")
	h2.remembered()
	if err := h2.server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The agent would start it again.
	h2.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := killAll(ctx, h2.cfg.DataDirectory); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h2.cfg.DataDirectory); err != nil {
		t.Fatal(err)
	}
	h2.run()
	l := h2.wait("missing", func(l *cluster.Local) bool { return l.Server == cluster.ServerMissing })
	if !strings.Contains(l.Trouble, "recover") {
		t.Errorf("trouble %q", l.Trouble)
	}
	w.recover("h2", false)
	if got := w.value("h2", "SHOW port"); got != fmt.Sprint(h2.server.Port) {
		t.Errorf("the port is %s", got)
	}
}

// remembered waits until the agent has written down what it needs when its server
// is gone.
func (h *host) remembered() {
	h.w.t.Helper()
	h.wait("remembered", func(*cluster.Local) bool { return exists(filepath.Join(h.dir, "agent", "server.json")) })
}

// TestRebuildTablespace copies a tablespace and a pg_wal that lies elsewhere into
// directories of their own.
func TestRebuildTablespace(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1}, "h1")
	h1, h2 := w.hosts["h1"], w.hosts["h2"]
	if err := h2.server.Stop(t.Context(), pgtest.StopImmediate); err != nil { // one host has one directory of that name
		t.Fatal(err)
	}
	there, here := filepath.Join(filepath.Dir(h1.dir), "space"), filepath.Join(filepath.Dir(h2.dir), "space")
	wal := filepath.Join(filepath.Dir(h2.dir), "wal")
	if err := os.Mkdir(there, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(h2.cfg.DataDirectory, "pg_wal"), wal); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(wal, filepath.Join(h2.cfg.DataDirectory, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	w.exec("h1", "CREATE TABLESPACE space LOCATION '"+there+"'")
	w.exec("h1", "CREATE TABLE in_space TABLESPACE space AS SELECT generate_series(1, 1000) AS n")
	h2.cfg.Tablespaces = map[string]string{there: here}
	s := w.do(cluster.Command{Kind: cluster.KindRecover, Backend: "h2"})
	h2.run()
	w.awaitRebuilt("h2", s.Backend("h2").Recovery.ID)
	if got := w.value("h2", "SELECT count(*) FROM in_space"); got != "1000" {
		t.Errorf("%s rows", got)
	}
	if got := w.value("h2", "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"); got != here {
		t.Errorf("tablespace in %s, want %s", got, here)
	}
	if got, err := os.Readlink(filepath.Join(h2.cfg.DataDirectory, "pg_wal")); err != nil || got != wal {
		t.Errorf("pg_wal: %s, %v", got, err)
	}
	// Again, with a tablespace that is there already; and in place.
	w.recover("h2", false)
	w.recover("h2", true)
	if got := w.value("h2", "SELECT count(*) FROM in_space"); got != "1000" {
		t.Errorf("%s rows", got)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(h2.dir), "*.pgproxy-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestRebuildInterrupted stops the agent in each phase, as a kill would leave it:
// another one ends the work, and the old server runs until the copy is whole.
func TestRebuildInterrupted(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1})
	h2 := w.hosts["h2"]
	h2.waitStreaming("h1")
	h2.remembered()
	data := h2.cfg.DataDirectory
	h2.stop()

	// Half a copy, made by one that was killed.
	half := data + newSuffix
	if err := os.MkdirAll(filepath.Join(half, "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h2.agent.files.setSwap(&swap{Phase: swapCopying, Dirs: []string{data}}); err != nil {
		t.Fatal(err)
	}
	h2.run()
	h2.waitStreaming("h1") // the old one, untouched
	if exists(half) {
		t.Error("half a copy is left")
	}

	// Killed before the renames, and then somebody has started the old server.
	w.recoverUntilCopied(h2)
	moving, err := h2.agent.files.swap()
	if err != nil || moving == nil {
		t.Fatalf("no rebuild is written down: %v", err)
	}
	moving.Phase = swapMoving
	if err := h2.agent.files.setSwap(moving); err != nil {
		t.Fatal(err)
	}
	if err := h2.agent.resume(); err != nil {
		t.Fatal(err)
	}
	if exists(half) || exists(data+oldSuffix) || postmaster(data) == 0 {
		t.Error("the directory of a server that runs was moved")
	}
	w.do(cluster.Command{Kind: cluster.KindRecovered, Backend: "h2"})
	h2.run()
	h2.waitStreaming("h1")

	// Killed between the renames: nothing is in the place of the data directory.
	w.recoverUntilCopied(h2)
	s, err := h2.agent.files.swap()
	if err != nil || s == nil {
		t.Fatalf("no rebuild is written down: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := killAll(ctx, data); err != nil {
		t.Fatal(err)
	}
	s.Phase = swapMoving
	if err := h2.agent.files.setSwap(s); err != nil {
		t.Fatal(err)
	}
	if err := rename(data, data+oldSuffix); err != nil {
		t.Fatal(err)
	}
	w.refuse.Store(false)
	h2.run()
	w.awaitRebuilt("h2", w.log.State().Backend("h2").Recovery.ID)
}

// recoverUntilCopied lets a rebuild go until the copy is whole and the leader does
// not confirm that it may take its place, and stops the agent there.
func (w *world) recoverUntilCopied(h *host) {
	w.t.Helper()
	w.refuse.Store(true)
	w.do(cluster.Command{Kind: cluster.KindRecover, Backend: h.name})
	h.wait("copied", func(*cluster.Local) bool {
		return exists(filepath.Join(h.cfg.DataDirectory+newSuffix, "standby.signal"))
	})
	if got := w.value(h.name, "SELECT pg_is_in_recovery()"); got != "t" {
		w.t.Error("the old server does not run while it is copied")
	}
	h.kill()
}

// kill ends the agent without letting it tidy up after itself.
func (h *host) kill() {
	h.w.t.Helper()
	saved, err := os.ReadFile(h.agent.files.path("rebuild.json"))
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.stop()
	if err := os.WriteFile(h.agent.files.path("rebuild.json"), saved, 0o600); err != nil {
		h.w.t.Fatal(err)
	}
}

// TestRewindInterrupted: a directory with the marker is only ever rebuilt.
func TestRewindInterrupted(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1})
	h2 := w.hosts["h2"]
	h2.waitStreaming("h1")
	h2.remembered()
	h2.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := killAll(ctx, h2.cfg.DataDirectory); err != nil {
		t.Fatal(err)
	}
	if err := h2.agent.files.mark(h2.cfg.DataDirectory, marker{}); err != nil {
		t.Fatal(err)
	}
	// A data_dir that is lost too does not hide it.
	if err := os.Remove(h2.agent.files.path("marker.json")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h2.run()
	l := h2.waitStreaming("h1")
	if l.Marker {
		t.Error("the marker is left")
	}
	info, err := os.Stat(filepath.Join(h2.cfg.DataDirectory, "PG_VERSION"))
	if err != nil || info.ModTime().Before(began.Truncate(time.Second)) {
		t.Errorf("the directory was not made anew: %v, %v", info, err)
	}
}

// TestRebuildRefused: where no copy can be made beside the old data nothing is
// touched, and the operator is told what he may do.
func TestRebuildRefused(t *testing.T) {
	w := newWorld(t, pgtest.Options{Standbys: 1})
	h2 := w.hosts["h2"]
	h2.waitStreaming("h1")
	h2.remembered()
	parent := filepath.Dir(h2.cfg.DataDirectory)
	if err := os.Chmod(parent, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(parent, 0o711) })
	w.do(cluster.Command{Kind: cluster.KindRecover, Backend: "h2"})
	l := h2.wait("refused", func(l *cluster.Local) bool { return l.Trouble != "" && l.Task == "" })
	if !strings.Contains(l.Trouble, "recover --in-place h2") || l.Rebuilt || l.Server != cluster.ServerStandby {
		t.Errorf("a rebuild without a place reports %+v", *l)
	}
	if !h2.streams("h1") {
		t.Error("the old standby was touched")
	}
	w.do(cluster.Command{Kind: cluster.KindRecoverFailed, Backend: "h2", Reason: l.Trouble})
	if err := os.Chmod(parent, 0o711); err != nil { // the server has its socket there
		t.Fatal(err)
	}
	w.recover("h2", true)
}
