package pcp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// await waits until the State is as wanted.
func (f *fixture) await(is func(*cluster.State) bool) *cluster.State {
	f.Helper()
	late := time.After(time.Minute)
	for {
		changed := f.log.Changed()
		if s := f.log.State(); is(s) {
			return s
		}
		select {
		case <-changed:
		case <-late:
			f.Fatalf("the state is still %+v", f.log.State())
		}
	}
}

// outcome is how an order ended.
type outcome struct {
	sentence string
	err      error
	items    []string
}

// inBackground gives a long order and returns the channel of its end.
func inBackground[T any](ctx context.Context, give func(context.Context, func(T) error) (string, error), show func(T) string, seen chan<- string) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		o.sentence, o.err = give(ctx, func(item T) error {
			o.items = append(o.items, show(item))
			if seen != nil {
				seen <- show(item)
			}
			return nil
		})
		ended <- o
	}()
	return ended
}

func underWay(s *cluster.State) bool { return s.Operation != nil }

func (f *fixture) promote(c *Client, node string) <-chan outcome {
	return inBackground(f.Context(), func(ctx context.Context, see func(Event) error) (string, error) {
		return c.Promote(ctx, node, see)
	}, func(e Event) string { return strings.TrimSpace(e.Backend + " " + e.Text) }, nil)
}

func TestPromote(t *testing.T) {
	to := func(p cluster.Phase) cluster.Command { return cluster.Command{Kind: cluster.KindAdvance, Phase: p} }
	promoteH2 := cluster.Command{Kind: cluster.KindAdvance, Phase: cluster.PhasePromote, Backend: "h2"}
	adopt := func(name string, timeline uint32) cluster.Command {
		return cluster.Command{Kind: cluster.KindAdoptPrimary, Backend: name, Timeline: timeline, SystemID: 7}
	}
	restart := to(cluster.PhaseRestart)
	restart.Reason = "h2 has not received the shutdown checkpoint"
	abandon := cluster.Command{Kind: cluster.KindAbandon, Backend: "h2", Reason: "not promoted within 30s"}
	giveUp := cluster.Command{Kind: cluster.KindEnd, Reason: "statements still run on h1"}
	for _, tt := range []struct {
		name  string
		steps []cluster.Command
		want  string
		err   string
	}{
		{
			"done",
			[]cluster.Command{to(cluster.PhaseBarrier), to(cluster.PhaseStop), promoteH2, adopt("h2", 4)},
			"h2 is the primary on timeline 4", "",
		},
		{
			"the old primary is started again",
			[]cluster.Command{to(cluster.PhaseBarrier), to(cluster.PhaseStop), restart, adopt("h1", 3)},
			"", "the switchover to h2 has failed, h1 is the primary: switchover: restart: h2 has not received the shutdown checkpoint",
		},
		{
			"given up",
			[]cluster.Command{giveUp},
			"", "the switchover to h2 has failed: switchover given up: statements still run on h1",
		},
		{
			"abandoned",
			[]cluster.Command{
				to(cluster.PhaseBarrier), to(cluster.PhaseStop), promoteH2, abandon,
				{Kind: cluster.KindAdvance, Phase: cluster.PhasePromote, Backend: "h3"},
				adopt("h3", 4),
			},
			"", "the switchover to h2 has failed, h3 is the primary: promotion abandoned, to be rebuilt: not promoted within 30s",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.start()
			ended := f.promote(f.client(), "h2")
			f.await(underWay)
			for _, c := range tt.steps {
				f.advance(c)
			}
			got := <-ended
			if got.sentence != tt.want || (got.err == nil) != (tt.err == "") || got.err != nil && got.err.Error() != tt.err {
				t.Errorf("%q, %v; want %q, %s", got.sentence, got.err, tt.want, tt.err)
			}
			if len(got.items) == 0 || !strings.HasPrefix(got.items[0], "h1 switchover begins: ordered by ") {
				t.Errorf("shown: %q", got.items)
			}
			if s := f.log.State(); s.Operation != nil {
				t.Errorf("still under way: %+v", s.Operation)
			}
		})
	}
}

