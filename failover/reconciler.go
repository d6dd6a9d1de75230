package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// tick is how often the leader looks when nothing seems to have changed: what
// waits for a time to pass, a silent member above all, needs it.
const tick = 100 * time.Millisecond

// askTimeout bounds one round of probes by all members.
const askTimeout = 5 * time.Second

// Watchdog is the replicated state, and what the leader knows of the members.
type Watchdog interface {
	State() *cluster.State
	Changed() <-chan struct{} // closed at the next change
	Propose(context.Context, cluster.Command) (cluster.State, error)

	// Leading reports whether this member leads, and since when.
	Leading() (term uint64, since time.Time, ok bool)
	LeaderChanged() <-chan struct{}
	// Reports are those of this leadership, by member, this one's included.
	Reports() map[string]cluster.Reported
	ReportsChanged() <-chan struct{}
	Voters() []string
	// Barred reports whether nobody can use the old primary of o any more (S2), or
	// how long to wait at most.
	Barred(o *cluster.Operation) (done bool, wait time.Duration)
	// Ask has every member look at a backend now; it returns when they have reported.
	Ask(ctx context.Context, backend string)
}

// Settings is what the Reconciler takes from other sections of the configuration.
type Settings struct {
	Self              string         // name of this member
	Backends          []cluster.Spec // of the file
	Retries           int            // health.retries
	Interval, Timeout time.Duration  // health.interval, health.timeout
	Drain             time.Duration  // hold.drain
	Lease             time.Duration  // watchdog.lease
}

// firstLook is for how long after the start it is not logged that there is no
// primary.
const firstLook = 2 * time.Second

// Reconciler proposes what Decide wants, while this member leads.
type Reconciler struct {
	rules    atomic.Pointer[rules]
	watchdog Watchdog
	log      *slog.Logger
	metrics  *metrics
	began    time.Time      // when Run did
	last     *cluster.State // that known was learnt from
	known    Known
	waiting  repeated
	refused  repeated

	asks sync.WaitGroup
	mu   struct {
		sync.Mutex
		asking map[string]bool // backends that are being asked for
	}
}

// rules is the configuration in force. It is immutable.
type rules struct {
	cfg      Config
	settings Settings
}

// Configure puts another configuration in force, from the next look on.
func (r *Reconciler) Configure(cfg Config, settings Settings) {
	r.rules.Store(&rules{cfg: cfg, settings: settings})
}

// New returns a Reconciler.
func New(cfg Config, settings Settings, watchdog Watchdog, log *slog.Logger, reg prometheus.Registerer) (*Reconciler, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	r := &Reconciler{watchdog: watchdog, log: log, metrics: m, last: &cluster.State{}}
	r.mu.asking = make(map[string]bool)
	r.Configure(cfg, settings)
	return r, nil
}

// Run reconciles until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	r.began = time.Now()
	defer r.asks.Wait()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		// Taken before the look, so that what changes during it is looked at too.
		state, reports, leader := r.watchdog.Changed(), r.watchdog.ReportsChanged(), r.watchdog.LeaderChanged()
		r.learn()
		var ticks <-chan time.Time
		if _, since, ok := r.watchdog.Leading(); ok {
			r.reconcile(ctx, since)
			ticks = t.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks:
		case <-state:
		case <-reports:
		case <-leader:
		}
	}
}

// learn notes when this member learnt of what the State says now.
func (r *Reconciler) learn() {
	if now := r.watchdog.State(); now != r.last {
		r.known, r.last = r.known.Learn(r.last, now, time.Now()), now
	}
}

// reconcile looks once and proposes what follows.
func (r *Reconciler) reconcile(ctx context.Context, since time.Time) {
	in := r.input(since)
	d := Decide(in)
	if in.Now.Sub(r.began) < firstLook {
		// Not all backends have been probed: nothing to complain about yet.
	} else if n := r.waiting.next(d.Waiting, in.Now); n > 0 {
		r.log.Warn("waiting", "why", d.Waiting, "times", n)
	}
	for _, b := range d.Ask {
		r.ask(ctx, b)
	}
	for _, c := range d.Commands {
		before := r.watchdog.State()
		after, err := r.watchdog.Propose(ctx, c)
		if errors.Is(err, cluster.ErrEpoch) || ctx.Err() != nil {
			return // decided on what is no longer so
		}
		if err != nil {
			if n := r.refused.next(err.Error(), in.Now); n > 0 {
				r.log.Error("propose command", "command", c.String(), "err", err, "times", n)
			}
			return
		}
		r.log.Log(ctx, level(c), fmt.Sprintf("cluster: %s", c), "epoch", after.Epoch)
		r.metrics.count(before, c)
	}
}

func (r *Reconciler) input(since time.Time) Input {
	now := r.rules.Load()
	cfg, settings := now.cfg, now.settings
	in := Input{
		Now: time.Now(), Since: since, Known: r.known, Self: settings.Self,
		State: r.last, Reports: r.watchdog.Reports(), Voters: r.watchdog.Voters(),
		Backends: settings.Backends,
		Mode:     cfg.Mode, Retries: settings.Retries, Interval: settings.Interval, Timeout: settings.Timeout, Lease: settings.Lease,
		StartWait: cfg.StartWait, RestartWait: cfg.RestartWait, PromoteWait: cfg.PromoteWait,
		StopWait: cfg.StopWait, DiskWait: cfg.DiskWait, Drain: settings.Drain, SlotKeep: uint64(cfg.SlotKeep),
	}
	if o := in.State.Operation; o.Barred() {
		in.Barred, _ = r.watchdog.Barred(o)
	}
	return in
}

// ask has all members look at a backend, once at a time.
func (r *Reconciler) ask(ctx context.Context, backend string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.asking[backend] {
		return
	}
	r.mu.asking[backend] = true
	r.asks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		r.watchdog.Ask(ctx, backend)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.mu.asking, backend)
	})
}

// level returns how loud a change is.
func level(c cluster.Command) slog.Level {
	switch c.Kind {
	case cluster.KindClearPrimary, cluster.KindMarkRebuild, cluster.KindBegin, cluster.KindAbandon, cluster.KindEnd,
		cluster.KindRecoverFailed:
		return slog.LevelWarn
	case cluster.KindSetStatus:
		if c.Status != cluster.StatusUp {
			return slog.LevelWarn
		}
	case cluster.KindUnknown, cluster.KindConfigure, cluster.KindSetRole, cluster.KindAdoptPrimary,
		cluster.KindDetach, cluster.KindAttach, cluster.KindAdvance, cluster.KindHold, cluster.KindSync,
		cluster.KindRecover, cluster.KindRecovered, cluster.KindSetFailover, cluster.KindFormat, cluster.KindPause:
	}
	return slog.LevelInfo
}

// repeated thins out what a loop says again and again: a new text at once, the
// same one each minute.
type repeated struct {
	text  string
	count int
	said  time.Time
}

// next takes one more text ("" ends the trouble) and returns how often it was
// seen when it is to be logged now, else 0.
func (r *repeated) next(text string, now time.Time) int {
	if text != r.text {
		*r = repeated{text: text}
	}
	if text == "" {
		return 0
	}
	r.count++
	if r.count > 1 && now.Sub(r.said) < time.Minute {
		return 0
	}
	r.said = now
	return r.count
}
