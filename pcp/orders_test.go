package pcp

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// give is one order through the client.
type give func(context.Context, *Client) (string, error)

func attach(node string) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.Attach(ctx, node) }
}

func detach(node string) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.Detach(ctx, node) }
}

func promote(node string) give {
	return func(ctx context.Context, c *Client) (string, error) {
		return c.Promote(ctx, node, func(Event) error { return nil })
	}
}

func recovery(node string) give {
	return func(ctx context.Context, c *Client) (string, error) {
		return c.Recover(ctx, node, false, func(Progress) error { return nil })
	}
}

func failover(on bool) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.SetFailover(ctx, on) }
}

func move(address, member string) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.MoveAddress(ctx, address, member) }
}

func add(name, address string) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.AddMember(ctx, name, address, true) }
}

func remove(name string) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.RemoveMember(ctx, name) }
}

func TestOrders(t *testing.T) {
	f := newFixture(t)
	f.start()
	c := f.client()
	for _, tt := range []struct {
		give give
		want string
		is   func(*cluster.State) bool
	}{
		{
			detach("h2"), "h2 is detached",
			func(s *cluster.State) bool { return s.Backend("h2").Status == cluster.StatusDetached },
		},
		{
			attach("h2"), "h2 is attached; it is used as soon as it is seen to work",
			func(s *cluster.State) bool { return s.Backend("h2").Status == cluster.StatusWaiting },
		},
		{failover(false), "failover is off", func(s *cluster.State) bool { return s.FailoverOff }},
		{failover(false), "failover was off already", func(s *cluster.State) bool { return s.FailoverOff }},
		{failover(true), "failover is on", func(s *cluster.State) bool { return !s.FailoverOff }},
		{
			move("10.77.0.100", "h2"), "10.77.0.100/24 moves to h2",
			func(s *cluster.State) bool { return s.Addresses[0].Holder == "h2" },
		},
		{
			move("10.77.0.100/24", "h3"), "10.77.0.100/24 moves to h3",
			func(s *cluster.State) bool { return s.Addresses[0].Holder == "h3" },
		},
		{add("h5", "10.77.0.16:9000"), "h5 is a witness", nil},
		{
			func(ctx context.Context, c *Client) (string, error) { // it lost its disk, and waits to be added
				return c.AddMember(ctx, "h3", "10.77.0.13:9000", false)
			},
			"h3 is a member", nil,
		},
		{remove("w"), "w is no member any more", nil},
		{
			func(ctx context.Context, c *Client) (string, error) { return c.Kill(ctx, 7) }, "session 7 is ended",
			func(*cluster.State) bool { return f.killed.Load() == 7 },
		},
		{
			func(ctx context.Context, c *Client) (string, error) { return c.Stop(ctx) }, "h1 stops",
			func(*cluster.State) bool { return f.stopped.Load() },
		},
	} {
		got, err := tt.give(t.Context(), c)
		if err != nil || got != tt.want {
			t.Errorf("%q, %v; want %q", got, err, tt.want)
		}
		if tt.is != nil && !tt.is(f.log.State()) {
			t.Errorf("%q: the state is %+v", tt.want, f.log.State())
		}
	}
	last := f.log.State().Events
	if got := last[len(last)-1].Text; got != "address 10.77.0.100/24 held by h3: ordered by "+userName(0) && !strings.Contains(got, "ordered by ") {
		t.Errorf("last event %q does not say who ordered it", got)
	}
}

