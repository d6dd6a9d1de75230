package agent

import (
	"fmt"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// operation does this server's part of the change of the primary that is under way.
func operation(v View, b *cluster.Backend) Step {
	o := v.State.Operation
	var s Step
	switch {
	case o.Phase == cluster.PhaseDrain:
		s = draining(v, b, o)
	case b.Recovery != nil || b.Rebuild:
		s = marked(v, b, o)
	case o.Phase == cluster.PhasePromote && o.Candidate == v.Backend:
		s = candidate(v)
	case o.Old == v.Backend && o.Kind == cluster.Switchover:
		s = switchedOver(v, o)
	case o.Old == v.Backend && v.Server.State != cluster.ServerStandby:
		s = failedOver(v, b)
	default:
		s = bystander(v, o)
	}
	if s.Action != ActionNone {
		s.Operation = o.ID
	}
	return s
}

// draining: the primary still is one, and all goes on as before.
func draining(v View, b *cluster.Backend, o *cluster.Operation) Step {
	if o.Old != v.Backend {
		return asStandby(v, b)
	}
	if v.Server.State == cluster.ServerPrimary && !v.done(ActionCheckpoint, o.ID) {
		return Step{Action: ActionCheckpoint, Why: "it is about to be stopped"}
	}
	return wait("its sessions come to their end")
}

// done tells whether a step that leaves no trace was made for that operation: the
// shell notes it like a failed one, without an error.
func (v View) done(a Action, operation uint64) bool {
	t, ok := v.Tried[a]
	return ok && t.Final && t.For == v.purpose(Step{Action: a, Operation: operation})
}

// candidate: this server is to become the primary.
func candidate(v View) Step {
	switch v.Server.State {
	case cluster.ServerStandby:
		return Step{Action: ActionPromote, Why: "it is the candidate"}
	case cluster.ServerStopped:
		if v.Files.Marker {
			return refuse("a rewind was begun and not finished")
		}
		// It ended in the middle of its promotion: on from where it was.
		if v.Server.Produced && v.Server.Timeline > v.State.Timeline {
			return Step{Action: ActionStartPrimary, Why: "it is the candidate and was promoted when it ended"}
		}
		return Step{Action: ActionStartStandby, Why: "it is the candidate and does not run"}
	case cluster.ServerPrimary:
		if v.Server.Timeline > v.State.Timeline {
			return wait("it is promoted")
		}
		return refuse("it is a primary on the recorded timeline %d without having been promoted", v.State.Timeline)
	case cluster.ServerUnknown, cluster.ServerMissing, cluster.ServerStarting, cluster.ServerHung, cluster.ServerBusy:
	}
	return wait("it is the candidate and is %s", v.Server.State)
}

// switchedOver: this server is the old primary of a switchover.
func switchedOver(v View, o *cluster.Operation) Step {
	state := v.Server.State
	switch o.Phase {
	case cluster.PhaseStop:
		if state == cluster.ServerPrimary {
			return Step{Action: ActionStopClean, Why: o.Target + " takes its place"}
		}
	case cluster.PhasePromote:
		if state == cluster.ServerPrimary {
			return Step{Action: ActionStopHard, Why: o.Candidate + " takes its place"}
		}
	case cluster.PhaseRestart:
		switch {
		case state == cluster.ServerStopped:
			return Step{Action: ActionStartPrimary, Why: "the switchover has failed"}
		case state == cluster.ServerStandby:
			return Step{Action: ActionRestartPrimary, Why: "the switchover has failed"}
		}
	case cluster.PhaseUnknown, cluster.PhaseDrain, cluster.PhaseBarrier, cluster.PhaseDetach:
	}
	return wait("%s: %s", o.Kind, o.Phase)
}

// failedOver: this server is the lost primary of a failover and its agent is there.
// What is left of it must not answer those who connect to it directly, and a frozen
// one stops no other way.
func failedOver(v View, b *cluster.Backend) Step {
	switch v.Server.State {
	case cluster.ServerStarting:
		if v.Server.Signal {
			return wait("it is starting as a standby")
		}
		return Step{Action: ActionKill, Why: "another server takes its place"}
	case cluster.ServerPrimary:
		if v.Server.Timeline > v.State.Timeline {
			return falsePrimary(v, b)
		}
		return Step{Action: ActionKill, Why: "another server takes its place"}
	case cluster.ServerHung, cluster.ServerUnknown:
		return Step{Action: ActionKill, Why: "another server takes its place"}
	case cluster.ServerMissing, cluster.ServerStopped, cluster.ServerStandby, cluster.ServerBusy:
	}
	return wait("another server takes its place")
}

// bystander: a standby that is neither the candidate nor lost. In a failover it is
// cut off from the old primary, so that what it says about its log stays true (S5).
func bystander(v View, o *cluster.Operation) Step {
	detaching := o.Kind == cluster.Failover && (o.Phase == cluster.PhaseDetach || o.Phase == cluster.PhasePromote)
	switch v.Server.State {
	case cluster.ServerStandby:
		if detaching && (v.Server.Follows != "" || v.Server.Receiver) {
			return Step{Action: ActionDetach, Why: "the primary is lost"}
		}
	case cluster.ServerStopped:
		if !v.Files.Marker && !v.Halted && !v.Server.Produced && v.Server.Timeline <= v.State.Timeline {
			return Step{Action: ActionStartStandby, Why: "it is a standby"}
		}
	case cluster.ServerPrimary:
		if o.Phase != cluster.PhaseBarrier {
			return falsePrimary(v, v.State.Backend(v.Backend))
		}
	case cluster.ServerUnknown, cluster.ServerMissing, cluster.ServerStarting, cluster.ServerHung, cluster.ServerBusy:
	}
	return wait("%s: %s", o.Kind, o.Phase)
}

// marked: this server is to be rebuilt and has no part in the operation, but that a
// primary among them is stopped.
func marked(v View, b *cluster.Backend, o *cluster.Operation) Step {
	switch {
	case v.Server.State == cluster.ServerPrimary:
		return falsePrimary(v, b)
	case o.Old == v.Backend && v.Server.State != cluster.ServerStandby:
		return failedOver(v, b)
	case v.Server.State == cluster.ServerStandby:
		return bystander(v, o)
	}
	return wait("it is to be rebuilt when there is a primary")
}

// Report is what the leader is told. The shell adds Age, Task, Progress and Detail.
func Report(v View) cluster.Local {
	s := v.Server
	l := cluster.Local{
		Backend: v.Backend, Server: s.State, Clean: s.Clean, SystemID: s.SystemID, Timeline: s.Timeline, End: s.End,
		History: s.History, Marker: v.Files.Marker, DiskSlow: s.DiskSlow, Slots: s.Slots,
	}
	if v.State == nil {
		return l
	}
	l.Trouble = Next(v).Trouble
	if b := v.State.Backend(v.Backend); b != nil && b.Recovery != nil {
		l.Recovery = b.Recovery.ID
		l.Rebuilt = v.Files.Rebuilt == b.Recovery.ID
	}
	if o := v.State.Operation; o != nil {
		l.Operation = o.ID
		reportOperation(v, o, &l)
	}
	return l
}

// reportOperation tells how far this server's part of the operation is, by what is
// seen of the server and not by what was done.
func reportOperation(v View, o *cluster.Operation, l *cluster.Local) {
	s := v.Server
	switch o.Phase {
	case cluster.PhaseDetach:
		l.Detached = s.detached()
	case cluster.PhasePromote:
		if o.Candidate != v.Backend {
			l.Detached = s.detached()
			return
		}
		l.Promoted = s.State == cluster.ServerPrimary && s.Timeline > v.State.Timeline
		if !l.Promoted {
			l.Failed = v.failed(o.ID, ActionPromote, ActionStartStandby, ActionStartPrimary)
		}
		if s.State == cluster.ServerPrimary && s.Timeline <= v.State.Timeline || v.Files.Marker {
			l.Failed = l.Trouble
		}
	case cluster.PhaseStop:
		if o.Old != v.Backend {
			return
		}
		l.Stopped = s.State == cluster.ServerStopped && s.Clean && s.Produced
		switch {
		case l.Stopped:
		case s.State == cluster.ServerStopped:
			l.Failed = "it has not shut down cleanly"
		default:
			l.Failed = v.failed(o.ID, ActionStopClean)
		}
	case cluster.PhaseRestart:
		if o.Old == v.Backend {
			l.Restarted = s.State == cluster.ServerPrimary && s.Timeline == v.State.Timeline
			if !l.Restarted {
				l.Failed = v.failed(o.ID, ActionStartPrimary, ActionRestartPrimary)
			}
		}
	case cluster.PhaseUnknown, cluster.PhaseDrain, cluster.PhaseBarrier:
	}
}

// detached: a standby whose log does not grow any more.
func (s Server) detached() bool {
	return s.State == cluster.ServerStandby && s.Follows == "" && !s.Receiver && !s.Settling && !s.Replays
}

// failed returns why one of these steps has failed for good in the operation.
func (v View) failed(operation uint64, actions ...Action) string {
	for _, a := range actions {
		t, ok := v.Tried[a]
		if ok && t.Final && t.Err != "" && t.For == v.purpose(Step{Action: a, Operation: operation}) {
			return fmt.Sprintf("%s: %s", a, t.Err)
		}
	}
	return ""
}
