package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Server is what one look saw of the local server. LSNs are of Timeline.
type Server struct {
	State    cluster.ServerState
	SystemID uint64
	Timeline uint32
	End      cluster.LSN // as cluster.Local has it
	History  []cluster.Fork
	// Recorded is the history of the timeline that the State records, where this server
	// has it: for a State without one.
	Recorded []cluster.Fork

	// Of a server that does not run, from its control file. Clean: it was shut down.
	// Produced: it was a primary; a copy that was never started (Backup) is not one,
	// whatever the control file says that came with it.
	Clean, Produced, Backup bool

	Signal     bool // standby.signal is there
	Rewindable bool // data checksums or wal_log_hints: pg_rewind can work with it

	// Of a standby. Follows is the backend that its primary_conninfo names just as
	// this agent would write it, "" when that is empty, Elsewhere when it is another.
	Follows   string
	Receiver  bool // it has a walreceiver
	Settling  bool // Follows became "" so lately that a walreceiver by the setting of before may yet start
	Streaming bool
	Replays   bool // it has not read all log that it had when it started: End will grow
	LogGone   bool // the server that it follows has removed the log that it needs next

	DiskSlow bool
	Slots    []cluster.Slot
}

// Elsewhere is the Follows of a standby whose primary_conninfo is not from here.
const Elsewhere = "?"

// Files is what the agent itself has written down, on disk: it survives both.
type Files struct {
	Marker  bool   // a rewind, or a copy in place, was begun: only a rebuild makes it a server again
	InPlace bool   // Marker is that of a copy in place
	Fenced  bool   // the primary was restarted as a standby because the quorum was lost
	Left    bool   // there is something to remove when the server streams
	Rebuilt uint64 // the Recovery that the present data directory was made for
}

// Attempt is a step that was tried and has failed.
type Attempt struct {
	For   string // what the step was for: another State makes it another step
	Err   string
	Count int
	Final bool // no use in trying again for that
	Again time.Time
}

// View is all that Next looks at.
type View struct {
	Now     time.Time
	Backend string         // the name of the local server
	State   *cluster.State // as this member has applied it; nil: none yet
	Server  Server
	Files   Files
	Tried   map[Action]Attempt // the last failed attempt of each

	Cold   bool      // the server has not been seen running since the agent began
	Halted bool      // it was seen running, and then somebody else shut it down cleanly
	Down   time.Time // since when it does not run
	Idle   time.Time // since when it could stream and does not; zero: it does
	Held   time.Time // until when this member's lease runs or ran

	Managed     bool // failover.mode is managed
	FenceAfter  time.Duration
	RestartWait time.Duration
}

// idleWait is for how long a standby that was rewound may run without streaming
// while there is a primary, before it is rebuilt.
const idleWait = 2 * time.Minute

// Next returns what the agent does next. It is level-triggered: while what was
// done shows in View, the same step does not come again.
func Next(v View) Step {
	s := next(v)
	s.For = v.purpose(s)
	t, ok := v.Tried[s.Action]
	if s.Action == ActionNone || !ok || t.For != s.For {
		return s
	}
	if t.Final || v.Now.Before(t.Again) {
		return Step{Why: "waits before the next attempt", Trouble: fmt.Sprintf("%s: %s", s.Action, t.Err)}
	}
	return s
}

// purpose says what a step is for. A failed one is not repeated at once for the
// same purpose.
func (v View) purpose(s Step) string {
	p := fmt.Sprintf("%s from=%q operation=%d recovery=%d in-place=%t", s.Action, s.Source, s.Operation, s.Recovery, s.InPlace)
	if v.State != nil {
		p += fmt.Sprintf(" primary=%q timeline=%d", v.State.Primary, v.State.Timeline)
	}
	return p
}

