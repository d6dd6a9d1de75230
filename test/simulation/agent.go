package simulation

import (
	"time"

	real "github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	lookEvery    = 250 * time.Millisecond
	stepTimeout  = 10 * time.Second
	retryAfter   = time.Second
	fenceAfter   = 10 * time.Second
	restartWait  = 2 * time.Second
	rewindTakes  = time.Second
	rebuildTakes = 3 * time.Second
)

// agent is the shell around agent.Next: it looks, asks, and has the server do it.
type agent struct {
	m      *member
	v      *server
	files  real.Files // on disk
	halted bool       // the server was shut down by an operator

	// Of the process.
	seen    real.Server
	tried   map[real.Action]real.Attempt
	task    *task
	cold    bool
	down    time.Time
	idle    time.Time
	looking bool
}

// task is a step that is being carried out.
type task struct {
	step   real.Step
	ended  bool
	asking bool // it waits for the leader's word
}

func newAgent(m *member, v *server) *agent { return &agent{m: m, v: v} }

func (a *agent) start() {
	a.tried, a.task, a.cold = map[real.Action]real.Attempt{}, nil, true
	a.down, a.idle, a.looking = time.Time{}, time.Time{}, false
	a.look()
	a.m.every(lookEvery, a.look)
}

// crash leaves what the server does by itself.
func (a *agent) crash() { a.task = nil }

// lookSoon has the agent look because the state has changed.
func (a *agent) lookSoon() {
	if !a.looking {
		a.looking = true
		a.m.in(time.Millisecond, func() {
			a.looking = false
			a.look()
		})
	}
}

// look sees what the server is, and begins the next step some time later.
func (a *agent) look() {
	now := a.m.clock()
	before := a.seen
	a.seen = a.see()
	switch a.seen.State {
	case cluster.ServerPrimary, cluster.ServerStandby:
		a.cold, a.halted, a.down = false, false, time.Time{}
	case cluster.ServerStopped, cluster.ServerMissing:
		if a.down.IsZero() {
			a.down = now
		}
	case cluster.ServerUnknown, cluster.ServerStarting, cluster.ServerHung, cluster.ServerBusy:
	}
	switch {
	case a.seen.State != cluster.ServerStandby || a.seen.Streaming:
		a.idle = time.Time{}
	case a.idle.IsZero():
		a.idle = now
	}
	if before.State != a.seen.State || before.Receiver != a.seen.Receiver || before.Follows != a.seen.Follows || before.Timeline != a.seen.Timeline {
		a.m.nudge()
	}
	if a.task == nil {
		a.m.soon(a.next)
	}
}