// TestRecover follows a recovery through its progress to its end.
func TestRecover(t *testing.T) {
	show := func(p Progress) string {
		if p.Progress == nil {
			return strings.TrimSpace(p.Task + " " + p.Detail)
		}
		return fmt.Sprintf("%s %.2f %s", p.Task, *p.Progress, p.Detail)
	}
	for _, tt := range []struct {
		name string
		end  cluster.Command
		want string
		err  string
	}{
		{"done", cluster.Command{Kind: cluster.KindRecovered, Backend: "h2", Reason: "it streams"}, "h2 is recovered", ""},
		{
			"failed",
			cluster.Command{Kind: cluster.KindRecoverFailed, Backend: "h2", Reason: "no space left on device"},
			"", "the recovery of h2 has failed: no space left on device",
		},
		{
			"removed",
			cluster.Command{Kind: cluster.KindConfigure, Backends: []cluster.Spec{{Name: "h1", Address: "10.77.0.11:5432", Weight: 1, Agent: "h1"}}},
			"", "h2 was removed from the configuration",
		},
		{
			"another",
			cluster.Command{Kind: cluster.KindRecover, Backend: "h2"},
			"", "another recovery of h2 has begun",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.start()
			c := f.client()
			seen := make(chan string)
			ended := inBackground(t.Context(), func(ctx context.Context, see func(Progress) error) (string, error) {
				return c.Recover(ctx, "h2", true, see)
			}, show, seen)
			if got := <-seen; got != "waiting for the agent" {
				t.Errorf("first %q", got)
			}
			b := f.log.State().Backend("h2")
			if b.Status != cluster.StatusRecovering || !b.Recovery.InPlace {
				t.Fatalf("%+v", b)
			}
			f.local("h2", cluster.Local{Server: cluster.ServerBusy, Task: "rebuild", Progress: 0.25, Detail: "1 of 4 GB"})
			if got := <-seen; got != "rebuild 0.25 1 of 4 GB" {
				t.Errorf("then %q", got)
			}
			f.local("h2", cluster.Local{Server: cluster.ServerStandby, Recovery: b.Recovery.ID, Rebuilt: true})
			if got := <-seen; got != "stream waiting until it streams" {
				t.Errorf("then %q", got)
			}
			f.apply(tt.end)
			got := <-ended
			if got.sentence != tt.want || (got.err == nil) != (tt.err == "") || got.err != nil && got.err.Error() != tt.err {
				t.Errorf("%q, %v; want %q, %s", got.sentence, got.err, tt.want, tt.err)
			}
		})
	}
}

// TestRecoverIsLeft: the recovery goes on without the one who ordered it, and
// without the member that was asked.
func TestRecoverIsLeft(t *testing.T) {
	f := newFixture(t)
	stop := f.start()
	seen := make(chan string, 8)
	c := f.client()
	show := func(p Progress) string { return p.Detail }
	ctx, cancel := context.WithCancel(t.Context())
	ended := inBackground(ctx, func(ctx context.Context, see func(Progress) error) (string, error) {
		return c.Recover(ctx, "h2", false, see)
	}, show, seen)
	<-seen
	cancel()
	if got := <-ended; !errors.Is(got.err, context.Canceled) {
		t.Errorf("left: %v", got.err)
	}
	ended = inBackground(t.Context(), func(ctx context.Context, see func(Progress) error) (string, error) {
		return c.Recover(ctx, "h3", false, see)
	}, show, seen)
	<-seen
	stop()
	if got := <-ended; got.err == nil || got.err.Error() != "h1 stops; what was ordered goes on" {
		t.Errorf("the member stopped: %v", got.err)
	}
	for _, name := range []string{"h2", "h3"} {
		if b := f.log.State().Backend(name); b.Status != cluster.StatusRecovering || b.Recovery.Failed != "" {
			t.Errorf("%+v", b)
		}
	}
}

func TestWatchNodes(t *testing.T) {
	f := newFixture(t)
	f.start()
	c := f.client()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan []Node)
	ended := make(chan error, 1)
	go func() {
		ended <- c.WatchNodes(ctx, func(nodes []Node) error { seen <- nodes; return nil })
	}()
	if got := <-seen; len(got) != 4 || got[1].Status != "up" {
		t.Errorf("%+v", got)
	}
	f.apply(cluster.Command{Kind: cluster.KindDetach, Backend: "h2"})
	if got := <-seen; got[1].Status != "detached" {
		t.Errorf("%+v", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFollowEvents(t *testing.T) {
	f := newFixture(t)
	stop := f.start()
	c := f.client()
	seen := make(chan Event)
	ended := make(chan error, 1)
	go func() {
		ended <- c.FollowEvents(t.Context(), func(e Event) error { seen <- e; return nil })
	}()
	for _, want := range f.log.State().Events {
		if got := <-seen; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	f.apply(cluster.Command{Kind: cluster.KindDetach, Backend: "h2", Reason: "a test"})
	if got := <-seen; got.Backend != "h2" || got.Text != "detached: a test" {
		t.Errorf("%+v", got)
	}
	stop()
	if err := <-ended; err == nil || err.Error() != "h1 stops" {
		t.Errorf("%v", err)
	}
}
