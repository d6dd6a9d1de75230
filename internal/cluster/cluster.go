package cluster

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Role is what a PostgreSQL server is in its replication cluster.
type Role uint8

// The roles. The zero value means that nobody has seen the server yet.
const (
	RoleUnknown Role = iota
	RolePrimary
	RoleStandby
)

// String returns the word that operators see.
func (r Role) String() string {
	switch r {
	case RolePrimary:
		return "primary"
	case RoleStandby:
		return "standby"
	case RoleUnknown:
	}
	return "unknown"
}

// MarshalText writes the word of String.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the word of String.
func (r *Role) UnmarshalText(text []byte) error {
	for c := RoleUnknown; c <= RoleStandby; c++ {
		if c.String() == string(text) {
			*r = c
			return nil
		}
	}
	return fmt.Errorf("parse role %q: no such role", text)
}

// Status is what the cluster has agreed about the use of a backend.
type Status uint8

// The statuses, in pgpool's words where it has them.
const (
	StatusUnknown     Status = iota
	StatusUp                 // answers and is used
	StatusWaiting            // known from the file, not seen yet
	StatusDown               // does not answer
	StatusDetached           // taken out by an operator
	StatusQuarantined        // seen in a state that only an operator can judge, or down by a minority
	StatusRecovering         // being rebuilt
)

// String returns the word that operators see.
func (s Status) String() string {
	switch s {
	case StatusUp:
		return "up"
	case StatusWaiting:
		return "waiting"
	case StatusDown:
		return "down"
	case StatusDetached:
		return "detached"
	case StatusQuarantined:
		return "quarantine"
	case StatusRecovering:
		return "recovering"
	case StatusUnknown:
	}
	return "unknown"
}

// MarshalText writes the word of String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the word of String.
func (s *Status) UnmarshalText(text []byte) error {
	for c := StatusUnknown; c <= StatusRecovering; c++ {
		if c.String() == string(text) {
			*s = c
			return nil
		}
	}
	return fmt.Errorf("parse status %q: no such status", text)
}

// LSN is a write-ahead log location in bytes (PostgreSQL manual, pg_lsn type).
// LSNs compare only on one timeline.
type LSN uint64

// ParseLSN reads the text form of pg_lsn, "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: no slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// String returns the text form of pg_lsn.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// Observation is what one probe of one backend saw. It is not state: each
// member keeps its own, balances by it, and reports it to the leader.
type Observation struct {
	Backend string    // its name in the configuration
	Address string    // that was asked; an observation of another address says nothing about the backend
	At      time.Time // when the probe ended; carries the monotonic clock

	// Alive: the server answered, be it with an error (57P03 starting up, 53300 too
	// many connections). Ready: it accepted the session and answered the probe.
	Alive, Ready bool
	Err          error // why it is not Ready; nil when it is
	Failures     int   // probes in a row, this one included, that found it not Alive
	Refused      bool  // not Alive: the host answered that nobody listens there

	Role          Role
	SystemID      uint64
	Timeline      uint32
	LSN           LSN       // insert position of a primary, the greater of received and replayed of a standby
	ReplayLSN     LSN       // of a standby; LSN of a primary
	LagBytes      uint64    // of a standby behind the primary's last observation; 0 when their timelines differ (then Incompatible says so)
	LagSeconds    float64   // an upper bound of what a read on this standby misses
	Version       int       // server_version_num
	PostmasterAt  time.Time // pg_postmaster_start_time()
	ReplicaState  string    // pg_stat_replication.state, as its primary sees it; "" unknown
	SyncState     string    // pg_stat_replication.sync_state
	SyncNames     string    // of a primary: its synchronous_standby_names
	Streaming     bool      // of a standby: its walreceiver streams
	Incompatible  string    // why its answers could differ from the primary's; "" they do not
	ProbeDuration time.Duration
}

// Samples is a set of log positions read on demand for read-your-writes
// (never part of the State). It is immutable.
type Samples struct {
	// Round numbers the samples of the primary: the query of round n was sent after
	// every Mark call that returned less than n.
	Round    uint64
	Primary  string // backend that was asked
	Timeline uint32
	LSN      LSN // pg_current_wal_insert_lsn() of round Round
	Replayed []Replayed
}

// Replayed is how far one standby had replayed when it was last asked.
type Replayed struct {
	Backend  string
	Timeline uint32
	LSN      LSN
}
