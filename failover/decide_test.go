package failover

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

var testStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// TestDecide runs the scripts of testdata. Each keeps a cluster state:
//
//	state [primary=NAME|former=NAME] [timeline=N]   sets it; lines: NAME STATUS [ROLE] [rebuild]
//	decide [mode=MODE] [after=SECONDS]              lines: NAME WHAT; prints the commands and applies them
//
// WHAT is primary or standby with tl=N (default 1) and sys=N (default 7), or
// starting, or dead with the number of failed probes, or moved (a primary at an
// address that the backend no longer has). A backend without a line has not been
// probed. After each decide the same observations must lead to no command.
func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var state cluster.State
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "state":
				state = parseState(t, d)
				return show(&state)
			case "decide":
				in := Input{State: &state, Now: testStart, Retries: 1, StartWait: time.Minute, Mode: ModeManaged}
				var mode string
				if d.MaybeScanArgs(t, "mode", &mode) {
					in.Mode = Mode(mode)
				}
				var after int
				d.MaybeScanArgs(t, "after", &after)
				in.Now = in.Now.Add(time.Duration(after) * time.Second)
				in.Observations = parseObservations(t, d)
				return decide(t, in)
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

// decide prints what Decide wants and leaves *in.State as the commands make it.
func decide(t testing.TB, in Input) string {
	var b strings.Builder
	d := Decide(in)
	for _, c := range d.Commands {
		fmt.Fprintln(&b, c)
	}
	if d.Waiting != "" {
		fmt.Fprintf(&b, "waiting: %s\n", d.Waiting)
	}
	*in.State = applyAll(t, *in.State, d.Commands)
	if again := Decide(in); len(again.Commands) > 0 {
		t.Errorf("does not settle: %s", again.Commands[0])
	}
	return b.String() + show(in.State)
}

func applyAll(t interface{ Fatalf(string, ...any) }, s cluster.State, commands []cluster.Command) cluster.State {
	for _, c := range commands {
		next, err := cluster.Apply(s, c)
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		s = next
	}
	return s
}

func show(s *cluster.State) string {
	var b strings.Builder
	for _, k := range []struct{ key, value string }{{"primary", s.Primary}, {"former", s.Former}} {
		if k.value != "" {
			fmt.Fprintf(&b, "%s=%s ", k.key, k.value)
		}
	}
	fmt.Fprintf(&b, "timeline=%d:", s.Timeline)
	for _, n := range s.Backends {
		fmt.Fprintf(&b, " %s=%s/%s", n.Name, n.Status, n.Role)
		if n.Rebuild {
			b.WriteString("/rebuild")
		}
	}
	return b.String() + "\n"
}

func parseState(t *testing.T, d *datadriven.TestData) cluster.State {
	s := cluster.State{Epoch: 1, Format: cluster.Format}
	d.MaybeScanArgs(t, "primary", &s.Primary)
	d.MaybeScanArgs(t, "former", &s.Former)
	var timeline int
	if d.MaybeScanArgs(t, "timeline", &timeline) {
		s.Timeline, s.SystemID = uint32(timeline), 7
	}
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		b := cluster.Backend{Name: words[0], Address: words[0] + ":5432", Since: testStart}
		if err := b.Status.UnmarshalText([]byte(words[1])); err != nil {
			d.Fatalf(t, "%v", err)
		}
		for _, w := range words[2:] {
			if w == "rebuild" {
				b.Rebuild = true
			} else if err := b.Role.UnmarshalText([]byte(w)); err != nil {
				d.Fatalf(t, "%v", err)
			}
		}
		s.Backends = append(s.Backends, b)
	}
	data, err := cluster.EncodeState(s)
	if err == nil {
		_, err = cluster.DecodeState(data) // checks the invariants
	}
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return s
}

