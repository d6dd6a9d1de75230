package watchdog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

func TestNewClusterNeedsAllMembers(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	g.start("h1", "h2")
	g.until("both look around", func() bool {
		for _, m := range g.running() {
			n := m.node.Load()
			if n == nil || n.raft == nil || len(m.greet(g.context())) != 1 {
				return false
			}
		}
		return true
	})
	for _, m := range g.running() {
		if n := m.node.Load(); !n.empty() {
			t.Errorf("%s is in a cluster, and h3 was never asked", m.name)
		}
		if why := m.enter(g.context(), m.node.Load()); !strings.Contains(why, "h3 does not answer") {
			t.Errorf("%s waits because %q", m.name, why)
		}
	}
	g.start("h3")
	if got := len(g.leader().Voters()); got != 3 {
		t.Errorf("%d voters", got)
	}
}

func TestFilesThatDifferBeginNoCluster(t *testing.T) {
	g := newGroup(t, "h1", "h2")
	g.members["h2"].tune = func(c *Config) {
		c.Members = append([]Member{{Name: "h0", Address: "127.0.0.1:1"}}, c.Members...)
	}
	g.start()
	h1 := g.members["h1"]
	g.until("h1 knows why", func() bool {
		n := h1.node.Load()
		return n != nil && strings.Contains(h1.enter(g.context(), n), "lists other members")
	})
	if !h1.node.Load().empty() {
		t.Error("a cluster began")
	}
}

func TestWipedMemberRejoinsAsAnother(t *testing.T) {
	g, leader := newLeased(t)
	for _, wiped := range []*member{g.followers(leader)[0], leader} {
		old := wiped.node.Load().id
		if err := wiped.stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(wiped.dir); err != nil {
			t.Fatal(err)
		}
		want := g.leader().propose(adopt("a"))
		wiped.start()
		g.until("it has a vote", func() bool { n := wiped.node.Load(); return n != nil && n.voter() })
		g.until("it has the state", func() bool { return wiped.State().Epoch == want.Epoch })
		wiped.leases("a")
		servers := g.leader().node.Load().servers()
		if len(servers) != 3 {
			t.Errorf("servers %v", servers)
		}
		for _, s := range servers {
			if string(s.ID) == old {
				t.Errorf("%s is still a member", old)
			}
		}
	}
}

// Two hosts with one name, one of them new: the one that works stays.
func TestSecondOfOneNameIsNotTakenIn(t *testing.T) {
	g, leader := newLeased(t)
	for name := range g.members {
		q := joinRequest{ID: newID(name), Address: freeAddress(t)}
		g.until("it is refused", func() bool {
			l := leader.leader.Load()
			if l == nil {
				leader = g.leader()
				return false
			}
			err := l.join(name, q)
			if err == nil {
				t.Fatalf("a second %s is taken in", name)
			}
			return strings.Contains(err.Error(), "alive")
		})
	}
	if got := len(leader.node.Load().servers()); got != 3 {
		t.Errorf("%d servers", got)
	}
}

// A leader that ends between the steps of taking a member in leaves the rest to the
// next one.
func TestNextLeaderTakesIn(t *testing.T) {
	g, leader := newLeased(t)
	wiped := g.followers(leader)[0]
	old := wiped.node.Load().id
	if err := wiped.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(wiped.dir); err != nil {
		t.Fatal(err)
	}
	wiped.tune = func(c *Config) { // it knows nobody whom it could ask itself
		c.Members = []Member{*c.member(wiped.name), {Name: "h9", Address: "127.0.0.1:1"}}
	}
	wiped.start()
	g.until("it is up", func() bool { return wiped.node.Load() != nil })
	n := wiped.node.Load()
	g.changeMembers(func(r *raft.Raft) error {
		return r.AddNonvoter(raft.ServerID(n.id), n.address, 0, 0).Error()
	})
	g.until("it has a vote", n.voter)
	g.until("its old self is gone", func() bool { return g.leader().node.Load().server(old) == nil })
}

// changeMembers has whoever leads do it.
func (g *group) changeMembers(do func(*raft.Raft) error) {
	g.t.Helper()
	g.until("the leader has done it", func() bool { return do(g.leader().node.Load().raft) == nil })
}

