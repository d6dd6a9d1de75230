package cluster

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestApplyKeepsInvariants applies arbitrary commands and asserts after each: the
// invariants of State.check; the epoch rises by one when the state changed and
// not at all when it did not; an error changes nothing; the former state is not
// written to; a log that stores every command and state as bytes gets the same;
// and the rules of what one command may do to the one before (ledger).
func TestApplyKeepsInvariants(t *testing.T) {
	reached := make(map[Phase]int)
	rapid.Check(t, func(t *rapid.T) {
		s := drawStart(t)
		l := ledger{rebuild: make(map[string]bool)}
		now := testStart
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now = now.Add(time.Second)
			c := drawCommand(t, &s)
			c.At = now
			before := encode(t, s)
			next, err := Apply(s, c)
			if got := encode(t, s); got != before {
				t.Fatalf("%v wrote to its argument:\n%s\n%s", c, before, got)
			}
			after := encode(t, next)
			switch {
			case err != nil && after != before:
				t.Fatalf("%v was refused (%v), but changed the state", c, err)
			case after == before && next.Epoch != s.Epoch:
				t.Fatalf("%v changed nothing but the epoch", c)
			case after != before && next.Epoch != s.Epoch+1:
				t.Fatalf("%v: epoch %d after %d", c, next.Epoch, s.Epoch)
			}
			if err := next.check(); err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			replayed, replayErr := Apply(decodeState(t, before), roundTrip(t, c))
			if got := encode(t, replayed); got != after || (replayErr == nil) != (err == nil) {
				t.Fatalf("%v: the bytes of it make another state:\n%s\n%s", c, after, got)
			}
			if got := encode(t, decodeState(t, after)); got != after {
				t.Fatalf("%v: a snapshot became another state:\n%s\n%s", c, after, got)
			}
			l.step(t, &s, c, &next)
			s = next
			if s.Operation != nil {
				reached[s.Operation.Phase]++
			}
		}
	})
	for p := PhaseDrain; p <= PhaseRestart; p++ {
		if reached[p] == 0 {
			t.Errorf("no sequence of commands came to phase %s: the generator is too weak", p)
		}
	}
}

// ledger remembers what no State says.
type ledger struct {
	operation uint64          // ID of the last operation
	rebuild   map[string]bool // marked, and neither recovered nor removed since
}

func (l *ledger) step(t *rapid.T, s *State, c Command, next *State) {
	if next.Timeline < s.Timeline || next.Timeline == s.Timeline && len(next.History) > 0 && len(s.History) > 0 && !reflect.DeepEqual(next.History, s.History) {
		t.Fatalf("%v: timeline %d %v after %d %v", c, next.Timeline, next.History, s.Timeline, s.History)
	}
	if s.SystemID != 0 && next.SystemID != s.SystemID {
		t.Fatalf("%v: system identifier %d after %d", c, next.SystemID, s.SystemID)
	}
	l.operations(t, s, c, next)
	l.marks(t, c, next.Epoch != s.Epoch, next)
	primaryChange(t, s, c, next)
	if s.Format != 0 && next.Format < s.Format {
		t.Fatalf("%v: format %d after %d", c, next.Format, s.Format)
	}
}

// operations: one at a time, never the same again, each step on the epoch it was
// decided on (S3).
func (l *ledger) operations(t *rapid.T, s *State, c Command, next *State) {
	o, n := s.Operation, next.Operation
	switch {
	case o == nil && n == nil:
	case o == nil:
		if n.ID <= l.operation || c.Kind != KindBegin || n.Phase != PhaseBarrier && n.Phase != PhaseDrain {
			t.Fatalf("%v: operation %+v began after %d", c, *n, l.operation)
		}
		l.operation = n.ID
	case n == nil:
		if c.Kind != KindAdoptPrimary && c.Kind != KindEnd {
			t.Fatalf("%v ended %+v", c, *o)
		}
		if c.Kind == KindEnd && (c.Expect != s.Epoch || o.Phase == PhasePromote) {
			t.Fatalf("%v gave %+v up", c, *o)
		}
	case o.ID != n.ID || o.Old != n.Old || !o.Began.Equal(n.Began):
		t.Fatalf("%v: %+v after %+v", c, *n, *o)
	case o.Phase != n.Phase || o.Candidate != n.Candidate || o.Kind != n.Kind:
		if c.Expect != s.Epoch || c.Kind != KindAdvance && c.Kind != KindAbandon {
			t.Fatalf("%v: %+v after %+v", c, *n, *o)
		}
		if n.Phase == PhaseDrain || n.Phase == PhaseBarrier && o.Phase != PhaseDrain {
			t.Fatalf("%v went back: %+v after %+v", c, *n, *o)
		}
	}
	if n.Barred() && (next.Primary != "" || next.Former != n.Old) {
		t.Fatalf("%v: in %s the primary is %q, was %q", c, n.Phase, next.Primary, next.Former)
	}
}

