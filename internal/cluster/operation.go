package cluster

import (
	"fmt"
	"time"
)

// OperationKind says what an Operation is for.
type OperationKind uint8

// The kinds of operations.
const (
	OperationUnknown OperationKind = iota
	Failover                       // the primary is lost; the best standby takes its place
	Switchover                     // an operator wants another primary; the old one is stopped cleanly
)

// String returns the word that operators see.
func (k OperationKind) String() string {
	switch k {
	case Failover:
		return "failover"
	case Switchover:
		return "switchover"
	case OperationUnknown:
	}
	return "unknown"
}

// MarshalText writes the word of String.
func (k OperationKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the word of String.
func (k *OperationKind) UnmarshalText(text []byte) error {
	for c := Failover; c <= Switchover; c++ {
		if c.String() == string(text) {
			*k = c
			return nil
		}
	}
	return fmt.Errorf("parse operation kind %q: %w", text, ErrUnknown)
}

// Phase is the step of an Operation that is being carried out.
type Phase uint8

// The phases. A failover goes barrier, detach, promote; a switchover drain,
// barrier, stop, promote, or from stop to restart when the candidate did not
// receive all. From promote a candidate that cannot be promoted is abandoned, and
// the operation goes back to detach.
const (
	PhaseUnknown Phase = iota
	PhaseDrain         // switchover: the primary still is one; members let what runs there end and hold the rest
	PhaseBarrier       // there is no primary, nothing is granted; members close their connections to the old one
	PhaseStop          // switchover: the old primary is stopped cleanly, and the candidate receives its last record
	PhaseDetach        // standbys are cut off from the old primary and say how far they got
	PhasePromote       // Candidate is promoted
	PhaseRestart       // switchover that failed: the old primary is started again
)

// String returns the word that operators see.
func (p Phase) String() string {
	switch p {
	case PhaseDrain:
		return "drain"
	case PhaseBarrier:
		return "barrier"
	case PhaseStop:
		return "stop"
	case PhaseDetach:
		return "detach"
	case PhasePromote:
		return "promote"
	case PhaseRestart:
		return "restart"
	case PhaseUnknown:
	}
	return "unknown"
}

// MarshalText writes the word of String.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the word of String.
func (p *Phase) UnmarshalText(text []byte) error {
	for c := PhaseDrain; c <= PhaseRestart; c++ {
		if c.String() == string(text) {
			*p = c
			return nil
		}
	}
	return fmt.Errorf("parse phase %q: %w", text, ErrUnknown)
}

// Operation is the change of the primary that is under way. There is one at a
// time (S3); it is begun, advanced and ended by commands only.
type Operation struct {
	ID        uint64        `json:"id"` // the epoch that it began with; never used again
	Kind      OperationKind `json:"kind"`
	Phase     Phase         `json:"phase"`
	Old       string        `json:"old"`                 // the primary that is replaced
	Target    string        `json:"target,omitempty"`    // switchover: the standby that the operator named
	Candidate string        `json:"candidate,omitempty"` // the standby that is being promoted, in PhasePromote
	Began     time.Time     `json:"began"`
	Since     time.Time     `json:"since"` // when Phase began
	Reason    string        `json:"reason,omitempty"`
}

// Barred tells whether there must be no primary: the barrier has begun (S2).
func (o *Operation) Barred() bool { return o != nil && o.Phase != PhaseDrain }

// follows tells whether an operation of that kind may go from one phase to the
// next. Other ways end it.
func (o *Operation) follows(next Phase) bool {
	switch o.Phase {
	case PhaseDrain:
		return next == PhaseBarrier
	case PhaseBarrier:
		return next == PhaseDetach && o.Kind == Failover || next == PhaseStop && o.Kind == Switchover
	case PhaseStop:
		return next == PhasePromote || next == PhaseRestart
	case PhaseDetach:
		return next == PhasePromote
	case PhasePromote:
		return next == PhaseDetach
	case PhaseRestart, PhaseUnknown:
	}
	return false
}

// Address is a virtual address and who holds it (S8).
type Address struct {
	Address string    `json:"address"`          // with the length of its prefix, 10.77.0.100/24
	Holder  string    `json:"holder,omitempty"` // name of a member; "" nobody
	Since   time.Time `json:"since"`
}

// Fork is the end of a timeline in the history of a newer one: the LSN at which it
// was left (timeline history file).
type Fork struct {
	Timeline uint32 `json:"timeline"`
	End      LSN    `json:"end"`
}

// Reign says which backend was the primary of a timeline.
type Reign struct {
	Timeline uint32 `json:"timeline"`
	Backend  string `json:"backend"`
}

// MaxReigns bounds State.Reigns.
const MaxReigns = 32

// Recovery is the rebuilding of a backend that an operator or S6 asked for. It
// goes on beside an Operation.
type Recovery struct {
	ID      uint64 `json:"id"`                 // the epoch that it began with; never used again
	InPlace bool   `json:"in_place,omitempty"` // the old data is removed first (S9)
	Failed  string `json:"failed,omitempty"`   // why the last attempt ended; "" none has
}