func next(v View) Step {
	if v.State == nil {
		return wait("there is no cluster state yet")
	}
	b := v.State.Backend(v.Backend)
	switch {
	case b == nil:
		return wait("%s is not a backend of the cluster", v.Backend)
	case v.foreign():
		return refuse("its system identifier is %d, the cluster's is %d: it is never touched; recover makes it anew when its data directory is gone", v.Server.SystemID, v.State.SystemID)
	case b.Status == cluster.StatusDetached:
		return wait("detached by an operator")
	case v.Managed && v.fenceDue():
		return Step{Action: ActionFence, Why: fmt.Sprintf("no quorum for %v", v.FenceAfter)}
	case b.Recovery != nil && v.Files.Rebuilt != b.Recovery.ID && v.State.Operation == nil:
		return recovery(v, b)
	case !v.Managed && v.Server.Streaming && (v.Files.Marker || v.Files.Left):
		return Step{Action: ActionSettle, Why: "it was rebuilt and streams"}
	case !v.Managed:
		return wait("failover.mode is not managed")
	case v.State.Operation != nil:
		return operation(v, b)
	case v.State.Primary == v.Backend, v.State.Primary == "" && v.State.Former == v.Backend:
		return asPrimary(v, b)
	case v.State.Primary != "":
		return asStandby(v, b)
	}
	return withoutPrimary(v, b)
}

// foreign: another cluster's data. A directory that is being made anew has no
// identity yet.
func (v View) foreign() bool {
	return v.State.SystemID != 0 && v.Server.SystemID != 0 && v.Server.SystemID != v.State.SystemID && !v.Files.Marker
}

// fenceDue: this member has been without the quorum for so long that others may
// have another primary (S7). Only the recorded one is fenced: what another holds is
// not to be taken for a standby's data.
func (v View) fenceDue() bool {
	return v.Server.State == cluster.ServerPrimary && v.Server.Timeline == v.State.Timeline &&
		v.State.Primary+v.State.Former == v.Backend && v.Now.Sub(v.Held) >= v.FenceAfter
}

// recovery makes a copy of the primary. An old server that runs as a standby goes
// on until the copy takes its place.
func recovery(v View, b *cluster.Backend) Step {
	switch {
	case v.Server.State == cluster.ServerPrimary:
		return Step{Action: ActionStopHard, Why: "it is to be rebuilt and runs as a primary"}
	case v.State.Primary == "":
		return wait("the recovery waits for a primary to copy")
	}
	return Step{
		Action: ActionRebuild, Source: v.State.Primary, Recovery: b.Recovery.ID,
		InPlace: b.Recovery.InPlace || v.Files.InPlace, Why: "it is recovered",
	}
}

// asPrimary: this server is the recorded primary, or the last one, and nobody is
// about to take its place.
func asPrimary(v View, b *cluster.Backend) Step {
	switch v.Server.State {
	case cluster.ServerPrimary:
		if v.Files.Left || v.Files.Fenced {
			return Step{Action: ActionSettle, Why: "it is the primary"}
		}
		return wait("it is the primary")
	case cluster.ServerStandby:
		switch {
		case v.Files.Fenced && !v.Now.Before(v.Held):
			return wait("it was fenced and there is no quorum yet")
		case v.Files.Fenced:
			return Step{Action: ActionRestartPrimary, Why: "the quorum is back and it is still the recorded primary"}
		}
		return refuse("it is the recorded primary and runs as a standby")
	case cluster.ServerStopped:
		return stoppedPrimary(v, b)
	case cluster.ServerMissing:
		return refuse("it is the recorded primary and its data directory is gone")
	case cluster.ServerHung:
		return refuse("it does not answer")
	case cluster.ServerUnknown, cluster.ServerStarting, cluster.ServerBusy:
	}
	return wait("it is starting")
}

// stoppedPrimary: after a crash it is the leader's turn for as long as another
// server may take its place.
func stoppedPrimary(v View, b *cluster.Backend) Step {
	start := Step{Action: ActionStartPrimary}
	switch {
	case v.Files.Marker || b.Rebuild:
		return refuse("it is the recorded primary and can only be rebuilt")
	case v.Server.SystemID == 0:
		return refuse("it is the recorded primary and its control file cannot be read")
	case v.Cold:
		start.Why = "it is the recorded primary"
	case v.Halted:
		return wait("it was shut down by its operator")
	case v.State.FailoverOff:
		start.Why = "it has crashed and failover is off"
	case !v.replaceable():
		start.Why = "it has crashed and no other server can take its place"
	case v.Now.Sub(v.Down) >= v.RestartWait:
		start.Why = fmt.Sprintf("it has crashed and no failover has begun within %v", v.RestartWait)
	default:
		return wait("it has crashed; a failover is the leader's to begin")
	}
	return start
}