// A majority that lost its disks must not forget what the third one knows.
func TestWipedMajorityWaits(t *testing.T) {
	g, leader := newLeased(t)
	wiped := g.followers(leader)
	for _, m := range wiped {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range wiped {
		m.start()
	}
	for _, m := range wiped {
		g.until(m.name+" waits", func() bool {
			n := m.node.Load()
			return n != nil && strings.Contains(m.enter(g.context(), n), leader.name+" has a cluster that nobody leads")
		})
		if n := m.node.Load(); !n.empty() {
			t.Errorf("%s is in a cluster", m.name)
		}
	}
	if _, err := leader.Propose(g.context(), configure("x")); !errors.Is(err, ErrNoLeader) {
		t.Errorf("without a majority: %v", err)
	}
}

func TestAddAndRemove(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3", "h4")
	four := g.cfg
	g.cfg.Members = four.Members[:3]
	g.start("h1", "h2", "h3")
	leader := g.leader()
	want := leader.propose(configure("a"))
	follower := g.followers(leader)[0]

	h4 := g.members["h4"]
	h4.tune = func(c *Config) { c.Members = four.Members }
	address := four.member("h4").Address
	if err := follower.Add(g.context(), "h4", address, false); err == nil {
		t.Error("a member that does not answer is added")
	}
	h4.start()
	g.until("h4 is told that it is not known", func() bool {
		n := h4.node.Load()
		return n != nil && strings.Contains(h4.enter(g.context(), n), "watchdog add")
	})
	if err := follower.Add(g.context(), "h5", address, false); err == nil {
		t.Error("a member is added under another's name")
	}
	if err := follower.Add(g.context(), "h4", address, false); err != nil {
		t.Fatal(err)
	}
	g.until("h4 has the state", func() bool { return h4.State().Epoch == want.Epoch && isReady(h4) })
	g.until("h4 has a vote", func() bool { return strings.Join(h4.Voters(), " ") == "h1 h2 h3 h4" })
	if err := follower.Add(g.context(), "h4", address, false); err == nil {
		t.Error("a member is added again")
	}

	if err := h4.Remove(g.context(), follower.name); err != nil {
		t.Fatal(err)
	}
	g.until("the removed one holds no lease", func() bool { return !time.Now().Before(follower.Held()) })
	g.until("the removed one can say why", func() bool {
		return strings.Contains(follower.compare(g.context(), follower.node.Load()), "it was removed")
	})
	if err := h4.Remove(g.context(), follower.name); !errors.Is(err, ErrNotMember) {
		t.Errorf("removed twice: %v", err)
	}
	if err := h4.Add(g.context(), follower.name, g.cfg.member(follower.name).Address, false); err == nil || !strings.Contains(err.Error(), "data_dir of its own") {
		t.Errorf("one with old data is added: %v", err)
	}

	if err := leader.Remove(g.context(), leader.name); err != nil {
		t.Fatal(err)
	}
	g.until("another leads", func() bool { _, _, leads := leader.Leading(); return !leads && g.leader() != leader })
	if s := g.leader().Status(g.context()); len(s.Members) < 2 {
		t.Errorf("status %+v", s)
	}
}

func TestLoneMemberGetsCompany(t *testing.T) {
	g := newGroup(t, "h1", "h2")
	two := g.cfg
	g.cfg.Members = nil
	g.start("h1")
	h1 := g.leader()
	want := h1.propose(configure("a"))
	if err := h1.stop(); err != nil {
		t.Fatal(err)
	}
	g.cfg = two
	g.start()
	if g.leader() != h1 {
		t.Fatal("another leads")
	}
	h2 := g.members["h2"]
	if err := h1.Add(g.context(), "h2", two.member("h2").Address, false); err != nil {
		t.Fatal(err)
	}
	g.until("h2 has the state", func() bool { return h2.State().Epoch == want.Epoch })
	g.until("the address of h1 is known", func() bool {
		s := h2.node.Load().server(h1.node.Load().id)
		return s != nil && s.Address == h1.node.Load().address
	})

	for _, m := range g.running() {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	g.cfg.Members = nil
	h1.start()
	if err := h1.ends(); err == nil || !strings.Contains(err.Error(), "watchdog of 2 members") {
		t.Errorf("alone with the data of two: %v", err)
	}
}

func TestTwoClustersDoNotMix(t *testing.T) {
	g := newGroup(t, "h1", "h2")
	two := g.cfg
	g.cfg.Members = nil
	for _, m := range g.members { // each its own
		m.start()
		g.until(m.name+" leads itself", func() bool { _, _, ok := m.Leading(); return ok })
		m.propose(configure(m.name))
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	g.cfg = two
	g.start()
	ended := 0
	g.until("one of them gives up", func() bool {
		for _, m := range g.running() {
			if len(m.ended) > 0 {
				if err := m.ends(); err == nil || !strings.Contains(err.Error(), "another cluster") {
					t.Errorf("%s ended with %v", m.name, err)
				}
				ended++
			}
		}
		return ended > 0
	})
}

func TestAddressInTheFileChanges(t *testing.T) {
	g, leader := newLeased(t)
	moved := g.followers(leader)[0]
	for _, m := range g.running() {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	g.cfg.member(moved.name).Address = freeAddress(t)
	g.start()
	for _, m := range g.running() {
		m.leases("a")
		g.until(m.name+" knows the address", func() bool {
			s := m.node.Load().server(moved.node.Load().id)
			return s != nil && s.Address == moved.node.Load().address
		})
	}
}

func TestDamagedDataDirIsRefused(t *testing.T) {
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
	db := filepath.Join(h1.dir, "raft.db")
	whole, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	garbled := append([]byte(nil), whole...)
	for i := range garbled {
		garbled[i] ^= 0x5a
	}
	pages := append([]byte(nil), whole...)
	for i := 2 * os.Getpagesize(); i < len(pages); i++ { // behind the two meta pages
		pages[i] = 0xff
	}
	for name, content := range map[string][]byte{
		"garbage": garbled, "damaged pages": pages, "cut short": whole[:len(whole)/8], "gone, snapshots there": nil,
	} {
		t.Run(name, func(t *testing.T) {
			copied := &member{g: g, name: "h1", dir: t.TempDir()}
			if err := os.CopyFS(copied.dir, os.DirFS(h1.dir)); err != nil {
				t.Fatal(err)
			}
			db := filepath.Join(copied.dir, "raft.db")
			if err := os.Remove(db); err != nil {
				t.Fatal(err)
			}
			if content != nil {
				if err := os.WriteFile(db, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			copied.start()
			if err := copied.ends(); err == nil || !strings.Contains(err.Error(), "is damaged") {
				t.Errorf("ended with %v", err)
			}
		})
	}
	if err := os.RemoveAll(filepath.Join(h1.dir, "snapshots")); err != nil {
		t.Fatal(err)
	}
	h1.start() // the log is whole: nothing is lost with the snapshot
	g.until("it has its state", func() bool { return isReady(h1) && h1.State().Epoch > 0 })

	t.Run("used by another process", func(t *testing.T) {
		other := &member{g: g, name: "h1", dir: h1.dir}
		other.tune = func(c *Config) { c.Members = []Member{{Name: "h1", Address: freeAddress(t)}} }
		other.start()
		if err := other.ends(); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("another member's", func(t *testing.T) {
		if err := h1.stop(); err != nil {
			t.Fatal(err)
		}
		other := &member{g: g, name: "h2", dir: h1.dir}
		other.tune = func(c *Config) { c.Members = []Member{{Name: "h2", Address: freeAddress(t)}} }
		other.start()
		if err := other.ends(); err == nil || !strings.Contains(err.Error(), "belongs to member h1") {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestConfig(t *testing.T) {
	good := Default()
	good.Listen = "10.0.0.1:9000"
	good.Members = []Member{{Name: "h1", Address: "10.0.0.1:9000"}, {Name: "h2", Address: "10.0.0.2:9000"}}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string // "" none
	}{
		"good":         {func(*Config) {}, ""},
		"alone":        {func(c *Config) { c.Listen, c.Members = "", nil }, ""},
		"heartbeat":    {func(c *Config) { c.Heartbeat = time.Millisecond }, "heartbeat: 1ms"},
		"leader lease": {func(c *Config) { c.LeaderLease = time.Second }, "leader_lease: 1s"},
		"lease":        {func(c *Config) { c.Lease = time.Hour }, "lease: 1h"},
		"listen":       {func(c *Config) { c.Listen = "" }, "listen: missing"},
		"self":         {func(c *Config) { c.Members = c.Members[1:] }, "not among them"},
		"twice":        {func(c *Config) { c.Members = append(c.Members, c.Members[0]) }, "that of another"},
		"name":         {func(c *Config) { c.Members = append(c.Members, Member{Name: "a/b", Address: "x:1"}) }, "has a space"},
		"address":      {func(c *Config) { c.Members = append(c.Members, Member{Name: "h3", Address: ":1"}) }, "want host:port"},
	} {
		cfg := good
		cfg.Members = append([]Member(nil), good.Members...)
		c.change(&cfg)
		err := cfg.Validate("h1")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	deps := Deps{Name: "h1", DataDir: t.TempDir(), Logger: testLogger("h1"), Registerer: prometheus.NewRegistry()}
	if _, err := New(good, deps); err == nil {
		t.Error("a watchdog without an identity")
	}
}
