package failover

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeObserver shows what the test sets.
type fakeObserver struct {
	all     atomic.Pointer[map[string]cluster.Observation]
	changed atomic.Pointer[chan struct{}]
}

func newObserver() *fakeObserver {
	f := &fakeObserver{}
	f.all.Store(&map[string]cluster.Observation{})
	c := make(chan struct{})
	f.changed.Store(&c)
	return f
}

func (f *fakeObserver) Observations() map[string]cluster.Observation { return *f.all.Load() }
func (f *fakeObserver) Changed() <-chan struct{}                     { return *f.changed.Load() }

func (f *fakeObserver) set(all ...cluster.Observation) {
	m := map[string]cluster.Observation{}
	for _, o := range all {
		o.Address = o.Backend
		m[o.Backend] = o
	}
	f.all.Store(&m)
	c := make(chan struct{})
	close(*f.changed.Swap(&c))
}

func newState(t *testing.T, names ...string) cluster.State {
	c := cluster.Command{Kind: cluster.KindConfigure, At: time.Now()}
	for _, n := range names {
		c.Backends = append(c.Backends, cluster.Spec{Name: n, Address: n})
	}
	return applyAll(t, cluster.State{}, []cluster.Command{c})
}

func is(name string, role cluster.Role, timeline uint32) cluster.Observation {
	return cluster.Observation{Backend: name, Alive: true, Ready: true, Role: role, SystemID: 7, Timeline: timeline}
}

func dead(name string) cluster.Observation {
	return cluster.Observation{Backend: name, Failures: 5, Err: errors.New("connection refused")}
}

// failovers returns the sum of failovers_total.
func failovers(t *testing.T, reg *prometheus.Registry) float64 {
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "pgproxy_failovers_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no pgproxy_failovers_total")
	return 0
}

func TestRunFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := cluster.NewLog(newState(t, "h1", "h2"))
		seen := newObserver()
		reg := prometheus.NewRegistry()
		r, err := New(Default(), 1, log, seen, slog.New(slog.DiscardHandler), reg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()

		want := func(primary string, timeline uint32) {
			t.Helper()
			begin := time.Now()
			synctest.Wait()
			if s := log.State(); s.Primary != primary || s.Timeline != timeline {
				t.Errorf("primary is %q on timeline %d, want %q on %d", s.Primary, s.Timeline, primary, timeline)
			}
			if time.Since(begin) != 0 {
				t.Error("it took a tick to see a change")
			}
		}
		seen.set(is("h1", cluster.RolePrimary, 1), is("h2", cluster.RoleStandby, 1))
		want("h1", 1)
		if n := failovers(t, reg); n != 0 {
			t.Errorf("the first adoption was counted as %v failovers", n)
		}
		seen.set(dead("h1"), is("h2", cluster.RolePrimary, 2))
		want("h2", 2)
		if n := failovers(t, reg); n != 1 {
			t.Errorf("%v failovers counted, want 1", n)
		}

		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// TestRunLooksAgainInTime: nothing changes but the time, and start_wait ends.
func TestRunLooksAgainInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := cluster.NewLog(newState(t, "h1", "h2"))
		seen := newObserver()
		var out bytes.Buffer
		r, err := New(Default(), 1, log, seen, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		starting := cluster.Observation{Backend: "h2", Alive: true, Err: errors.New("starting up")}
		seen.set(is("h1", cluster.RolePrimary, 1), starting)

		adopted := log.Changed()
		begin := time.Now()
		<-adopted
		if waited := time.Since(begin); waited < time.Minute || waited > time.Minute+tick {
			t.Errorf("adopted after %v, want start_wait", waited)
		}
		cancel()
		<-done
		if n := strings.Count(out.String(), "starting up"); n != 1 {
			t.Errorf("logged %d times in a minute why it waits, want once:\n%s", n, out.String())
		}
	})
}

func TestRepeated(t *testing.T) {
	var r repeated
	at := time.Unix(0, 0)
	for i, step := range []struct {
		text  string
		after time.Duration
		want  int
	}{
		{"a", 0, 1},
		{"a", 30 * time.Second, 0},
		{"a", 31 * time.Second, 3},
		{"a", time.Second, 0},
		{"b", 0, 1},
		{"", 0, 0},
		{"b", 0, 1},
	} {
		at = at.Add(step.after)
		if got := r.next(step.text, at); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}
