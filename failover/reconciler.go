package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// tick is how often the state is looked at when nothing seems to have changed:
// what waits for a time to pass needs it.
const tick = time.Second

// Log is the owner of the cluster state.
type Log interface {
	State() *cluster.State
	Changed() <-chan struct{} // closed at the next change
	Propose(context.Context, cluster.Command) (cluster.State, error)
}

// Observer says what the backends were last seen to be.
type Observer interface {
	Observations() map[string]cluster.Observation
	Changed() <-chan struct{} // closed at the next change
}

// firstLook is for how long after the start it is not logged that there is no
// primary.
const firstLook = 2 * time.Second

// Reconciler proposes what Decide wants.
type Reconciler struct {
	cfg      Config
	retries  int
	cluster  Log
	observer Observer
	log      *slog.Logger
	metrics  *metrics
	began    time.Time // when Run did
	waiting  repeated
	refused  repeated
}

// New returns a Reconciler; retries is health.retries.
func New(cfg Config, retries int, cluster Log, observer Observer, log *slog.Logger, reg prometheus.Registerer) (*Reconciler, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	return &Reconciler{cfg: cfg, retries: retries, cluster: cluster, observer: observer, log: log, metrics: m}, nil
}

// Run reconciles until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	r.began = time.Now()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		// Taken before the look, so that what changes during it is looked at too.
		state, seen := r.cluster.Changed(), r.observer.Changed()
		r.reconcile(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-state:
		case <-seen:
		}
	}
}

// reconcile looks once and proposes what follows.
func (r *Reconciler) reconcile(ctx context.Context) {
	now := time.Now()
	before := r.cluster.State()
	d := Decide(Input{
		Now: now, State: before, Observations: r.observer.Observations(),
		Mode: r.cfg.Mode, Retries: r.retries, StartWait: r.cfg.StartWait,
	})
	if now.Sub(r.began) < firstLook {
		// Not all backends have been probed: nothing to complain about yet.
	} else if n := r.waiting.next(d.Waiting, now); n > 0 {
		r.log.Warn("no primary", "why", d.Waiting, "times", n)
	}
	for _, c := range d.Commands {
		after, err := r.cluster.Propose(ctx, c)
		if errors.Is(err, cluster.ErrEpoch) || ctx.Err() != nil {
			return // decided on what is no longer so
		}
		if err != nil {
			if n := r.refused.next(err.Error(), now); n > 0 {
				r.log.Error("propose command", "command", c.String(), "err", err, "times", n)
			}
			return
		}
		r.log.Log(ctx, level(c), fmt.Sprintf("cluster: %s", c), "epoch", after.Epoch)
		r.metrics.count(before, c)
	}
}

// level returns how loud a change is.
func level(c cluster.Command) slog.Level {
	switch c.Kind {
	case cluster.KindClearPrimary, cluster.KindMarkRebuild:
		return slog.LevelWarn
	case cluster.KindSetStatus:
		if c.Status != cluster.StatusUp {
			return slog.LevelWarn
		}
	case cluster.KindUnknown, cluster.KindConfigure, cluster.KindSetRole, cluster.KindAdoptPrimary,
		cluster.KindDetach, cluster.KindAttach:
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
