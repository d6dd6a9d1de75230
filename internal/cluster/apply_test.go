package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

var testStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// TestApply runs the scripts of testdata: each line of input is a command in
// words, the output what it changed or why it was refused.
//
//	configure NAME=ADDRESS[,weight] ... | status NAME STATUS | role NAME ROLE
//	adopt NAME TIMELINE SYSTEM | clear | rebuild NAME | detach NAME | attach NAME
//
// "expect=N" before it sets the expected epoch.
func TestApply(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := State{}
		now := testStart
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "reset" {
				s = State{}
				return ""
			}
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				now = now.Add(time.Second)
				c := parseCommand(t, strings.Fields(line))
				c.At = now
				next, err := Apply(s, c)
				if err != nil {
					fmt.Fprintf(&b, "error: %v\n", err)
				}
				for _, e := range next.Events {
					if e.Epoch > s.Epoch {
						fmt.Fprintf(&b, "%d %s: %s\n", e.Epoch, e.Backend, e.Text)
					}
				}
				s = next
			}
			if err := s.check(); err != nil {
				t.Errorf("%s: %v", d.Pos, err)
			}
			fmt.Fprintf(&b, "epoch %d primary=%q former=%q timeline %d\n", s.Epoch, s.Primary, s.Former, s.Timeline)
			for _, n := range s.Backends {
				fmt.Fprintf(&b, "  %s %s weight %d %s %s", n.Name, n.Address, n.Weight, n.Status, n.Role)
				if n.Rebuild {
					b.WriteString(" rebuild")
				}
				fmt.Fprintf(&b, " since %v\n", n.Since.Sub(testStart))
			}
			return b.String()
		})
	})
}

func parseCommand(t *testing.T, words []string) Command {
	var c Command
	number := func(s string) (n uint64) {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if after, ok := strings.CutPrefix(words[0], "expect="); ok {
		c.Expect = number(after)
		words = words[1:]
	}
	verb, args := words[0], words[1:]
	if len(args) > 0 {
		c.Backend = args[0]
	}
	var err error
	switch verb {
	case "configure":
		c.Kind, c.Backend = KindConfigure, ""
		for _, w := range args {
			name, rest, _ := strings.Cut(w, "=")
			address, weight, _ := strings.Cut(rest, ",")
			s := Spec{Name: name, Address: address}
			if weight != "" {
				s.Weight = int(number(weight))
			}
			c.Backends = append(c.Backends, s)
		}
	case "status":
		c.Kind = KindSetStatus
		err = c.Status.UnmarshalText([]byte(args[1]))
	case "role":
		c.Kind = KindSetRole
		err = c.Role.UnmarshalText([]byte(args[1]))
	case "adopt":
		c.Kind, c.Timeline, c.SystemID = KindAdoptPrimary, uint32(number(args[1])), number(args[2])
	case "clear":
		c.Kind = KindClearPrimary
	case "rebuild":
		c.Kind = KindMarkRebuild
	case "detach":
		c.Kind = KindDetach
	case "attach":
		c.Kind = KindAttach
	default:
		c.Kind = 99
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestApplyKeepsInvariants applies arbitrary commands and asserts after each: the
// invariants of State.check; the epoch rises by one when the state changed and
// not at all when it did not; an error changes nothing; the former state is not
// written to; and a log that stores every command and state as bytes gets the
// same.
func TestApplyKeepsInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		now := testStart
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Second)
			c := drawCommand(t, s.Epoch)
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
			if next.Timeline < s.Timeline {
				t.Fatalf("%v: timeline went back", c)
			}
			replayed, replayErr := Apply(decodeState(t, before), roundTrip(t, c))
			if got := encode(t, replayed); got != after || (replayErr == nil) != (err == nil) {
				t.Fatalf("%v: the bytes of it make another state:\n%s\n%s", c, after, got)
			}
			s = next
		}
	})
}

func drawCommand(t *rapid.T, epoch uint64) Command {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	c := Command{
		Kind:    Kind(rapid.IntRange(int(KindUnknown), int(KindAttach)).Draw(t, "kind")),
		Backend: name.Draw(t, "backend"),
		Reason:  rapid.SampledFrom([]string{"", "because"}).Draw(t, "reason"),
		Expect:  rapid.SampledFrom([]uint64{0, 0, epoch, epoch + 1}).Draw(t, "expect"),
	}
	if c.Kind == KindUnknown {
		c.Kind = KindAdoptPrimary // cannot be encoded; TestApply has it
	}
	switch c.Kind {
	case KindConfigure:
		for _, n := range rapid.SliceOfN(name, 1, 4).Draw(t, "names") {
			c.Backends = append(c.Backends, Spec{
				Name: n, Address: rapid.SampledFrom([]string{"x", "x", "y"}).Draw(t, "address"), Weight: rapid.IntRange(0, 1).Draw(t, "weight"),
			})
		}
	case KindSetStatus:
		c.Status = Status(rapid.IntRange(int(StatusUnknown), int(StatusRecovering)).Draw(t, "status"))
	case KindSetRole:
		c.Role = Role(rapid.IntRange(int(RoleUnknown), int(RoleStandby)).Draw(t, "role"))
	case KindAdoptPrimary:
		c.Timeline = rapid.Uint32Range(0, 5).Draw(t, "timeline")
		c.SystemID = rapid.SampledFrom([]uint64{0, 7, 7, 7, 7, 8}).Draw(t, "system")
	case KindUnknown, KindClearPrimary, KindMarkRebuild, KindDetach, KindAttach:
	}
	return c
}

