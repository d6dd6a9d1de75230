package watchdog

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/watchdog/lease"
)

// newLeased returns three running members that hold leases on backend a.
func newLeased(t *testing.T) (g *group, leader *member) {
	t.Helper()
	g = newGroup(t, "h1", "h2", "h3")
	g.start()
	leader = g.leader()
	leader.propose(configure("a", "b"))
	leader.propose(adopt("a"))
	for _, m := range g.running() {
		m.leases("a")
	}
	return g, leader
}

func TestFollowerThatIsCutOffLosesItsLease(t *testing.T) {
	g, leader := newLeased(t)
	lost := g.followers(leader)[0]
	cut := time.Now()
	lost.cutOff()
	g.until("its lease has ended", func() bool { return !time.Now().Before(lost.Until("a")) })
	if last := lost.Until("a"); last.After(cut.Add(g.cfg.Lease)) {
		t.Errorf("the lease ended %v after the cut", last.Sub(cut))
	}
	if err := lost.Confirm(g.context(), Check{Primary: "a"}); err == nil {
		t.Error("what nobody can know is confirmed")
	}
	if _, _, leads := leader.Leading(); !leads {
		t.Error("the leader leads no more")
	}
	lost.heal()
	lost.leases("a")
}

func TestLeaderThatIsCutOffGrantsNothing(t *testing.T) {
	g, old := newLeased(t)
	cut := time.Now()
	old.cutOff()
	var leader *member
	g.until("another leads", func() bool {
		for _, m := range g.followers(old) {
			if _, _, ok := m.Leading(); ok {
				leader = m
			}
		}
		return leader != nil
	})
	t.Logf("another led after %v", time.Since(cut))
	g.until("the old leader's lease has ended", func() bool { return !time.Now().Before(old.Until("a")) })
	if last := old.Until("a"); last.After(cut.Add(g.cfg.Lease)) {
		t.Errorf("the old leader's lease ended %v after the cut", last.Sub(cut))
	}
	leader.leases("a")
	before := leader.State().Epoch
	leader.propose(cluster.Command{Kind: cluster.KindSetFailover, At: time.Now(), Off: true})
	if old.State().Epoch != before {
		t.Error("a member that is cut off has learned of a new state")
	}
	old.heal()
	old.leases("a")
	g.until("the old leader has the state", func() bool { return old.State().Epoch == before+1 })
}

// TestBarrier drives S2 the way a failover does.
func TestBarrier(t *testing.T) {
	g, leader := newLeased(t)
	_, since, _ := leader.Leading()
	g.until("the leader has led for longer than a lease", func() bool { return time.Since(since) > lease.Stretched(g.cfg.Lease) })
	silent := g.followers(leader)[0]
	silent.cutOff()
	cut := time.Now()
	s := leader.propose(cluster.Command{Kind: cluster.KindBegin, At: time.Now(), Backend: "a", Operation: cluster.Failover})
	if !leader.Until("a").IsZero() {
		t.Error("the leader holds a lease in the barrier")
	}
	if done, wait := leader.Barred(s.Operation); done || wait <= 0 || wait > lease.Stretched(g.cfg.Lease) {
		t.Errorf("at once: done %t, wait %v", done, wait)
	}
	for _, m := range g.followers(silent) {
		g.until(m.name+" has no lease", func() bool { return m.Until("a").IsZero() })
		m.report.Store(&cluster.Report{Barred: s.Operation.ID})
		m.Nudge()
	}
	g.until("only the silent one is missing", func() bool {
		missing := leader.Missing(s.Operation)
		return len(missing) == 0 || len(missing) == 1 && missing[0] == silent.name
	})
	g.until("the barrier is done", func() bool {
		held := time.Now().Before(silent.Until("a"))
		done, _ := leader.Barred(s.Operation)
		if done && held {
			t.Fatal("the barrier is done and a member holds a lease")
		}
		return done
	})
	if took := time.Since(cut); took > 3*g.cfg.Lease {
		t.Errorf("the barrier took %v", took)
	}
	for _, m := range g.followers(silent) {
		if !time.Now().Before(m.Held()) || !m.Until("a").IsZero() {
			t.Errorf("%s: held until %v, a until %v", m.name, m.Held(), m.Until("a"))
		}
	}
}

