package cluster

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

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

// TestPauseNeedsEveryMember: a member that cannot read it would stop.
func TestPauseNeedsEveryMember(t *testing.T) {
	s := State{Format: pauseFormat - 1}
	if next, err := Apply(s, Command{Kind: KindPause}); err == nil || next.Paused != nil {
		t.Errorf("paused: %+v, %v", next.Paused, err)
	}
	if _, err := Apply(s, Command{Kind: KindPause, Off: true}); err != nil {
		t.Errorf("resume of what is not paused: %v", err)
	}
}