type fataler interface {
	Fatalf(string, ...any)
}

func encode(t fataler, s State) string {
	data, err := EncodeState(s)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(data)
}

func decodeState(t fataler, data string) State {
	s, err := DecodeState([]byte(data))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

func roundTrip(t fataler, c Command) Command {
	data, err := EncodeCommand(c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	got, err := DecodeCommand(data)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if !reflect.DeepEqual(got, c) {
		t.Fatalf("%+v became %+v", c, got)
	}
	return got
}

func TestEventsAreBounded(t *testing.T) {
	s, err := Apply(State{}, Command{Kind: KindConfigure, Backends: []Spec{{Name: "a"}}})
	for i := range 3 * MaxEvents {
		if err != nil {
			t.Fatal(err)
		}
		s, err = Apply(s, Command{Kind: KindSetStatus, Backend: "a", Status: []Status{StatusUp, StatusDown}[i%2]})
	}
	if len(s.Events) != MaxEvents || s.Events[MaxEvents-1].Epoch != s.Epoch {
		t.Errorf("%d events, the last of epoch %d; want %d, %d", len(s.Events), s.Events[len(s.Events)-1].Epoch, MaxEvents, s.Epoch)
	}
}

// TestUnknownIsRefused: nothing of a newer program is skipped.
func TestUnknownIsRefused(t *testing.T) {
	for _, data := range []string{
		`{"kind":"levitate","at":"2024-01-01T00:00:00Z"}`,
		`{"kind":"unknown"}`,
		`{}`,
	} {
		if _, err := DecodeCommand([]byte(data)); !errors.Is(err, ErrUnknown) {
			t.Errorf("command %s: %v, want ErrUnknown", data, err)
		}
	}
	for _, data := range []string{
		`{"kind":"detach","backend":"a","gently":true}`,
		`{"kind":"set status","status":"tired"}`,
		`{"kind":"set role","role":"king"}`,
		`{"kind":"detach"} {}`,
	} {
		if c, err := DecodeCommand([]byte(data)); err == nil {
			t.Errorf("command %s was read as %v", data, c)
		}
	}
	if _, err := EncodeCommand(Command{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a command without a kind was encoded: %v", err)
	}
	newer := State{Format: Format + 1}
	if _, err := Apply(newer, Command{Kind: KindClearPrimary}); !errors.Is(err, ErrUnknown) {
		t.Errorf("apply to a newer format: %v, want ErrUnknown", err)
	}
	for _, data := range []string{encode(t, newer), `{"format":9,"strange":1}`} {
		if _, err := DecodeState([]byte(data)); !errors.Is(err, ErrUnknown) {
			t.Errorf("state %s: %v, want ErrUnknown", data, err)
		}
	}
	for _, data := range []string{
		`{"format":1,"strange":1}`,
		`{"format":1,"backends":[],"primary":"ghost","timeline":1,"system_id":7}`,
		`{"format":1,"backends":[{"name":"a","role":"primary","status":"up"}]}`,
	} {
		if s, err := DecodeState([]byte(data)); err == nil {
			t.Errorf("state %s was read as %+v", data, s)
		}
	}
}

// FuzzDecode: what a member sends never panics, and what is read is written as
// the same again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"configure","at":"2024-01-01T00:00:00Z","backends":[{"name":"a","address":"x:1","weight":1}]}`))
	f.Add([]byte(`{"epoch":3,"format":1,"backends":[{"name":"a","address":"x","weight":1,"status":"up","role":"primary","since":"2024-01-01T00:00:00Z"}],"primary":"a","timeline":2,"system_id":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := DecodeCommand(data); err == nil {
			again, err := EncodeCommand(c)
			if err != nil {
				t.Fatal(err)
			}
			c2, err := DecodeCommand(again)
			if err != nil || c.String() != c2.String() {
				t.Fatalf("%v became %v, %v", c, c2, err)
			}
			if s, err := Apply(State{}, c); err == nil {
				if err := s.check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if s, err := DecodeState(data); err == nil {
			if one, two := encode(t, s), encode(t, decodeState(t, encode(t, s))); one != two {
				t.Fatalf("%s became %s", one, two)
			}
		}
	})
}

func TestWords(t *testing.T) {
	b, err := json.Marshal(Backend{Name: "a", Status: StatusQuarantined, Role: RoleStandby})
	if err != nil || !strings.Contains(string(b), `"status":"quarantine","role":"standby"`) {
		t.Errorf("%s, %v", b, err)
	}
}