func parseObservations(t *testing.T, d *datadriven.TestData) map[string]cluster.Observation {
	all := map[string]cluster.Observation{}
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		o := cluster.Observation{Backend: words[0], Address: words[0] + ":5432", At: testStart, SystemID: 7, Timeline: 1}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			n, err := strconv.Atoi(value)
			if err != nil && value != "" {
				d.Fatalf(t, "%v", err)
			}
			switch key {
			case "primary", "moved":
				o.Alive, o.Ready, o.Role = true, true, cluster.RolePrimary
				if key == "moved" {
					o.Address = "elsewhere:5432"
				}
			case "standby":
				o.Alive, o.Ready, o.Role = true, true, cluster.RoleStandby
			case "starting":
				o.Alive = true
				o.Err = errors.New("FATAL: the database system is starting up (SQLSTATE 57P03)")
			case "dead":
				o.Failures = n
				o.Err = errors.New("connection refused")
			case "tl":
				o.Timeline = uint32(n)
			case "sys":
				o.SystemID = uint64(n)
			default:
				d.Fatalf(t, "unknown word %q", w)
			}
		}
		all[o.Backend] = o
	}
	return all
}

// TestDecideIsSafe asserts, for any state that commands can reach and any
// observations: Decide proposes nothing that Apply refuses, settles, and never
// makes a primary of a server that is dead, foreign, on an older timeline, or on
// the recorded timeline without having been its primary.
func TestDecideIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"h1", "h2", "h3"}
		var specs []cluster.Spec
		for _, n := range names {
			specs = append(specs, cluster.Spec{Name: n, Address: n + ":5432"})
		}
		s := applyAll(t, cluster.State{}, []cluster.Command{{Kind: cluster.KindConfigure, At: testStart, Backends: specs}})
		mode := rapid.SampledFrom([]Mode{ModeManaged, ModeExternal, ModeOff}).Draw(t, "mode")
		now := testStart
		for range 12 {
			now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			in := Input{Now: now, State: &s, Mode: mode, Retries: 1, StartWait: time.Minute, Observations: map[string]cluster.Observation{}}
			for _, n := range names {
				if o, ok := drawObservation(t, n); ok {
					in.Observations[n] = o
				}
			}
			before := s
			d := Decide(in)
			s = applyAll(t, s, d.Commands)
			for _, c := range d.Commands {
				checkAdoption(t, in, before, c)
			}
			if (s.Primary == "") != (d.Waiting != "") {
				t.Fatalf("primary %q, but waiting %q", s.Primary, d.Waiting)
			}
			if again := Decide(in); len(again.Commands) > 0 {
				t.Fatalf("does not settle: %v, then %v", d.Commands, again.Commands)
			}
			for _, b := range s.Backends {
				o := in.Observations[b.Name]
				if b.Status == cluster.StatusUp && o.Ready && o.Role == cluster.RolePrimary && b.Name != s.Primary && s.Timeline != 0 {
					t.Fatalf("false primary %s is up", b.Name)
				}
			}
		}
	})
}

func drawObservation(t *rapid.T, name string) (cluster.Observation, bool) {
	o := cluster.Observation{Backend: name, Address: name + ":5432"}
	switch rapid.SampledFrom([]string{"none", "dead", "starting", "primary", "primary", "standby", "standby"}).Draw(t, name) {
	case "none":
		return o, false
	case "dead":
		o.Failures = rapid.IntRange(1, 3).Draw(t, "failures")
		return o, true
	case "starting":
		o.Alive = true
		return o, true
	case "primary":
		o.Role = cluster.RolePrimary
	case "standby":
		o.Role = cluster.RoleStandby
	}
	o.Alive, o.Ready = true, true
	o.SystemID = rapid.SampledFrom([]uint64{7, 7, 7, 7, 8}).Draw(t, "system")
	o.Timeline = rapid.Uint32Range(1, 4).Draw(t, "timeline")
	return o, true
}

func checkAdoption(t *rapid.T, in Input, before cluster.State, c cluster.Command) {
	if c.Kind != cluster.KindAdoptPrimary {
		return
	}
	o := in.Observations[c.Backend]
	was := before.Primary + before.Former
	switch {
	case !o.Ready || o.Role != cluster.RolePrimary:
		t.Fatalf("%v: not a primary", c)
	case before.SystemID != 0 && o.SystemID != before.SystemID:
		t.Fatalf("%v: foreign", c)
	case o.Timeline < before.Timeline:
		t.Fatalf("%v: timeline went back from %d", c, before.Timeline)
	case o.Timeline == before.Timeline && was != "" && was != c.Backend:
		t.Fatalf("%v: the primary of that timeline was %s", c, was)
	case in.Mode == ModeOff && was != "" && was != c.Backend:
		t.Fatalf("%v: mode off follows nobody", c)
	}
}
