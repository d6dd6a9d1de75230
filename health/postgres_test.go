package health

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// world is a real cluster with a Monitor of it.
type world struct {
	*Monitor
	t  *testing.T
	pg *pgtest.Cluster

	mu struct {
		sync.Mutex
		primary  string
		timeline uint32
	}
}

func newWorld(t *testing.T, standbys int) *world {
	w := &world{t: t, pg: pgtest.StartCluster(t, pgtest.Options{Standbys: standbys})}
	w.mu.primary, w.mu.timeline = "h1", 1
	w.exec("h1", "GRANT pg_monitor TO "+pgtest.MonitorUser)
	if err := w.pg.WaitForCatchup(t.Context()); err != nil {
		t.Fatal(err)
	}
	var targets []Target
	for _, s := range w.pg.Servers {
		targets = append(targets, Target{Name: s.Name, Address: s.Address()})
	}
	conn := func(name string) (*pgconn.Config, error) {
		return pgconn.ParseConfig(w.pg.Server(name).DSN("postgres", pgtest.MonitorUser))
	}
	// The timeout is long: on a slow machine only a frozen server may miss it.
	m, err := New(Config{Interval: 100 * time.Millisecond, Timeout: 5 * time.Second, Retries: 1}, targets, conn, w.primary, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	w.Monitor = m
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return w
}

func (w *world) primary() (string, uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.primary, w.mu.timeline
}

func (w *world) setPrimary(name string, timeline uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.primary, w.mu.timeline = name, timeline
}

func (w *world) exec(server, sql string) {
	w.t.Helper()
	if err := w.pg.Server(server).Exec(w.t.Context(), "postgres", sql); err != nil {
		w.t.Fatal(err)
	}
}

// await returns the first observation of a backend that is as wanted.
func (w *world) await(backend, what string, as func(cluster.Observation) bool) cluster.Observation {
	w.t.Helper()
	for {
		changed := w.Changed()
		o := w.Observations()[backend]
		if as(o) {
			return o
		}
		select {
		case <-changed:
		case <-w.t.Context().Done():
			w.t.Fatalf("%s is not %s: %+v", backend, what, o)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ready(o cluster.Observation) bool { return o.Ready }

// TestObserveCluster looks at a real cluster through its life.
func TestObserveCluster(t *testing.T) {
	w := newWorld(t, 2)
	ctx := t.Context()

	p := w.await("h1", "ready", ready)
	if p.Role != cluster.RolePrimary || p.Timeline != 1 || p.SystemID == 0 || p.LSN == 0 || p.Version/10000 < 13 || p.PostmasterAt.IsZero() {
		t.Errorf("primary: %+v", p)
	}
	s := w.await("h2", "a replica that streams", func(o cluster.Observation) bool { return o.ReplicaState == "streaming" })
	if s.Role != cluster.RoleStandby || s.Timeline != 1 || s.SystemID != p.SystemID || s.SyncState != "async" || !s.Streaming || s.Incompatible != "" {
		t.Errorf("standby: %+v", s)
	}

	// After a switch of the log file an idle primary is not ahead of anybody.
	w.exec("h1", "SELECT pg_switch_wal()")
	check(t, w.pg.WaitForCatchup(ctx))
	marked := w.Observations()["h1"].At
	w.await("h1", "probed again", func(o cluster.Observation) bool { return o.At.After(marked) })
	marked = time.Now()
	w.await("h2", "level with an idle primary", func(o cluster.Observation) bool {
		return o.At.After(marked) && o.LagBytes == 0 && o.LagSeconds == 0
	})

	// What must be synchronous is the primary's to say.
	w.exec("h1", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	w.exec("h1", "SELECT pg_reload_conf()")
	w.await("h1", "synchronous", func(o cluster.Observation) bool { return o.SyncNames == "nobody" })
	w.exec("h1", "ALTER SYSTEM RESET synchronous_standby_names")
	w.exec("h1", "SELECT pg_reload_conf()")
	w.await("h1", "asynchronous", func(o cluster.Observation) bool { return o.SyncNames == "" })

	// What is not replayed is lag, in bytes and in growing seconds.
	check(t, w.pg.PauseReplay(ctx, "h2"))
	w.exec("h1", "CREATE TABLE t AS SELECT generate_series(1, 10000) AS n")
	w.await("h2", "behind", func(o cluster.Observation) bool { return o.LagBytes > 100_000 && o.LagSeconds > 0.5 })
	check(t, w.pg.ResumeReplay(ctx, "h2"))
	w.await("h2", "level again", func(o cluster.Observation) bool { return o.LagBytes == 0 && o.LagSeconds == 0 })

	// Other settings, other answers.
	w.exec("h3", "ALTER SYSTEM SET extra_float_digits = 0")
	w.exec("h3", "SELECT pg_reload_conf()")
	o := w.await("h3", "incompatible", func(o cluster.Observation) bool { return o.Incompatible != "" })
	if want := `extra_float_digits is "0", the primary's is "1"`; o.Incompatible != want {
		t.Errorf("incompatible: %s, want %s", o.Incompatible, want)
	}
	w.exec("h3", "ALTER SYSTEM RESET extra_float_digits")
	w.exec("h3", "SELECT pg_reload_conf()")
	w.await("h3", "compatible", func(o cluster.Observation) bool { return o.Ready && o.Incompatible == "" })

	// A clean stop and a start.
	check(t, w.pg.Server("h3").Stop(ctx, pgtest.StopFast))
	w.await("h3", "dead", func(o cluster.Observation) bool { return !o.Alive && o.Failures > 1 && o.Refused })
	check(t, w.pg.Server("h3").Start(ctx))
	w.await("h3", "back", func(o cluster.Observation) bool { return o.Ready && o.Failures == 0 })

	// The primary dies: the standbys have replayed all that will come, and a
	// standby remembers the timeline that it followed.
	check(t, w.pg.Server("h1").Kill(ctx))
	w.await("h1", "dead", func(o cluster.Observation) bool { return !o.Alive && o.Failures > 1 })
	w.await("h2", "without lag", func(o cluster.Observation) bool {
		return o.Ready && o.LagSeconds == 0 && o.ReplicaState == "" && !o.Streaming
	})

	// A promotion: the new timeline at once, though the control file has the old one.
	check(t, w.pg.Promote(ctx, "h2"))
	o = w.await("h2", "the primary", func(o cluster.Observation) bool { return o.Role == cluster.RolePrimary })
	if o.Timeline != 2 {
		t.Errorf("promoted: %+v", o)
	}
	w.setPrimary("h2", 2)
	w.await("h3", "on timeline 2", func(o cluster.Observation) bool {
		return o.Timeline == 2 && o.Incompatible == "" && o.ReplicaState == "streaming"
	})
	check(t, w.pg.Server("h2").Kill(ctx))
	w.await("h2", "dead", func(o cluster.Observation) bool { return !o.Alive })
	marked = time.Now()
	o = w.await("h3", "probed", func(o cluster.Observation) bool { return o.At.After(marked) && o.Ready })
	if o.Timeline != 2 {
		t.Errorf("without a walreceiver the standby is on timeline %d, want 2", o.Timeline)
	}
}

// TestFrozenServer: a server that accepts and never answers is dead, whatever its
// kernel says, and nothing of the probes stays behind.
func TestFrozenServer(t *testing.T) {
	w := newWorld(t, 0)
	w.await("h1", "ready", ready)
	w.Sampler().Request()
	check(t, w.pg.Server("h1").Pause())
	o := w.await("h1", "dead", func(o cluster.Observation) bool { return o.Failures == 1 })
	if o.Alive {
		t.Errorf("%+v", o)
	}
	check(t, w.pg.Server("h1").Continue())
	w.await("h1", "back", ready)
}

// TestMonitorWithoutRights: a role without pg_monitor still sees what matters.
func TestMonitorWithoutRights(t *testing.T) {
	w := newWorld(t, 1)
	w.exec("h1", "REVOKE pg_monitor FROM "+pgtest.MonitorUser)
	check(t, w.pg.WaitForCatchup(t.Context()))
	marked := time.Now()
	o := w.await("h2", "probed", func(o cluster.Observation) bool { return o.At.After(marked) })
	if !o.Ready || o.Role != cluster.RoleStandby || o.Timeline != 1 || o.SystemID == 0 {
		t.Errorf("%+v", o)
	}
}

// sampleAfter asks for a sample as a session does, and returns the first that was
// asked for after now.
func (w *world) sampleAfter() *cluster.Samples {
	w.t.Helper()
	s := w.Sampler()
	mark := s.Mark()
	s.Request()
	return w.awaitSamples("a new round", func(n *cluster.Samples) bool { return n.Round > mark })
}

func (w *world) awaitSamples(what string, as func(*cluster.Samples) bool) *cluster.Samples {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		n := w.Sampler().Samples()
		if as(n) {
			return n
		}
		select {
		case <-tick.C:
		case <-w.t.Context().Done():
			w.t.Fatalf("no %s: %+v", what, n)
		}
	}
}

func replayed(n *cluster.Samples, backend string) cluster.Replayed {
	for _, r := range n.Replayed {
		if r.Backend == backend {
			return r
		}
	}
	return cluster.Replayed{}
}

// TestSampleReadYourWrites writes, samples and reads on the standby as soon as
// the samples allow it, with replay that stutters: the write is always there.
func TestSampleReadYourWrites(t *testing.T) {
	w := newWorld(t, 1)
	ctx := t.Context()
	open := func(server string) *pgx.Conn {
		c, err := w.pg.Server(server).Conn(ctx, "postgres", pgtest.Superuser)
		check(t, err)
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	primary, standby := open("h1"), open("h2")
	_, err := primary.Exec(ctx, "CREATE TABLE counter AS SELECT 0 AS n")
	check(t, err)
	// Commits are acknowledged before they are sent, if not for long.
	w.exec("h1", "ALTER SYSTEM SET wal_writer_delay = '20ms'")
	w.exec("h1", "SELECT pg_reload_conf()")
	_, err = primary.Exec(ctx, "SET synchronous_commit = off")
	check(t, err)
	for i := range 200 {
		if i%50 == 10 {
			check(t, w.pg.PauseReplay(ctx, "h2"))
		}
		_, err := primary.Exec(ctx, fmt.Sprintf("UPDATE counter SET n = %d", i))
		check(t, err)
		n := w.sampleAfter()
		if n.Primary != "h1" || n.Timeline != 1 {
			t.Fatalf("%+v", n)
		}
		if i%50 == 10 {
			if r := replayed(w.Sampler().Samples(), "h2"); r.LSN >= n.LSN {
				t.Fatalf("replay is paused, but %+v covers %+v", r, n)
			}
			check(t, w.pg.ResumeReplay(ctx, "h2"))
		}
		// Without another Request: the sampler goes on asking a standby that lags.
		w.awaitSamples("standby that caught up", func(s *cluster.Samples) bool {
			r := replayed(s, "h2")
			return r.Timeline == n.Timeline && r.LSN >= n.LSN
		})
		var got int
		check(t, standby.QueryRow(ctx, "SELECT n FROM counter").Scan(&got))
		if got != i {
			t.Fatalf("wrote %d, read %d", i, got)
		}
	}
}

// TestSampleForgets: after a standby's restart nothing that it said before
// counts, and after a promotion the samples are the new primary's.
func TestSampleForgets(t *testing.T) {
	w := newWorld(t, 2)
	ctx := t.Context()
	w.sampleAfter()
	w.awaitSamples("both standbys", func(n *cluster.Samples) bool { return len(n.Replayed) == 2 })
	check(t, w.pg.Server("h2").Kill(ctx))
	w.awaitSamples("end of h2", func(n *cluster.Samples) bool { return replayed(n, "h2").Backend == "" })
	check(t, w.pg.Server("h2").Start(ctx))
	w.await("h2", "back", ready)
	w.awaitSamples("h2 again", func(n *cluster.Samples) bool {
		w.Sampler().Request()
		return replayed(n, "h2").LSN != 0
	})

	check(t, w.pg.Server("h1").Kill(ctx))
	check(t, w.pg.Promote(ctx, "h2"))
	w.setPrimary("h2", 2)
	w.awaitSamples("samples of h2 on timeline 2, followed by h3", func(n *cluster.Samples) bool {
		w.Sampler().Request()
		r := replayed(n, "h3")
		return n.Primary == "h2" && n.Timeline == 2 && r.Timeline == 2 && r.LSN >= n.LSN
	})
	if r := replayed(w.Sampler().Samples(), "h2"); r.Backend != "" {
		t.Errorf("the primary is still listed as a standby: %+v", r)
	}
}