// TestRefused: an order that cannot be says why and changes nothing.
func TestRefused(t *testing.T) {
	lost := func(f *fixture) { f.mu.status.Quorum = false }
	recovering := func(f *fixture) { f.apply(cluster.Command{Kind: cluster.KindRecover, Backend: "h2"}) }
	failing := func(f *fixture) {
		f.apply(cluster.Command{Kind: cluster.KindBegin, Backend: "h1", Operation: cluster.Failover})
	}
	switching := func(f *fixture) {
		f.apply(cluster.Command{Kind: cluster.KindBegin, Backend: "h1", Operation: cluster.Switchover, Target: "h3"})
	}
	down := func(f *fixture) {
		f.apply(cluster.Command{Kind: cluster.KindSetStatus, Backend: "h2", Status: cluster.StatusDown})
	}
	link := func(change func(*cluster.Reported)) func(*fixture) {
		return func(f *fixture) { f.report("h2", change) }
	}
	for _, tt := range []struct {
		name  string
		setup func(*fixture)
		give  give
		want  string
	}{
		{"attach nobody", nil, attach("h9"), `no backend "h9"`},
		{"attach what is up", nil, attach("h2"), "h2 is up, not detached"},
		{"attach what must be rebuilt", func(f *fixture) {
			f.apply(cluster.Command{Kind: cluster.KindMarkRebuild, Backend: "h2"})
		}, attach("h2"), "h2 is quarantine and has to be rebuilt: recover h2"},
		{"detach nobody", nil, detach("h9"), `no backend "h9"`},
		{"detach the primary", nil, detach("h1"), "h1 is the primary"},
		{"detach twice", func(f *fixture) {
			f.apply(cluster.Command{Kind: cluster.KindDetach, Backend: "h2"})
		}, detach("h2"), "h2 is detached already"},
		{"detach what is rebuilt", recovering, detach("h2"), "h2 is recovering"},
		{"detach the target", switching, detach("h3"), "h3 is being promoted"},
		{"without a quorum", lost, detach("h2"), "h1 has no quorum of members; nothing was changed"},
		{"without a leader", func(f *fixture) { f.mu.status.Leader = "" }, detach("h2"), "the members have no leader yet; nothing was changed"},

		{"promote nobody", nil, promote("h9"), `no backend "h9"`},
		{"promote the primary", nil, promote("h1"), "h1 is the primary already"},
		{"promote without an agent", nil, promote("h4"), "h4 has no agent"},
		{"promote what is down", down, promote("h2"), "h2 is down and standby, not a standby that is up"},
		{"promote what is detached", func(f *fixture) {
			f.apply(cluster.Command{Kind: cluster.KindDetach, Backend: "h2"})
		}, promote("h2"), "h2 is detached and standby, not a standby that is up"},
		{"promote in a failover", failing, promote("h2"), "a failover is under way"},
		{"promote in a switchover", switching, promote("h2"), "a switchover is under way"},
		{"promote without a primary", func(f *fixture) {
			f.apply(cluster.Command{Kind: cluster.KindClearPrimary})
		}, promote("h2"), "there is no primary to take over from"},
		{
			"promote where the agent is away", link(func(r *cluster.Reported) { r.Local = nil }), promote("h2"),
			"the agent of h2, member h2, does not report",
		},
		{"promote from where the agent is away", func(f *fixture) {
			f.report("h1", func(r *cluster.Reported) { r.Local = nil })
		}, promote("h2"), "the agent of h1, member h1, does not report"},
		{"promote where another decides", func(f *fixture) { f.deps.Managed = false }, promote("h2"), "pgproxy promotes only with failover.mode: managed"},
		{"promote without a quorum", lost, promote("h2"), "h1 has no quorum of members; nothing was changed"},

		{"recover nobody", nil, recovery("h9"), `no backend "h9"`},
		{"recover the primary", nil, recovery("h1"), "h1 is the primary"},
		{"recover without an agent", nil, recovery("h4"), "h4 has no agent"},
		{"recover twice", recovering, recovery("h2"), "h2 is being recovered"},
		{"recover without a primary", failing, recovery("h2"), "there is no primary to copy from"},
		{"recover where the agent is away", link(func(r *cluster.Reported) { r.Local = nil }), recovery("h2"), "the agent of h2, member h2, does not report"},
		{"recover where another decides", func(f *fixture) { f.deps.Managed = false }, recovery("h2"), "pgproxy rebuilds only with failover.mode: managed"},
		{"recover without the leader's table", func(f *fixture) {
			f.deps.Reports = func(context.Context) (map[string]cluster.Reported, error) { return nil, errors.New("no\nleader") }
		}, recovery("h2"), "ask the leader for the members' reports: no leader"},

		{"move an unknown address", nil, move("10.77.0.1", "h2"), `no virtual address "10.77.0.1"`},
		{"move to nobody", nil, move("10.77.0.100", "h9"), `no member "h9"`},
		{"move to where it is", nil, move("10.77.0.100", "h1"), "h1 holds 10.77.0.100/24 already"},
		{"move to a witness", nil, move("10.77.0.100", "w"), "w is a witness"},
		{"move to one that is away", func(f *fixture) { delete(f.mu.reports, "h2") }, move("10.77.0.100", "h2"), "h2 is not connected with the leader"},
		{"move without carrier", link(func(r *cluster.Reported) { r.Links[0].Carrier = false }), move("10.77.0.100", "h2"), "h2 has no carrier on the interface of 10.77.0.100/24"},
		{"move without gateway", link(func(r *cluster.Reported) { r.Links[0].Gateway = false }), move("10.77.0.100", "h2"), "h2 reaches no address of vip.check"},
		{"move to one without it", link(func(r *cluster.Reported) { r.Links = nil }), move("10.77.0.100", "h2"), "the configuration of h2 does not have 10.77.0.100/24"},

		{"add twice", nil, add("h2", "10.77.0.12:9000"), "h2 is a member already"},
		{"add with another's address", nil, add("h5", "10.77.0.12:9000"), "10.77.0.12:9000 is the address of member h2"},
		{"add what is refused", nil, add("refused", "10.77.0.17:9000"), "the order has failed: it speaks another format"},
		{"add without a quorum", lost, add("h5", "10.77.0.16:9000"), "h1 has no quorum of members; nothing was changed"},
		{"move to one that has not reported of late", func(f *fixture) { f.age("h2", staleAfter) }, move("10.77.0.100", "h2"), "h2 is not connected with the leader"},
		{"promote where the agent has not reported of late", func(f *fixture) { f.age("h2", staleAfter) }, promote("h2"), "the agent of h2, member h2, does not report"},
		{"remove who only stands in the file", func(f *fixture) { f.mu.status.Members[2].State = "not a member" }, remove("h3"), `no member "h3"`},
		{"remove nobody", nil, remove("h9"), `no member "h9"`},
		{"remove the only one", func(f *fixture) { f.mu.status.Members = f.mu.status.Members[:1] }, remove("h1"), "h1 is the only member"},

		{"kill nobody", nil, func(ctx context.Context, c *Client) (string, error) { return c.Kill(ctx, 9) }, "no session 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			if tt.setup != nil {
				tt.setup(f)
			}
			f.start()
			before := f.log.State().Epoch
			got, err := tt.give(t.Context(), f.client())
			if err == nil || err.Error() != tt.want {
				t.Errorf("%q, error %v; want %s", got, err, tt.want)
			}
			if f.log.State().Epoch != before {
				t.Errorf("the state has changed: %+v", f.log.State().Events)
			}
		})
	}
}