func (a *agent) view() real.View {
	return real.View{
		Now: a.m.clock(), Backend: a.v.name, State: a.m.sim.mutant.seen(a.m.state, a.v.name, a.seen.Timeline), Server: a.seen, Files: a.files, Tried: a.tried,
		Cold: a.cold, Halted: a.halted, Down: a.down, Idle: a.idle, Held: later(a.m.holder.Held(), a.m.since),
		Managed: true, FenceAfter: fenceAfter, RestartWait: restartWait,
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (a *agent) see() real.Server {
	v := a.v
	s := real.Server{SystemID: systemID, Timeline: v.timeline, End: v.end(), History: v.history, Signal: v.signal, Rewindable: true}
	switch {
	case v.frozen:
		s.State = cluster.ServerHung
	case v.starting:
		s.State = cluster.ServerStarting
	case !v.up:
		s.State = cluster.ServerStopped
		s.Clean, s.Produced, s.Backup = v.clean, v.produced && a.m.sim.mutant != sameTimelineRewound, v.backup
	case v.standby:
		s.State = cluster.ServerStandby
		s.Follows, s.Receiver, s.Streaming = v.source, v.receiver != nil, v.receiver != nil
	default:
		s.State = cluster.ServerPrimary
	}
	return s
}

func (a *agent) report() *cluster.Local {
	l := real.Report(a.view())
	if a.task != nil {
		l.Task = a.task.step.Action.String()
	}
	return &l
}

// next decides and begins, once the leader has confirmed what cannot be taken back.
func (a *agent) next() {
	if a.task != nil || !a.v.powered {
		return
	}
	step := real.Next(a.view())
	if step.Action == real.ActionNone {
		return
	}
	t := &task{step: step, asking: true}
	a.task = t
	begin := func() {
		t.asking = false
		a.m.sim.trace("%s: agent: %s", a.m.name, step)
		a.m.sim.truth.count["agent: "+step.Action.String()]++
		a.m.sim.assertStep(a, step)
		a.begin(t)
	}
	if !step.Action.Irreversible() || a.m.sim.mutant == promoteWithoutConfirm {
		begin()
		return
	}
	asked := a.m.clock()
	a.m.in(length, func() {
		if t.asking {
			a.drop(t)
		}
	})
	a.m.confirmed(func() {
		if !t.asking || a.task != t {
			return
		}
		again := real.Next(a.view())
		if again.Action != step.Action || again.For != step.For || a.m.clock().Sub(asked) >= length {
			a.drop(t)
			return
		}
		begin()
	})
}

// confirmed calls f when the leader has confirmed that it leads, and this member has
// applied what the leader had.
func (m *member) confirmed(f func()) {
	id, run := m.raft.id, m.run
	m.send(m.raft.leader, func(leader *member) {
		leader.confirm(func(epoch uint64) {
			leader.send(id, func(m *member) {
				var wait func()
				wait = func() {
					if m.state.Epoch < epoch {
						m.in(5*time.Millisecond, wait)
						return
					}
					f()
				}
				if m.run == run {
					wait()
				}
			})
		})
	})
}

func (a *agent) drop(t *task) {
	t.ended, t.asking = true, false
	if a.task == t {
		a.task = nil
	}
}

// end notes how a step ended.
func (a *agent) end(t *task, err string, final bool) {
	if t.ended || a.task != t {
		return
	}
	a.drop(t)
	if err == "" && t.step.Action != real.ActionCheckpoint {
		delete(a.tried, t.step.Action)
	} else {
		now := a.m.clock()
		a.tried[t.step.Action] = real.Attempt{For: t.step.For, Err: err, Count: 1, Final: final, Again: now.Add(retryAfter)}
	}
	a.look()
}

// begin has the server do the step. What the agent does next is lost when it
// crashes; what the server was told is not.
func (a *agent) begin(t *task) {
	v := a.v
	done := a.m.guard(func() { a.end(t, "", false) })
	a.m.in(stepTimeout, func() { a.end(t, "timeout", false) })
	start := func() {
		v.start(func(ok bool) {
			if ok {
				done()
			}
		})
	}
	switch t.step.Action {
	case real.ActionStartPrimary:
		v.signal = false
		start()
	case real.ActionStartStandby:
		v.signal = true
		if t.step.Source != "" {
			v.source = t.step.Source
		}
		start()
	case real.ActionRestartPrimary:
		v.shutDown(a.m.guard(func() {
			v.signal = false
			start()
		}))
	case real.ActionStopClean:
		v.shutDown(done)
	case real.ActionStopHard:
		a.stopHard(done)
	case real.ActionKill:
		v.crash()
		v.signal = true
		done()
	case real.ActionCheckpoint:
		a.m.in(10*time.Millisecond, func() { a.end(t, "", true) })
	case real.ActionDetach:
		a.reload("", done)
	case real.ActionFollow:
		a.reload(t.step.Source, done)
	case real.ActionPromote:
		v.newest = max(v.newest, a.m.state.Timeline) // the agent writes its history file
		v.promote(a.m.name, done)
	case real.ActionRewind:
		a.stopHard(a.m.guard(func() { a.rewind(t) }))
	case real.ActionRebuild:
		a.rebuild(t)
	case real.ActionFence:
		a.files.Fenced = true
		a.stopHard(a.m.guard(func() {
			v.source = ""
			start()
		}))
	case real.ActionSettle:
		a.files.Marker, a.files.InPlace, a.files.Fenced, a.files.Left = false, false, false, false
		done()
	case real.ActionNone:
	}
}

// reload gives the server another primary_conninfo.
func (a *agent) reload(source string, done func()) {
	v := a.v
	v.guard(func() {
		v.source = source
		v.in(a.m.sim.between(5*time.Millisecond, 50*time.Millisecond), func() {
			if v.source == source {
				v.dropReceiver()
				done()
			}
		})
	})()
}

// stopHard stops the server whatever it takes; it is a standby afterwards.
func (a *agent) stopHard(done func()) {
	v := a.v
	stopped := func() {
		v.signal = true
		done()
	}
	if !v.up {
		stopped()
		return
	}
	run := v.run
	v.shutDown(a.m.guard(stopped))
	a.m.in(a.m.sim.between(300*time.Millisecond, time.Second), func() {
		if v.up && v.run == run {
			v.crash()
			stopped()
		}
	})
}

// rewind is pg_rewind: it sees timelines and positions, not what the log holds.
func (a *agent) rewind(t *task) {
	v, s := a.v, a.m.sim
	from := s.server(t.step.Source)
	a.reach(t, from, func() {
		a.files.Marker = true
		a.m.in(s.between(rewindTakes/4, rewindTakes), func() {
			a.reach(t, from, func() {
				if v.timeline != from.timeline && forked(v, from) < len(v.log) {
					v.copyFrom(from)
				}
				v.signal, v.produced, v.source = true, false, from.name
				v.start(func(ok bool) {
					if ok {
						a.m.guard(func() { a.end(t, "", false) })()
					}
				})
			})
		})
	})
}

// rebuild is pg_basebackup into a new directory that takes the old one's place.
func (a *agent) rebuild(t *task) {
	v, s := a.v, a.m.sim
	from := s.server(t.step.Source)
	recovery := t.step.Recovery
	a.reach(t, from, func() {
		a.m.in(s.between(rebuildTakes/4, rebuildTakes), func() {
			a.reach(t, from, func() {
				a.stopHard(a.m.guard(func() {
					v.copyFrom(from)
					v.signal, v.produced, v.clean, v.backup, v.source = true, false, false, true, from.name
					a.files = real.Files{Left: true, Rebuilt: recovery}
					v.start(func(ok bool) {
						if ok {
							a.m.guard(func() { a.end(t, "", false) })()
						}
					})
				}))
			})
		})
	})
}

// reach calls f when the source is a running primary that this host reaches.
func (a *agent) reach(t *task, from *server, f func()) {
	n := &a.m.sim.net
	if from == nil || !from.writable() || !n.reaches(a.m.host, from.host) || !n.reaches(from.host, a.m.host) {
		a.end(t, "the source cannot be reached", false)
		return
	}
	f()
}
