package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrEpoch is returned by Apply for a Command whose Expect is not the epoch of
// the State: the proposer decided on an older one and should look again.
var ErrEpoch = errors.New("the cluster state has changed")

// ErrUnknown is returned for a Command or a State that a newer program wrote. Who
// cannot decode an entry of a log must stop: to skip it would fork the truth.
var ErrUnknown = errors.New("unknown kind or format")

// Kind says what a Command does.
type Kind uint8

// The kinds. Each names the fields of Command that it reads beside At, Expect
// and Reason.
const (
	KindUnknown       Kind = iota
	KindConfigure          // Backends, Addresses: the whole lists of the configuration file
	KindSetStatus          // Backend, Status: any but unknown, detached and recovering
	KindSetRole            // Backend, Role: standby or unknown, of one that is not the primary
	KindAdoptPrimary       // Backend, Timeline, SystemID, History; ends the operation under way
	KindClearPrimary       // nothing: there is no primary until one is adopted
	KindMarkRebuild        // Backend: holds WAL that is nobody's, comes back only by a base backup
	KindDetach             // Backend: an operator takes it out; never the primary
	KindAttach             // Backend: back from Detach, waiting to be seen
	KindBegin              // Backend: the old primary; Operation, and for a switchover Target
	KindAdvance            // Phase, and for PhasePromote Backend: the candidate; Expect is required
	KindAbandon            // Backend: the candidate, to be rebuilt; back to PhaseDetach; Expect is required
	KindEnd                // gives the operation under way up; Expect is required
	KindHold               // Address, Member: who holds it; "" nobody
	KindSync               // Sync
	KindRecover            // Backend, InPlace: an operator has it rebuilt
	KindRecoverFailed      // Backend: an attempt ended, Reason says why; a later one may succeed
	KindRecovered          // Backend: it was rebuilt and streams
	KindSetFailover        // Off
	KindFormat             // Format
	KindPause              // Off: false pauses, true resumes
)

// lastKind is the highest Kind that this program knows.
const lastKind = KindPause

// String returns the word that stands in the log.
func (k Kind) String() string {
	switch k {
	case KindConfigure:
		return "configure"
	case KindSetStatus:
		return "set status"
	case KindSetRole:
		return "set role"
	case KindAdoptPrimary:
		return "adopt primary"
	case KindClearPrimary:
		return "clear primary"
	case KindMarkRebuild:
		return "mark rebuild"
	case KindDetach:
		return "detach"
	case KindAttach:
		return "attach"
	case KindBegin:
		return "begin"
	case KindAdvance:
		return "advance"
	case KindAbandon:
		return "abandon"
	case KindEnd:
		return "end"
	case KindHold:
		return "hold"
	case KindSync:
		return "sync"
	case KindRecover:
		return "recover"
	case KindRecoverFailed:
		return "recovery failed"
	case KindRecovered:
		return "recovered"
	case KindSetFailover:
		return "set failover"
	case KindFormat:
		return "format"
	case KindPause:
		return "pause"
	case KindUnknown:
	}
	return "unknown"
}

