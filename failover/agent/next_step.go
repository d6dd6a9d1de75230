package agent

// Action is what a Step does.
type Action uint8

// The actions. Those that cannot be taken back are confirmed with the leader first
// (S3): see Irreversible.
const (
	ActionNone           Action = iota
	ActionStartPrimary          // start it without standby.signal
	ActionStartStandby          // put standby.signal there and start it; follow Source, "" as its files say
	ActionRestartPrimary        // stop it, remove standby.signal, start it: on the same timeline
	ActionStopClean             // a fast shutdown that is never escalated
	ActionStopHard              // fast, then immediate, then SIGKILL; standby.signal is put there
	ActionKill                  // SIGKILL of all its processes, at most 300 ms; standby.signal is put there
	ActionCheckpoint            // so that the shutdown that comes has little to write
	ActionDetach                // primary_conninfo empty, and the walreceiver seen gone
	ActionPromote               // and wait until it is a primary on a new timeline
	ActionFollow                // primary_conninfo and slot for Source
	ActionRewind                // stop it, pg_rewind from Source, start it as a standby
	ActionRebuild               // pg_basebackup from Source into new directories, that take the place of the old
	ActionFence                 // restart it as a standby of nobody
	ActionSettle                // it streams: remove marker and old directories
)

// String returns the word of scripts, logs and cluster.Local.Task.
func (a Action) String() string {
	switch a {
	case ActionNone:
		return "none"
	case ActionStartPrimary:
		return "start as primary"
	case ActionStartStandby:
		return "start as standby"
	case ActionRestartPrimary:
		return "restart as primary"
	case ActionStopClean:
		return "stop cleanly"
	case ActionStopHard:
		return "stop"
	case ActionKill:
		return "kill"
	case ActionCheckpoint:
		return "checkpoint"
	case ActionDetach:
		return "detach"
	case ActionPromote:
		return "promote"
	case ActionFollow:
		return "follow"
	case ActionRewind:
		return "rewind"
	case ActionRebuild:
		return "rebuild"
	case ActionFence:
		return "fence"
	case ActionSettle:
		return "settle"
	}
	return "unknown"
}

// Irreversible tells whether the leader must confirm the action, less than the
// length of a lease before it (S3). A fence is for when there is nobody to ask; to
// start, detach or point a standby at another server decides nothing.
func (a Action) Irreversible() bool {
	switch a {
	case ActionStartPrimary, ActionRestartPrimary, ActionStopClean, ActionStopHard, ActionKill, ActionPromote,
		ActionRewind, ActionRebuild:
		return true
	case ActionNone, ActionStartStandby, ActionCheckpoint, ActionDetach, ActionFollow, ActionFence, ActionSettle:
	}
	return false
}

// Step is what the agent does next. Why is for the operator: the reason of an
// action, or of doing nothing; Trouble is set when that needs somebody's attention.
type Step struct {
	Action    Action
	Source    string // backend to follow, to rewind from or to copy
	Operation uint64 // that it belongs to; 0 none
	Recovery  uint64 // that it belongs to; 0 none
	InPlace   bool   // of ActionRebuild: the old data is removed first
	For       string // the purpose, as Attempt.For
	Why       string
	Trouble   string
}
