package agent

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// loop is what Run owns. Only its goroutine touches it.
type loop struct {
	a    *Agent
	view View

	last    seen
	fresh   bool // last was begun after the last step ended
	looking bool
	asked   []chan struct{} // wait for a look that begins later
	waiting []chan struct{} // wait for the look under way
	// answered wait until what was seen is reported.
	answered []chan struct{}

	task      *task
	ended     time.Time // of the last task
	ours      bool      // since the server was last seen running a step may have stopped it
	detached  bool      // the operator has taken the backend out
	quiet     time.Time // since when the standby has been without a walreceiver
	idle      time.Time
	logGone   string // purpose: the primary and timeline that no longer have the log
	upkept    time.Time
	upkeeping bool
	upkeepErr string

	looks   chan seen
	done    chan error
	upkeeps chan upkept
}

type upkept struct {
	logGone bool
	primary string
	err     error
}

func newLoop(a *Agent) *loop {
	now := time.Now()
	return &loop{
		a: a,
		view: View{
			Backend: a.deps.Backend, Tried: make(map[Action]Attempt), Cold: true, Held: now,
			Managed: a.deps.Managed,
		},
		looks: make(chan seen), done: make(chan error), upkeeps: make(chan upkept),
	}
}

// run looks, reports and steps on a tick and whenever something has changed.
func (l *loop) run(ctx context.Context) error {
	under, cancel := context.WithCancel(ctx)
	defer l.drain()
	defer cancel()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		changed := l.a.deps.Changed() // taken before State is read
		l.advance(under)
		tick.Reset(l.untilNext())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.look(under)
		case <-changed:
			l.stateChanged()
		case s := <-l.looks:
			l.looking = false
			l.take(s)
		case err := <-l.done:
			l.taskEnded(err)
			l.look(under)
		case u := <-l.upkeeps:
			l.upkeepEnded(u)
		case done := <-l.a.wanted:
			l.asked = append(l.asked, done)
			l.look(under)
		}
	}
}

// drain awaits the goroutines of the loop. A look ends by its own bound.
func (l *loop) drain() {
	for l.looking || l.task != nil || l.upkeeping {
		select {
		case <-l.looks:
			l.looking = false
		case <-l.done:
			l.task = nil
		case <-l.upkeeps:
			l.upkeeping = false
		}
	}
	for _, done := range slices.Concat(l.asked, l.waiting, l.answered) {
		close(done)
	}
}

// untilNext returns when the loop has to look, or to try something again, by itself.
func (l *loop) untilNext() time.Duration {
	wait := l.interval() - time.Since(l.last.ended)
	switch {
	case l.looking:
		wait = time.Hour // its end wakes the loop
	case len(l.asked) > 0 || !l.fresh && l.task == nil:
		wait = 0
	case !l.quiet.IsZero() && time.Since(l.quiet) < 2*quietWait:
		wait = quietWait
	}
	for _, t := range l.view.Tried {
		if until := time.Until(t.Again); !t.Final && until > 0 {
			wait = min(wait, until)
		}
	}
	return max(wait, time.Millisecond)
}

// interval is how often the server is looked at.
func (l *loop) interval() time.Duration {
	o := l.a.deps.State().Operation
	switch {
	case o == nil:
		return lookEvery
	case o.Phase == cluster.PhaseStop && o.Target == l.a.deps.Backend:
		return lookAsTarget
	}
	return lookInOperation
}

// look begins a look when none is under way.
func (l *loop) look(ctx context.Context) {
	if l.looking {
		return
	}
	l.looking = true
	l.waiting, l.asked = append(l.waiting, l.asked...), nil
	go func() { l.looks <- l.a.look(context.WithoutCancel(ctx)) }()
}

// take takes over what a look has seen.
func (l *loop) take(s seen) {
	if s.began.Before(l.ended) { // from before the last step
		l.asked, l.waiting = append(l.asked, l.waiting...), nil
		return
	}
	l.answered, l.waiting = append(l.answered, l.waiting...), nil
	if s.State == cluster.ServerStandby {
		if !s.quiet {
			l.quiet = time.Time{}
		} else if l.quiet.IsZero() {
			l.quiet = s.began
		}
		s.Settling = s.quiet && s.began.Sub(l.quiet) < quietWait
	} else {
		l.quiet = time.Time{}
	}
	if s.State == cluster.ServerStandby && s.layout.Segment != 0 && s.pid == l.last.pid && l.last.State == cluster.ServerStandby {
		// A running server's timeline never goes back.
		if l.last.Timeline > s.Timeline {
			s.Timeline, s.History = l.last.Timeline, l.last.History
		}
	}
	l.watch(s)
	l.last, l.fresh = s, true
	l.view.Server, l.view.Files = s.Server, s.files
}