// lateCluster is a log whose leader does not answer, or refuses.
type lateCluster struct {
	*cluster.Log
	err error
}

func (l *lateCluster) Propose(context.Context, cluster.Command) (cluster.State, error) {
	return cluster.State{}, l.err
}

// TestNotTaken: what the log refuses is told, and a timeout says that nobody knows.
func TestNotTaken(t *testing.T) {
	for err, want := range map[error]string{
		cluster.ErrEpoch:         "the order has failed: the cluster state has changed",
		context.DeadlineExceeded: "the leader has not answered within 10s; the order may have been taken all the same, see events",
	} {
		f := newFixture(t)
		f.deps.Cluster = &lateCluster{f.log, err}
		f.start()
		if _, err := f.client().Detach(t.Context(), "h2"); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestNotSettled: a member that has just been started takes no order by an old State,
// and takes it once the State is known.
func TestNotSettled(t *testing.T) {
	known := make(chan struct{})
	f := newFixture(t)
	f.deps.Ready = known
	f.start()
	const want = "h1 does not know the state of the cluster yet; nothing was changed"
	if _, err := f.client().Detach(t.Context(), "h2"); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if b := f.log.State().Backend("h2"); b.Status != cluster.StatusUp {
		t.Errorf("h2 is %s", b.Status)
	}
	done := make(chan error)
	go func() {
		_, err := f.client().Detach(t.Context(), "h2")
		done <- err
	}()
	close(known)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