// marks: who holds log that is nobody's is no candidate and no primary before it
// was rebuilt or an operator took it out of the file (S6).
func (l *ledger) marks(t *rapid.T, c Command, changed bool, next *State) {
	if c.Kind == KindRecovered {
		if b := next.Backend(c.Backend); b != nil && b.Status == StatusWaiting {
			delete(l.rebuild, c.Backend)
		}
	}
	if c.Kind == KindAbandon && changed {
		l.rebuild[c.Backend] = true
	}
	for name := range l.rebuild {
		b := next.Backend(name)
		switch {
		case b == nil:
			delete(l.rebuild, name)
		case !b.Rebuild:
			t.Fatalf("%v took the mark of %s", c, name)
		case b.Status == StatusUp || next.Primary == name || next.Operation != nil && next.Operation.Candidate == name:
			t.Fatalf("%v: %s must be rebuilt and is used: %+v", c, name, *b)
		}
	}
	for i := range next.Backends {
		if next.Backends[i].Rebuild {
			l.rebuild[next.Backends[i].Name] = true
		}
	}
}

// primaryChange: a server is the primary again on the recorded timeline only when
// it was the last one; another one is on a newer timeline, and during an operation
// it is the candidate (S2, S6).
func primaryChange(t *rapid.T, s *State, c Command, next *State) {
	last := s.Primary + s.Former
	if next.Primary == "" || next.Primary == s.Primary {
		return
	}
	if c.Kind != KindAdoptPrimary {
		t.Fatalf("%v made %s the primary", c, next.Primary)
	}
	if last != "" && next.Primary != last && next.Timeline <= s.Timeline {
		t.Fatalf("%v: %s is the primary on timeline %d after %s on %d", c, next.Primary, next.Timeline, last, s.Timeline)
	}
	o := s.Operation
	if o != nil && (o.Phase != PhasePromote || next.Primary != o.Candidate || next.Timeline <= s.Timeline && next.Primary != o.Old) &&
		(o.Phase != PhaseRestart || next.Primary != o.Old || next.Timeline != s.Timeline) {
		t.Fatalf("%v: %s is the primary in %+v", c, next.Primary, *o)
	}
}

// drawStart draws an empty cluster or one that works.
func drawStart(t *rapid.T) State {
	var s State
	if rapid.IntRange(0, 3).Draw(t, "empty") == 0 {
		return s
	}
	for _, c := range []Command{
		{Kind: KindConfigure, Backends: []Spec{{Name: "a", Agent: "a"}, {Name: "b", Agent: "b"}, {Name: "c"}}, Addresses: []string{"v"}},
		{Kind: KindAdoptPrimary, Backend: "a", Timeline: 1, SystemID: 7},
		{Kind: KindSetStatus, Backend: "b", Status: StatusUp},
		{Kind: KindSetRole, Backend: "b", Role: RoleStandby},
		{Kind: KindSetStatus, Backend: "c", Status: StatusUp},
		{Kind: KindSetRole, Backend: "c", Role: RoleStandby},
	} {
		next, err := Apply(s, c)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		s = next
	}
	return s
}