// watch draws what follows from one look after the other.
func (l *loop) watch(s seen) {
	v := &l.view
	switch s.State {
	case cluster.ServerPrimary, cluster.ServerStandby, cluster.ServerStarting, cluster.ServerHung, cluster.ServerUnknown:
		v.Cold, v.Halted, v.Down = false, false, time.Time{}
		if l.task == nil {
			l.ours = false
		}
	case cluster.ServerStopped, cluster.ServerMissing, cluster.ServerBusy:
		if v.Down.IsZero() {
			v.Down = s.began
			v.Halted = !v.Cold && !l.ours && l.task == nil && s.State == cluster.ServerStopped && s.Clean
		}
	}
	switch {
	case s.State != cluster.ServerStandby || s.Streaming:
		l.idle = time.Time{}
	case l.idle.IsZero() || s.End != l.last.End: // from an archive it gets on, too
		l.idle = s.began
	}
	v.Idle = l.idle
}

// stateChanged forgets what an earlier state had made so.
func (l *loop) stateChanged() {
	b := l.a.deps.State().Backend(l.a.deps.Backend)
	detached := b != nil && b.Status == cluster.StatusDetached
	if l.detached && !detached {
		l.view.Halted = false // attached: it is ours again
	}
	l.detached = detached
}

// advance looks at all there is and begins the next step.
func (l *loop) advance(ctx context.Context) {
	v := &l.view
	v.Now, v.State = time.Now(), l.a.deps.State()
	bounds := l.a.deps.Bounds()
	v.FenceAfter, v.RestartWait = bounds.FenceAfter, bounds.RestartWait
	if held := l.a.deps.Held(); held.After(v.Held) {
		v.Held = held
	}
	v.Server.LogGone = l.logGone != "" && l.logGone == primaryOf(v.State)
	l.report()
	for _, done := range l.answered {
		close(done)
	}
	l.answered = nil
	if l.last.ended.IsZero() || l.last.filesErr != nil {
		return
	}
	s := Next(*v)
	if l.task != nil {
		l.preempt(s)
		return
	}
	if !l.fresh {
		return
	}
	l.maybeUpkeep(ctx)
	if s.Action != ActionNone {
		l.beginTask(ctx, s)
	}
}

// primaryOf names the primary and its timeline.
func primaryOf(s *cluster.State) string {
	return Step{Source: s.Primary, Operation: uint64(s.Timeline)}.String()
}

// preempt gives up a step that can wait, or has lost its purpose, for one that
// cannot wait.
func (l *loop) preempt(s Step) {
	switch l.task.step.Action {
	case ActionRebuild, ActionRewind, ActionStartStandby, ActionFollow, ActionDetach, ActionCheckpoint, ActionSettle:
	case ActionNone, ActionStartPrimary, ActionRestartPrimary, ActionStopClean, ActionStopHard, ActionKill, ActionPromote, ActionFence:
		return // short, or not to be left half done
	}
	switch s.Action {
	case ActionKill, ActionPromote, ActionStopClean, ActionStopHard, ActionDetach:
		if s.Action != l.task.step.Action {
			l.task.cancel()
		}
	case ActionNone, ActionStartPrimary, ActionStartStandby, ActionRestartPrimary, ActionCheckpoint, ActionFollow,
		ActionRewind, ActionRebuild, ActionFence, ActionSettle:
	}
}

func (l *loop) beginTask(ctx context.Context, s Step) {
	ctx, cancel := context.WithCancel(ctx)
	t := &task{step: s, state: l.view.State, ctx: ctx, cancel: cancel}
	t.notes.progress(0, s.Why)
	l.task, l.fresh = t, false
	if t := l.view.Tried[s.Action]; t.For != s.For {
		l.a.log.Info(s.String(), "epoch", l.view.State.Epoch)
	}
	go func() { l.done <- l.a.take(ctx, t) }()
	l.report()
}

// taskEnded notes how a step ended.
func (l *loop) taskEnded(err error) {
	s := l.task.step
	cancelled := l.task.ctx.Err() != nil
	l.task.cancel()
	l.task = nil
	if _, ok := errors.AsType[*unconfirmedError](err); ok && s.Action != ActionRewind && s.Action != ActionRebuild {
		// Nothing was done: what was seen, and is being seen, is still so. (A server that
		// hangs takes longer to look at than the leader to be asked again.)
		l.fresh = true
		l.a.metrics.count(s.Action, err)
		l.failed(s, err)
		return
	}
	l.ended, l.fresh = time.Now(), false
	if stops(s.Action) {
		l.ours = true
	}
	l.quiet, l.upkept = time.Time{}, time.Time{}
	if s.Action == ActionDetach && err == nil {
		l.quiet = l.ended // it has seen the walreceiver gone
	}
	l.a.metrics.count(s.Action, err)
	if err == nil {
		delete(l.view.Tried, s.Action)
		if s.Action == ActionCheckpoint {
			l.view.Tried[s.Action] = Attempt{For: s.For, Final: true} // it leaves no other trace
		}
		return
	}
	if cancelled {
		return
	}
	l.failed(s, err)
}

