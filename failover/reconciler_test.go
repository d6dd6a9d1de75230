package failover

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
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

// fakeWatchdog is a log of one process whose member leads and sees what the test
// sets.
type fakeWatchdog struct {
	*cluster.Log
	reports atomic.Pointer[map[string]cluster.Reported]
	changed atomic.Pointer[chan struct{}]
	asked   chan string
}

func newWatchdog(s cluster.State) *fakeWatchdog {
	f := &fakeWatchdog{Log: cluster.NewLog(s), asked: make(chan string, 10)}
	f.set()
	return f
}

func (f *fakeWatchdog) Leading() (uint64, time.Time, bool)              { return 1, time.Time{}, true }
func (f *fakeWatchdog) LeaderChanged() <-chan struct{}                  { return nil }
func (f *fakeWatchdog) ReportsChanged() <-chan struct{}                 { return *f.changed.Load() }
func (f *fakeWatchdog) Voters() []string                                { return []string{"m1"} }
func (f *fakeWatchdog) Barred(*cluster.Operation) (bool, time.Duration) { return true, 0 }
func (f *fakeWatchdog) Ask(_ context.Context, backend string)           { f.asked <- backend }

// Reports are always new: the member goes on reporting.
func (f *fakeWatchdog) Reports() map[string]cluster.Reported {
	m := maps.Clone(*f.reports.Load())
	for name, r := range m {
		r.At = time.Now()
		m[name] = r
	}
	return m
}

func (f *fakeWatchdog) set(all ...cluster.Observation) {
	for i := range all {
		all[i].Address = all[i].Backend
	}
	m := reportOf(time.Now(), math.MaxUint64, all)
	f.reports.Store(&m)
	c := make(chan struct{})
	if old := f.changed.Swap(&c); old != nil {
		close(*old)
	}
}

var testSettings = Settings{Self: "m1", Retries: 1, Interval: time.Second, Timeout: time.Second}

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
		seen := newWatchdog(newState(t, "h1", "h2"))
		reg := prometheus.NewRegistry()
		r, err := New(Default(), testSettings, seen, slog.New(slog.DiscardHandler), reg)
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
			if s := seen.State(); s.Primary != primary || s.Timeline != timeline {
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
		seen := newWatchdog(newState(t, "h1", "h2"))
		var out bytes.Buffer
		r, err := New(Default(), testSettings, seen, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		starting := cluster.Observation{Backend: "h2", Alive: true, Err: errors.New("starting up")}
		seen.set(is("h1", cluster.RolePrimary, 1), starting)

		adopted := seen.Log.Changed()
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