// replaceable tells whether the State has another server that could be promoted.
func (v View) replaceable() bool {
	for i := range v.State.Backends {
		b := &v.State.Backends[i]
		if b.Name != v.Backend && b.Status == cluster.StatusUp && b.Role == cluster.RoleStandby && !b.Rebuild {
			return true
		}
	}
	return false
}

// asStandby: another server is the recorded primary and this one follows it.
func asStandby(v View, b *cluster.Backend) Step {
	switch v.Server.State {
	case cluster.ServerPrimary:
		return falsePrimary(v, b)
	case cluster.ServerStandby:
		return follower(v, b)
	case cluster.ServerStopped:
		return stopped(v, b)
	case cluster.ServerMissing:
		if v.Files.Marker {
			return rebuild(v, "a copy in place was not finished")
		}
		return refuse("its data directory is gone: pgproxy-pcp recover %s makes it anew", v.Backend)
	case cluster.ServerHung:
		return refuse("it does not answer")
	case cluster.ServerUnknown, cluster.ServerStarting, cluster.ServerBusy:
	}
	return wait("it is starting")
}

// falsePrimary: it runs as a primary and is not the recorded one (S6).
func falsePrimary(v View, b *cluster.Backend) Step {
	if v.Server.Timeline > v.State.Timeline && !b.Rebuild {
		return refuse("it is a primary on timeline %d, newer than the recorded %d: an operator decides", v.Server.Timeline, v.State.Timeline)
	}
	return Step{Action: ActionStopHard, Source: v.State.Primary, Why: "it runs as a primary and " + orNobody(v.State.Primary) + " is the recorded one"}
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

// stopped: brought back as a standby, after a rewind where its log has gone
// another way.
func stopped(v View, b *cluster.Backend) Step {
	switch {
	case v.Files.Marker:
		return rebuild(v, "a rewind or a copy was begun and not finished")
	case b.Rebuild && b.Recovery == nil:
		return wait("it is to be rebuilt")
	case v.Halted:
		return wait("it was shut down by its operator")
	case v.Server.Timeline > v.State.Timeline && b.Recovery == nil:
		return refuse("its data is on timeline %d, newer than the recorded %d: an operator decides", v.Server.Timeline, v.State.Timeline)
	case v.Server.Backup:
		return Step{Action: ActionStartStandby, Source: v.State.Primary, Why: "it is a new copy"}
	case v.Server.SystemID == 0:
		return refuse("its control file cannot be read: pgproxy-pcp recover %s makes it anew", v.Backend)
	case v.namesake():
		return rebuild(v, fmt.Sprintf("there was another timeline %d, and a rewind would see nothing to do", v.Server.Timeline))
	case v.Server.Produced && !v.Server.Clean:
		return rewind(v, "it was a primary and has crashed")
	case !v.ancestor():
		return rewind(v, v.diverged())
	}
	return Step{Action: ActionStartStandby, Source: v.State.Primary, Why: "it is a standby of " + v.State.Primary}
}

// follower: it runs as a standby.
func follower(v View, b *cluster.Backend) Step {
	s := v.Server
	switch {
	case b.Rebuild && b.Recovery == nil:
		return wait("it is to be rebuilt")
	case s.Timeline > v.State.Timeline:
		return refuse("it is a standby on timeline %d, newer than the recorded %d: an operator decides", s.Timeline, v.State.Timeline)
	case v.namesake():
		return rebuild(v, fmt.Sprintf("there was another timeline %d, and a rewind would see nothing to do", s.Timeline))
	case !v.ancestor():
		return rewind(v, v.diverged())
	case s.Follows != v.State.Primary:
		return Step{Action: ActionFollow, Source: v.State.Primary, Why: v.State.Primary + " is the primary"}
	case s.Streaming && (v.Files.Marker || v.Files.Left || v.Files.Fenced):
		return Step{Action: ActionSettle, Why: "it streams"}
	case s.Streaming:
		return wait("it streams from %s", v.State.Primary)
	case s.LogGone:
		return rebuild(v, v.State.Primary+" no longer has the log that it needs")
	case v.Files.Marker && !v.Idle.IsZero() && v.Now.Sub(v.Idle) >= idleWait:
		return rebuild(v, fmt.Sprintf("it was rewound and has not streamed for %v", idleWait))
	}
	return wait("it does not stream from %s yet", v.State.Primary)
}

// namesake tells whether this server's timeline only has the number of the recorded
// one (S6): it was the primary of it, and the recorded primary is another; or it was
// forked elsewhere.
func (v View) namesake() bool {
	s := v.Server
	if s.Produced && v.State.Usurped(s.Timeline, v.Backend) {
		return true
	}
	return s.Timeline == v.State.Timeline && (s.State == cluster.ServerStopped && s.Produced || v.State.Differs(s.History))
}

// ancestor tells whether the recorded timeline continues this server's log. Where
// nobody knows the history of that timeline, a server that was a primary is taken
// for one that has diverged, since a rewind that is not needed changes nothing, and a
// standby for one that has not: when it connects it gets the history.
func (v View) ancestor() bool {
	state := *v.State
	if len(state.History) == 0 {
		state.History = v.Server.Recorded
	}
	if len(state.History) == 0 && v.Server.Timeline < state.Timeline {
		return !v.Server.Produced
	}
	return state.Continues(v.Server.Timeline, v.Server.End, v.Server.History)
}

// diverged says how far a server is beyond the point where its timeline was left.
func (v View) diverged() string {
	for _, f := range slices.Concat(v.State.History, v.Server.Recorded) {
		if f.Timeline == v.Server.Timeline && v.Server.End > f.End {
			return fmt.Sprintf("timeline %d was left at %v and its log ends at %v: %d bytes are discarded",
				f.Timeline, f.End, v.Server.End, uint64(v.Server.End-f.End))
		}
	}
	return fmt.Sprintf("its timeline %d is not in the history of timeline %d", v.Server.Timeline, v.State.Timeline)
}

// rewind, or rebuild where that cannot work or has failed.
func rewind(v View, why string) Step {
	s := Step{Action: ActionRewind, Source: v.State.Primary, Why: why}
	if v.Files.Marker {
		return rebuild(v, why+"; the rewind before has not come to its end")
	}
	if !v.Server.Rewindable {
		return rebuild(v, why+"; it has neither checksums nor wal_log_hints for a rewind")
	}
	if t, ok := v.Tried[ActionRewind]; ok && t.Final && t.For == v.purpose(s) {
		return rebuild(v, why+"; the rewind failed: "+t.Err)
	}
	return s
}

// rebuild is one that nobody asked for: no other way leads back.
func rebuild(v View, why string) Step {
	s := Step{Action: ActionRebuild, Source: v.State.Primary, InPlace: v.Files.InPlace, Why: why}
	if b := v.State.Backend(v.Backend); b.Recovery != nil {
		s.Recovery = b.Recovery.ID
	}
	return s
}

// withoutPrimary: there is no primary and nobody is being promoted. What runs is
// left as it is; what does not is started as a standby, that it may be seen.
func withoutPrimary(v View, b *cluster.Backend) Step {
	switch {
	case v.Server.State != cluster.ServerStopped:
		return wait("there is no primary")
	case v.State.SystemID == 0:
		return refuse("it does not run, and no primary was ever adopted: start the servers of the cluster")
	case v.Files.Marker || b.Rebuild:
		return wait("it is to be rebuilt when there is a primary")
	case v.Halted:
		return wait("it was shut down by its operator")
	case v.Server.Produced:
		return wait("it was a primary, and comes back when there is another")
	}
	return Step{Action: ActionStartStandby, Why: "it is a standby"}
}

func wait(format string, args ...any) Step { return Step{Why: fmt.Sprintf(format, args...)} }

func refuse(format string, args ...any) Step {
	s := wait(format, args...)
	s.Trouble = s.Why
	return s
}

// String returns a step as one line, for logs and scripts.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(s.Action.String())
	if s.Source != "" {
		b.WriteString(" from " + s.Source)
	}
	if s.InPlace {
		b.WriteString(" in place")
	}
	if s.Operation != 0 {
		fmt.Fprintf(&b, " for operation %d", s.Operation)
	}
	if s.Recovery != 0 {
		fmt.Fprintf(&b, " for recovery %d", s.Recovery)
	}
	if s.Why != "" {
		b.WriteString(": " + s.Why)
	}
	return b.String()
}