// MarshalText writes the word of String.
func (k Kind) MarshalText() ([]byte, error) {
	if k == KindUnknown || k > lastKind {
		return nil, fmt.Errorf("encode kind %d: %w", k, ErrUnknown)
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads the word of String.
func (k *Kind) UnmarshalText(text []byte) error {
	for c := KindConfigure; c <= lastKind; c++ {
		if c.String() == string(text) {
			*k = c
			return nil
		}
	}
	return fmt.Errorf("parse command kind %q: %w", text, ErrUnknown)
}

// Command is one change of the State, the entry of the log.
type Command struct {
	Kind     Kind      `json:"kind"`
	At       time.Time `json:"at"`               // when it was proposed; Apply reads no clock
	Expect   uint64    `json:"expect,omitempty"` // epoch that the proposer looked at; 0: any
	Reason   string    `json:"reason,omitempty"` // for the event log
	Backend  string    `json:"backend,omitempty"`
	Status   Status    `json:"status,omitempty"`
	Role     Role      `json:"role,omitempty"`
	Timeline uint32    `json:"timeline,omitempty"`
	SystemID uint64    `json:"system_id,omitempty"`
	Backends []Spec    `json:"backends,omitempty"`

	History   []Fork        `json:"history,omitempty"`
	Operation OperationKind `json:"operation,omitempty"`
	Target    string        `json:"target,omitempty"`
	Phase     Phase         `json:"phase,omitempty"`
	Addresses []string      `json:"addresses,omitempty"`
	Address   string        `json:"address,omitempty"`
	Member    string        `json:"member,omitempty"`
	Sync      Sync          `json:"sync,omitzero"`
	InPlace   bool          `json:"in_place,omitempty"`
	Off       bool          `json:"off,omitempty"`
	Format    int           `json:"format,omitempty"`
}

// Spec is what the configuration file says about a backend.
type Spec struct {
	Name           string `json:"name"`
	Address        string `json:"address"`
	Weight         int    `json:"weight"`
	Agent          string `json:"agent,omitempty"`
	MaxConnections int    `json:"max_connections,omitempty"`
}

// String returns the command as one line without its time and epoch, for tests
// and logs.
func (c Command) String() string {
	var b bytes.Buffer
	b.WriteString(c.Kind.String())
	if c.Backend != "" {
		fmt.Fprintf(&b, " %s", c.Backend)
	}
	switch c.Kind {
	case KindConfigure:
		for _, s := range c.Backends {
			fmt.Fprintf(&b, " %s=%s", s.Name, s.Address)
		}
		for _, a := range c.Addresses {
			fmt.Fprintf(&b, " %s", a)
		}
	case KindSetStatus:
		fmt.Fprintf(&b, " %s", c.Status)
	case KindSetRole:
		fmt.Fprintf(&b, " %s", c.Role)
	case KindAdoptPrimary:
		fmt.Fprintf(&b, " timeline %d system %d", c.Timeline, c.SystemID)
	case KindBegin:
		fmt.Fprintf(&b, " %s", c.Operation)
		if c.Target != "" {
			fmt.Fprintf(&b, " to %s", c.Target)
		}
	case KindAdvance:
		fmt.Fprintf(&b, " to %s", c.Phase)
	case KindHold:
		fmt.Fprintf(&b, " %s by %q", c.Address, c.Member)
	case KindSync:
		fmt.Fprintf(&b, " %s", c.Sync)
	case KindRecover:
		if c.InPlace {
			b.WriteString(" in place")
		}
	case KindSetFailover:
		b.WriteString(map[bool]string{false: " on", true: " off"}[c.Off])
	case KindPause:
		b.WriteString(map[bool]string{false: " on", true: " off"}[c.Off])
	case KindFormat:
		fmt.Fprintf(&b, " %d", c.Format)
	case KindClearPrimary, KindMarkRebuild, KindDetach, KindAttach, KindAbandon, KindEnd,
		KindRecoverFailed, KindRecovered, KindUnknown:
	}
	if c.Reason != "" {
		fmt.Fprintf(&b, ": %s", c.Reason)
	}
	return b.String()
}

// EncodeCommand returns the bytes of c for a log.
func EncodeCommand(c Command) ([]byte, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	return data, nil
}

// DecodeCommand reads what EncodeCommand wrote. A kind that this program
// does not know is ErrUnknown, a field that it does not know an error too.
func DecodeCommand(data []byte) (Command, error) {
	var c Command
	if err := decode(data, &c); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	if c.Kind == KindUnknown {
		return Command{}, fmt.Errorf("decode command: no kind: %w", ErrUnknown)
	}
	return c, nil
}

// EncodeState returns the bytes of s for a snapshot.
func EncodeState(s State) ([]byte, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode cluster state: %w", err)
	}
	return data, nil
}

// DecodeState reads what EncodeState wrote. A format that this program does
// not know is ErrUnknown, a field that it does not know an error too.
func DecodeState(data []byte) (State, error) {
	// The format is looked at first: a newer one explains the fields better than
	// the first strange name among them.
	var level struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &level); err != nil {
		return State{}, fmt.Errorf("decode cluster state: %w", err)
	}
	if level.Format > Format {
		return State{}, fmt.Errorf("decode cluster state: format %d: %w", level.Format, ErrUnknown)
	}
	var s State
	if err := decode(data, &s); err != nil {
		return State{}, fmt.Errorf("decode cluster state: %w", err)
	}
	if err := s.check(); err != nil {
		return State{}, fmt.Errorf("decode cluster state: %w", err)
	}
	return s, nil
}

// decode is json.Unmarshal that refuses unknown fields and trailing bytes.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the end")
	}
	return nil
}