// drawCommand draws a command of any kind, more often than not one that the state
// could allow: else the late phases are never reached.
func drawCommand(t *rapid.T, s *State) Command {
	c := Command{
		Kind:    Kind(rapid.IntRange(int(KindConfigure), int(lastKind)).Draw(t, "kind")),
		Backend: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "backend"),
		Reason:  rapid.SampledFrom([]string{"", "because"}).Draw(t, "reason"),
		Expect:  rapid.SampledFrom([]uint64{0, 0, s.Epoch, s.Epoch, s.Epoch + 1}).Draw(t, "expect"),
	}
	if s.Operation == nil && s.Primary != "" && rapid.IntRange(0, 4).Draw(t, "begin") == 0 {
		c.Kind = KindBegin
	}
	if o := s.Operation; o != nil && rapid.IntRange(0, 3).Draw(t, "aside") > 0 {
		drawStep(t, s, o, &c)
		return c
	}
	switch c.Kind {
	case KindConfigure:
		drawLists(t, &c)
	case KindSetStatus:
		c.Status = Status(rapid.IntRange(int(StatusUnknown), int(StatusRecovering)).Draw(t, "status"))
	case KindSetRole:
		c.Role = Role(rapid.IntRange(int(RoleUnknown), int(RoleStandby)).Draw(t, "role"))
	case KindAdoptPrimary:
		drawAdoption(t, s, &c)
	case KindBegin:
		c.Operation = OperationKind(rapid.IntRange(int(OperationUnknown), int(Switchover)).Draw(t, "operation"))
		c.Target = rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "target")
		if rapid.Bool().Draw(t, "of the primary") && s.Primary+s.Former != "" {
			c.Backend = s.Primary + s.Former
			for i := range s.Backends {
				if b := &s.Backends[i]; b.Status == StatusUp && b.Role == RoleStandby && rapid.Bool().Draw(t, "is target") {
					c.Operation, c.Target = Switchover, s.Backends[i].Name
				}
			}
		}
	case KindAdvance:
		c.Phase = Phase(rapid.IntRange(int(PhaseUnknown), int(PhaseRestart)).Draw(t, "phase"))
	case KindHold:
		c.Address = rapid.SampledFrom([]string{"v", "w"}).Draw(t, "address")
		c.Member = rapid.SampledFrom([]string{"", "h1", "h2"}).Draw(t, "member")
	case KindSync:
		c.Sync.Method = SyncMethod(rapid.IntRange(int(SyncNone), int(SyncAny)).Draw(t, "method"))
		if c.Sync.Method != SyncNone {
			c.Sync.Num = 1
			c.Sync.Standbys = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 2).Draw(t, "standbys")
		}
	case KindRecover:
		c.InPlace = rapid.Bool().Draw(t, "in place")
	case KindSetFailover, KindPause:
		c.Off = rapid.Bool().Draw(t, "off")
	case KindFormat:
		c.Format = rapid.IntRange(0, Format+1).Draw(t, "format")
	case KindUnknown, KindClearPrimary, KindMarkRebuild, KindDetach, KindAttach, KindAbandon, KindEnd, KindRecoverFailed, KindRecovered:
	}
	return c
}

// drawStep draws what a leader could do next with the operation under way.
func drawStep(t *rapid.T, s *State, o *Operation, c *Command) {
	c.Expect = s.Epoch
	switch c.Kind = rapid.SampledFrom([]Kind{KindAdvance, KindAdvance, KindAdvance, KindAdvance, KindAdvance, KindAdoptPrimary, KindAbandon, KindEnd}).Draw(t, "step"); c.Kind {
	case KindAdvance:
		for p := PhaseDrain; p <= PhaseRestart; p++ {
			if o.follows(p) && (c.Phase == PhaseUnknown || rapid.Bool().Draw(t, "other way")) {
				c.Phase = p
			}
		}
		if o.Target != "" && rapid.Bool().Draw(t, "to target") {
			c.Backend = o.Target
		}
	case KindAdoptPrimary:
		drawAdoption(t, s, c)
		if o.Candidate != "" && rapid.Bool().Draw(t, "candidate") {
			c.Backend = o.Candidate
		}
	case KindAbandon:
		if o.Candidate != "" && rapid.Bool().Draw(t, "candidate") {
			c.Backend = o.Candidate
		}
	default:
	}
}

func drawAdoption(t *rapid.T, s *State, c *Command) {
	c.Timeline = s.Timeline + rapid.SampledFrom([]uint32{0, 0, 1, 1, 2}).Draw(t, "rise")
	if rapid.IntRange(0, 9).Draw(t, "strange") == 0 {
		c.Timeline = rapid.Uint32Range(0, 5).Draw(t, "timeline")
	}
	c.SystemID = rapid.SampledFrom([]uint64{7, 7, 7, 7, 7, 7, 0, 8}).Draw(t, "system")
	if s.SystemID == 0 {
		c.SystemID = 7
	}
	if rapid.Bool().Draw(t, "with history") {
		for i := uint32(1); i < c.Timeline; i++ {
			c.History = append(c.History, Fork{Timeline: i, End: LSN(100 * i)})
		}
	}
}

func drawLists(t *rapid.T, c *Command) {
	c.Backend = ""
	names := rapid.Permutation([]string{"a", "b", "c"}).Draw(t, "names")
	if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
		names = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", ""}), 0, 4).Draw(t, "odd names")
	}
	for _, n := range names {
		c.Backends = append(c.Backends, Spec{
			Name: n, Address: rapid.SampledFrom([]string{"x", "x", "x", "y"}).Draw(t, "address"),
			Weight: rapid.IntRange(0, 1).Draw(t, "weight"), Agent: rapid.SampledFrom([]string{"", n}).Draw(t, "agent"),
		})
	}
	c.Addresses = rapid.SampledFrom([][]string{nil, {"v"}, {"v", "w"}, {"w", "w"}, {""}}).Draw(t, "addresses")
}