// failed notes a failed attempt and when there may be another.
func (l *loop) failed(s Step, err error) {
	t := l.view.Tried[s.Action]
	if t.For != s.For {
		t = Attempt{For: s.For}
	}
	said := t.Err
	t.Count++
	t.Err = err.Error()
	wait := min(time.Second<<min(t.Count-1, 6), time.Minute)
	if _, ok := errors.AsType[*unconfirmedError](err); ok {
		wait = leaseLength / 4
	}
	_, t.Final = errors.AsType[*finalError](err)
	t.Again = time.Now().Add(wait)
	l.view.Tried[s.Action] = t
	if said != t.Err {
		l.a.log.Warn(s.Action.String()+" has failed", "err", err, "final", t.Final, "times", t.Count)
	}
}

// stops tells whether a step may leave the server stopped, or restarted.
func stops(a Action) bool {
	switch a {
	case ActionStartPrimary, ActionStartStandby, ActionRestartPrimary, ActionStopClean, ActionStopHard, ActionKill,
		ActionRewind, ActionRebuild, ActionFence:
		return true
	case ActionNone, ActionCheckpoint, ActionDetach, ActionPromote, ActionFollow, ActionSettle:
	}
	return false
}

// maybeUpkeep begins an upkeep when it is time for one.
func (l *loop) maybeUpkeep(ctx context.Context) {
	if l.upkeeping || time.Since(l.upkept) < upkeepEvery {
		return
	}
	l.upkeeping, l.upkept = true, time.Now()
	s, idle, primary := l.last, l.idle, primaryOf(l.view.State)
	go func() {
		gone, err := l.a.upkeep(ctx, s, idle)
		l.upkeeps <- upkept{logGone: gone, primary: primary, err: err}
	}()
}

func (l *loop) upkeepEnded(u upkept) {
	l.upkeeping = false
	l.logGone = ""
	if u.logGone {
		l.logGone = u.primary
	}
	text := ""
	if u.err != nil {
		text = u.err.Error()
	}
	if text != "" && text != l.upkeepErr {
		l.a.log.Warn("keep up slots and configuration", "err", u.err)
	}
	l.upkeepErr = text
}

// report publishes what the leader is told, and tells that there is news.
func (l *loop) report() {
	r := &reported{Local: Report(l.view), at: l.last.ended}
	if r.at.IsZero() {
		r.at = time.Now()
	}
	if l.last.err != nil && r.Trouble == "" {
		r.Trouble = l.last.err.Error()
	}
	if !l.settled() {
		r.Detached = false
	}
	if l.task != nil {
		r.Task, r.task, r.Trouble = l.task.step.Action.String(), &l.task.notes, ""
		if stops(l.task.step.Action) && !r.Stopped && (r.Server == cluster.ServerStopped || r.Server == cluster.ServerMissing) {
			r.Server = cluster.ServerBusy
		}
	}
	before := l.a.local.Swap(r)
	if news(&before.Local, &r.Local) {
		l.a.deps.Nudge()
	}
}

// settled tells whether what was seen of the standby's source is still so: since then no
// step has given it another, nor is one about to. (Its log would grow beyond the End
// that is reported, S5.)
func (l *loop) settled() bool {
	if l.task == nil {
		return l.fresh
	}
	switch l.task.step.Action {
	case ActionRebuild, ActionDetach, ActionCheckpoint, ActionSettle:
		return true
	case ActionNone, ActionStartPrimary, ActionStartStandby, ActionRestartPrimary, ActionStopClean, ActionStopHard, ActionKill,
		ActionPromote, ActionFollow, ActionRewind, ActionFence:
	}
	return false
}

// news tells whether the leader would decide otherwise by the one than by the other.
func news(before, after *cluster.Local) bool {
	x, y := *before, *after
	for _, l := range []*cluster.Local{&x, &y} {
		l.Age, l.Slots, l.Progress, l.Detail = 0, nil, 0, ""
		if l.Operation == 0 && (l.Server == cluster.ServerPrimary || l.Server == cluster.ServerStandby) {
			l.End = 0 // grows all the time
		}
	}
	return !reflect.DeepEqual(x, y)
}