func TestBarrierIsQuickWhenAllAcknowledge(t *testing.T) {
	g, leader := newLeased(t)
	_, since, _ := leader.Leading()
	g.until("the leader has led for longer than a lease", func() bool { return time.Since(since) > lease.Stretched(g.cfg.Lease) })
	for _, m := range g.running() {
		m.acknowledge(g.context())
	}
	began := time.Now()
	s := leader.propose(cluster.Command{Kind: cluster.KindBegin, At: time.Now(), Backend: "a", Operation: cluster.Failover})
	g.until("the barrier is done", func() bool { done, _ := leader.Barred(s.Operation); return done })
	took := time.Since(began)
	t.Logf("from the proposal to the end of the barrier: %v", took)
	if took > g.cfg.Lease/2 {
		t.Errorf("it took %v", took)
	}
}

// acknowledge reports each barrier as soon as it is in force, as a proxy does.
func (m *member) acknowledge(ctx context.Context) {
	go func() {
		for {
			changed := m.Changed()
			if o := m.State().Operation; o.Barred() {
				m.report.Store(&cluster.Report{Barred: o.ID})
				m.Nudge()
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
}

func TestConfirm(t *testing.T) {
	g, leader := newLeased(t)
	follower := g.followers(leader)[0]
	for _, m := range []*member{leader, follower} {
		for _, c := range []struct {
			check Check
			want  string // in the error; "" none
		}{
			{Check{Primary: "a"}, ""},
			{Check{Idle: true}, ""},
			{Check{Primary: "b"}, "not the primary"},
			{Check{Idle: true, Vacant: true, Former: "a"}, `the primary is "a"`},
			{Check{Operation: 3, Phase: cluster.PhaseDetach}, "not under way"},
			{Check{Backend: "b", Recovery: 4}, "not under way"},
			{Check{}, "nothing"},
		} {
			err := m.Confirm(g.context(), c.check)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %+v: %v, want %q", m.name, c.check, err, c.want)
			}
		}
	}
	s := leader.propose(cluster.Command{Kind: cluster.KindBegin, At: time.Now(), Backend: "a", Operation: cluster.Failover})
	if err := follower.Confirm(g.context(), Check{Operation: s.Operation.ID, Phase: cluster.PhaseBarrier}); err != nil {
		t.Error(err)
	}
	if err := follower.Confirm(g.context(), Check{Operation: s.Operation.ID, Phase: cluster.PhaseBarrier, Candidate: "b"}); err == nil {
		t.Error("another candidate is confirmed")
	}
	vacant := Check{Operation: s.Operation.ID, Phase: cluster.PhaseBarrier, Vacant: true, Former: "a", Timeline: s.Timeline}
	if err := follower.Confirm(g.context(), vacant); err != nil {
		t.Error(err)
	}
	vacant.Former = "b"
	if err := follower.Confirm(g.context(), vacant); err == nil {
		t.Error("another former primary is confirmed")
	}
	if err := follower.Confirm(g.context(), Check{Operation: s.Operation.ID, Phase: cluster.PhasePromote}); err == nil {
		t.Error("another phase is confirmed")
	}
	if err := follower.Confirm(g.context(), Check{Idle: true}); err == nil {
		t.Error("it is confirmed that nothing is under way")
	}
	if err := follower.Confirm(g.context(), Check{Primary: "a"}); err == nil {
		t.Error("a primary is confirmed behind a barrier")
	}
}

func TestAskAndReports(t *testing.T) {
	g, leader := newLeased(t)
	follower := g.followers(leader)[0]
	g.until("all have reported", func() bool { return len(leader.Reports()) == 3 })
	if err := leader.Ask(g.context(), "a"); err != nil {
		t.Error(err)
	}
	for _, m := range g.running() {
		if n := m.probes.Load(); n != 1 {
			t.Errorf("%s was asked %d times", m.name, n)
		}
	}
	if err := follower.Ask(g.context(), "a"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower asks: %v", err)
	}

	sight := cluster.Sight{Backend: "a", Alive: true, LSN: 1}
	follower.report.Store(&cluster.Report{Sights: []cluster.Sight{sight}, Links: []cluster.Link{{Address: "10.0.0.9/24", Hardware: "02:00:00:00:00:01"}}})
	g.until("the sight has come", func() bool { return len(leader.Reports()[follower.name].Sights) == 1 })
	at := leader.Reports()[follower.name].At
	sight.LSN, sight.Age = 2, time.Second
	follower.report.Store(&cluster.Report{Sights: []cluster.Sight{sight}})
	g.until("a later one has come", func() bool {
		r := leader.Reports()[follower.name]
		return r.At.After(at) && r.Sights[0].LSN == 2
	})
	g.until("all know the link", func() bool {
		for _, m := range g.running() {
			if hw := m.Hardware(); len(hw) != 1 || hw[0] != "02:00:00:00:00:01" {
				return false
			}
		}
		return true
	})
	woken := leader.ReportsChanged()
	follower.Nudge()
	select {
	case <-woken:
	case <-time.After(patience):
		t.Error("a nudge wakes nobody")
	}
	all, err := follower.AllReports(g.context())
	if err != nil || len(all) != 3 || all[follower.name].Sights[0].LSN != 2 {
		t.Errorf("all reports at a follower: %+v, %v", all, err)
	}

	gone := g.followers(leader)[1]
	if err := gone.stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(g.context(), 300*time.Millisecond)
	defer cancel()
	if err := leader.Ask(ctx, "a"); err == nil || !strings.Contains(err.Error(), gone.name) {
		t.Errorf("ask with %s gone: %v", gone.name, err)
	}
}

func TestWhatIsNews(t *testing.T) {
	old := cluster.Report{
		Epoch:  4,
		Sights: []cluster.Sight{{Backend: "a", Alive: true, LSN: 1}},
		Local:  &cluster.Local{Backend: "a", Server: cluster.ServerStandby, Slots: []cluster.Slot{{Backend: "b", Held: 1}}},
	}
	for name, c := range map[string]struct {
		change func(*cluster.Report)
		news   bool
	}{
		"nothing":        {func(*cluster.Report) {}, false},
		"ages":           {func(r *cluster.Report) { r.Sights[0].Age, r.Sights[0].Took, r.Local.Age = 1, 2, 3 }, false},
		"positions":      {func(r *cluster.Report) { r.Sights[0].LSN, r.Local.End = 9, 9 }, false},
		"lag":            {func(r *cluster.Report) { r.Sights[0].LagBytes = 9 }, false},
		"kept log":       {func(r *cluster.Report) { r.Local.Slots[0].Held = 9 }, false},
		"progress":       {func(r *cluster.Report) { r.Local.Progress, r.Local.Detail = 0.5, "50 of 100 MB" }, false},
		"epoch":          {func(r *cluster.Report) { r.Epoch = 5 }, true},
		"a backend dies": {func(r *cluster.Report) { r.Sights[0].Alive = false }, true},
		"no agent":       {func(r *cluster.Report) { r.Local = nil }, true},
		"server stopped": {func(r *cluster.Report) { r.Local.Server = cluster.ServerStopped }, true},
		"barred":         {func(r *cluster.Report) { r.Barred = 4 }, true},
		"slot lost":      {func(r *cluster.Report) { r.Local.Slots = nil }, true},
	} {
		r := old
		r.Sights = slices.Clone(old.Sights)
		local := *old.Local
		local.Slots = slices.Clone(old.Local.Slots)
		r.Local = &local
		c.change(&r)
		if got := differs(old, r); got != c.news {
			t.Errorf("%s: news %t", name, got)
		}
	}
}

// TestRoundRefusesWhereVerifyLeaderConfirms holds back the answers to the leader's
// heartbeats while the others elect another. raft then counts the old answers, which
// say nothing about now; the round of S1 does not.
func TestRoundRefusesWhereVerifyLeaderConfirms(t *testing.T) {
	g := newGroup(t, "h1", "h2", "h3")
	// The others give up on the leader sooner than it gives up on them.
	h1 := g.members["h1"]
	h1.tune = func(c *Config) { c.Heartbeat, c.LeaderLease = 2*time.Second, 2*time.Second }
	for _, name := range []string{"h2", "h3"} {
		g.members[name].tune = func(c *Config) { c.Heartbeat, c.LeaderLease = 500*time.Millisecond, 200*time.Millisecond }
	}
	var answers faults // to what h1's raft asks
	h1.before = func(w *Watchdog) {
		w.raftDial = func(ctx context.Context, member, hostport, protocol string) (net.Conn, error) {
			c, err := w.dial(ctx, member, hostport, protocol)
			return answers.wrap(c, err)
		}
	}
	t.Cleanup(answers.heal)
	g.start()

	for attempt := 1; ; attempt++ {
		h1.leadNow()
		h1.propose(cluster.Command{Kind: cluster.KindSetFailover, At: time.Now(), Off: attempt%2 == 1})
		l := h1.leader.Load()
		if l == nil {
			continue
		}
		if _, err := l.confirm(g.context()); err != nil {
			t.Fatalf("a leader with its majority: %v", err)
		}
		// From here on h1 hears nothing of raft: neither answers nor a new leader.
		answers.holdAnswers()
		h1.in.cutOff()
		var newer *member
		g.until("another leads, or h1 has given up", func() bool {
			for _, m := range g.followers(h1) {
				if _, _, ok := m.Leading(); ok {
					newer = m
				}
			}
			return newer != nil || !l.n.leads(l.term)
		})
		if newer == nil && attempt < 10 { // an election that took its time
			answers.heal()
			h1.heal()
			continue
		}
		if newer == nil {
			t.Fatal("h1 gives up before another leads, each time")
		}
		_, round := l.confirm(g.context())
		granted, grantErr := l.lease(g.context(), "h1", leaseRequest{ID: l.n.id, Boot: h1.boot, Seq: h1.seq.Add(1)})
		stillLeads := l.n.leads(l.term)
		verified := l.n.raft.VerifyLeader()
		answers.heal()
		verifyErr := verified.Error()
		h1.heal()
		if !stillLeads && attempt < 10 {
			continue
		}
		if !stillLeads {
			t.Fatal("h1 knew that it leads no more, each time")
		}
		if !errors.Is(round, errRound) || !errors.Is(round, ErrNotLeader) || grantErr == nil {
			t.Fatalf("with a newer leader the round ended with %v, a grant %+v with %v", round, granted, grantErr)
		}
		if verifyErr != nil {
			if attempt < 10 {
				continue
			}
			t.Fatalf("VerifyLeader refused too, each time: %v", verifyErr)
		}
		t.Logf("attempt %d: VerifyLeader confirms h1, the round says: %v", attempt, round)
		return
	}
}

// leadNow makes the member lead.
func (m *member) leadNow() {
	m.g.t.Helper()
	m.g.until(m.name+" leads", func() bool {
		leader := m.g.leader()
		if leader == m {
			return true
		}
		n := m.node.Load()
		leader.node.Load().raft.LeadershipTransferToServer(raft.ServerID(n.id), n.address).Error() // tried again
		return false
	})
}

// TestNewLeaderComesSoon measures what the defaults promise.
func TestNewLeaderComesSoon(t *testing.T) {
	var took []time.Duration
	for range 5 {
		g := newGroup(t, "h1", "h2", "h3")
		g.cfg.Heartbeat, g.cfg.LeaderLease = Default().Heartbeat, Default().LeaderLease
		g.start()
		old := g.leader()
		for _, m := range g.running() {
			g.until(m.name+" is ready", func() bool { return isReady(m) })
		}
		began := time.Now()
		go old.cancel()
		g.until("another leads", func() bool {
			for _, m := range g.followers(old) {
				if _, _, ok := m.Leading(); ok {
					return true
				}
			}
			return false
		})
		took = append(took, time.Since(began))
		for _, m := range g.running() {
			if err := m.stop(); err != nil {
				t.Error(err)
			}
		}
	}
	slices.Sort(took)
	t.Logf("a new leader after %v", took)
	if median := took[len(took)/2]; median > 2*time.Second {
		t.Errorf("median %v", median)
	}
}
