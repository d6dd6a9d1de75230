package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func isReady(m *member) bool {
	select {
	case <-m.Ready():
		return true
	default:
		return false
	}
}

func TestMembersAgree(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	leader := g.leader()
	for _, m := range g.running() {
		g.until(m.name+" knows the state", func() bool { return isReady(m) })
	}
	follower := g.followers(leader)[0]
	s := follower.propose(configure("a", "b"))
	if got := follower.State(); got.Epoch < s.Epoch || s.Epoch == 0 {
		t.Errorf("Propose returned epoch %d, in force is %d", s.Epoch, got.Epoch)
	}
	leader.propose(adopt("a"))
	for _, m := range g.running() {
		g.until(m.name+" has the primary", func() bool { return m.State().Primary == "a" })
		m.leases("a")
		if !m.Until("b").IsZero() || !time.Now().Before(m.Held()) {
			t.Errorf("%s: b until %v, held until %v", m.name, m.Until("b"), m.Held())
		}
	}
	stale := adopt("b")
	stale.Expect = s.Epoch
	if _, err := follower.Propose(g.context(), stale); !errors.Is(err, cluster.ErrEpoch) {
		t.Errorf("a command with an old epoch: %v", err)
	}
	if got := strings.Join(follower.Voters(), " "); got != "h1 h2 h3" {
		t.Errorf("voters %s", got)
	}
}

func TestProposeRefusesWhatWouldStopTheMembers(t *testing.T) {
	g := newGroup(t, "h1")
	g.start()
	leader := g.leader()
	leader.propose(configure("a"))
	c := cluster.Command{Kind: cluster.KindSetStatus, Backend: "a", Status: 99}
	if _, err := leader.Propose(g.context(), c); err == nil {
		t.Error("a status that does not exist is accepted")
	}
	leader.propose(cluster.Command{Kind: cluster.KindSetStatus, Backend: "a", Status: cluster.StatusUp})
}

func TestDecisionOfALeaderIsNotHandedOn(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	leader := g.leader()
	leader.propose(configure("a"))
	follower := g.followers(leader)[0]
	before := leader.State().Epoch
	if _, err := follower.ProposeLeading(g.context(), adopt("a")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower decides: %v", err)
	}
	if got := leader.State().Epoch; got != before {
		t.Errorf("epoch is %d, was %d", got, before)
	}
	s, err := leader.ProposeLeading(g.context(), adopt("a"))
	if err != nil || s.Primary != "a" || leader.State().Epoch != s.Epoch {
		t.Errorf("the leader decides: primary %q, epoch %d of %d, %v", s.Primary, leader.State().Epoch, s.Epoch, err)
	}
}

func TestLoneMember(t *testing.T) {
	g := newGroup(t, "h1")
	g.cfg.Members = nil
	g.start()
	h1 := g.leader()
	h1.propose(configure("a"))
	h1.propose(adopt("a"))
	h1.leases("a")
	if err := h1.Ask(g.context(), "a"); err != nil || h1.probes.Load() != 1 {
		t.Errorf("ask: %v, %d probes", err, h1.probes.Load())
	}
	if err := h1.Confirm(g.context(), Check{Primary: "a"}); err != nil {
		t.Error(err)
	}
	if err := h1.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}

	// The name of a lone member is the host's, which may change.
	other := g.members["h1"]
	other.name = "h9"
	g.start()
	g.until("the state is back", func() bool { return isReady(other) && other.State().Primary == "a" })
	if got := strings.Join(other.Voters(), " "); got != "h9" {
		t.Errorf("voters %s", got)
	}
	other.leases("a")
}

func TestStateOutlivesARestartOfAll(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	leader := g.leader()
	leader.propose(configure("a", "b"))
	want := leader.propose(adopt("b"))
	for _, m := range g.running() {
		if err := m.stop(); err != nil {
			t.Errorf("stop %s: %v", m.name, err)
		}
	}
	g.start("h1", "h3") // a majority is enough
	g.leader()
	for _, m := range g.running() {
		g.until(m.name+" has the state", func() bool { return m.State().Epoch == want.Epoch && m.State().Primary == "b" })
		m.leases("b")
	}
}

func TestStateComesBySnapshot(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	leader := g.leader()
	want := leader.propose(configure("a", "b"))
	away := g.followers(leader)[0]
	g.until(away.name+" has the state", func() bool { return away.State().Epoch == want.Epoch })
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	want = leader.propose(adopt("b"))
	for _, m := range g.running() {
		g.until(m.name+" has applied it", func() bool { return m.State().Epoch == want.Epoch })
		// Without trailing entries the one who was away can only get the snapshot.
		none := m.node.Load().raft.ReloadableConfig()
		none.TrailingLogs = 0
		if err := m.node.Load().raft.ReloadConfig(none); err != nil {
			t.Fatal(err)
		}
		if err := m.node.Load().raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	away.start()
	g.until("the snapshot came", func() bool { return away.State().Epoch == want.Epoch && away.State().Primary == "b" })

	for _, m := range g.running() {
		if err := m.stop(); err != nil {
			t.Errorf("stop %s: %v", m.name, err)
		}
	}
	g.start()
	for _, m := range g.running() {
		g.until(m.name+" has it after a restart", func() bool { return m.State().Epoch == want.Epoch })
	}
}

func TestUnknownEntryEndsEveryMember(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	leader := g.leader()
	before := leader.propose(configure("a"))
	leader.node.Load().raft.Apply([]byte(`{"kind": "dance", "at": "2026-01-01T00:00:00Z"}`), time.Second)
	// The last one has no majority any more, which would commit the entry.
	twoEnd := func() {
		t.Helper()
		ended := 0
		g.until("two have ended", func() bool {
			for _, m := range g.running() {
				if len(m.ended) == 0 {
					continue
				}
				if err := m.ends(); !errors.Is(err, cluster.ErrUnknown) {
					t.Errorf("%s ended with %v", m.name, err)
				}
				if got := m.State().Epoch; got > before.Epoch {
					t.Errorf("%s: epoch %d after the entry, %d before", m.name, got, before.Epoch)
				}
				ended++
			}
			return ended >= 2
		})
	}
	twoEnd()
	for _, m := range g.members {
		m.stop()
	}
	g.start() // it is still there
	twoEnd()
}

func TestUnknownSnapshotIsRefused(t *testing.T) {
	g := newGroup(t, "h1")
	g.start()
	h1 := g.leader()
	h1.propose(configure("a"))
	if err := h1.node.Load().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if err := h1.stop(); err != nil {
		t.Fatal(err)
	}
	states, err := filepath.Glob(filepath.Join(h1.dir, "snapshots", "*", "state.bin"))
	if err != nil || len(states) != 1 {
		t.Fatalf("snapshots %v, %v", states, err)
	}
	// As a newer program would write it, checksum and all.
	state := []byte(`{"epoch": 5, "format": 99, "backends": []}`)
	meta := filepath.Join(filepath.Dir(states[0]), "meta.json")
	data, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	sum.Write(state)
	m["Size"], m["CRC"] = len(state), sum.Sum(nil)
	if data, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(states[0], state, 0o600), os.WriteFile(meta, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	h1.start()
	if err := h1.ends(); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("ended with %v", err)
	}
}

func TestLeaderWhoseDiskHangsEnds(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	disks := map[string]*slowDisk{}
	for name, m := range g.members {
		d := &slowDisk{release: make(chan struct{})}
		disks[name] = d
		m.before = func(w *Watchdog) {
			w.logStore = func(s raft.LogStore) raft.LogStore { d.LogStore = s; return d }
		}
	}
	g.start()
	leader := g.leader()
	leader.propose(configure("a"))
	disks[leader.name].hangs.Store(true)
	defer close(disks[leader.name].release)
	began := time.Now()
	if err := leader.ends(); err == nil || !strings.Contains(err.Error(), "could not write") {
		t.Errorf("ended with %v", err)
	}
	t.Logf("ended after %v", time.Since(began))
	g.leader().propose(adopt("a"))
}

func TestTransfer(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start()
	old := g.leader()
	if err := old.Transfer(g.context()); err != nil {
		t.Fatal(err)
	}
	g.until("another leads", func() bool {
		_, _, leads := old.Leading()
		return !leads && g.leader() != old
	})
	if err := g.followers(old)[0].Transfer(context.Background()); err != nil && !errors.Is(err, ErrNotLeader) {
		t.Errorf("transfer: %v", err)
	}
}

func TestStatus(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.cfg.Members[2].Witness = true
	g.members["h3"].deps.Witness = true
	g.start()
	leader := g.leader()
	want := func(at *member, states map[string]MemberState) {
		t.Helper()
		g.until("the status is right", func() bool {
			s := at.Status(g.context())
			for _, m := range s.Members {
				if m.State != states[m.Name] || m.Witness != (m.Name == "h3") || m.Address != g.cfg.member(m.Name).Address {
					return false
				}
			}
			return len(s.Members) == len(states) && s.Quorum == (s.Leader != "")
		})
	}
	states := map[string]MemberState{"h1": StateFollower, "h2": StateFollower, "h3": StateFollower}
	states[leader.name] = StateLeader
	others := g.followers(leader)
	for _, m := range g.running() {
		want(m, states)
	}
	if err := others[0].stop(); err != nil {
		t.Fatal(err)
	}
	states[others[0].name] = StateLost
	want(others[1], states)
	if err := leader.stop(); err != nil {
		t.Fatal(err)
	}
	want(others[1], map[string]MemberState{"h1": StateUnknown, "h2": StateUnknown, "h3": StateUnknown})
}
