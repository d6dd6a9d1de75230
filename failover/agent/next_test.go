package agent

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

var scriptStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// TestNext runs the scripts of testdata, one situation each. The local server is h2
// of the system 7 unless a script says otherwise, LSNs are hexadecimal:
//
//	state [primary=NAME|former=NAME] [timeline=N] [fork=N:LSN] [failover=off]  lines: NAME STATUS [ROLE] [rebuild] [recovery=ID[,in-place]]
//	operation KIND PHASE old=NAME [target=NAME] [candidate=NAME]   that is under way, with the ID 5
//	server STATE WORD...      what is seen of the server, and of the agent's files, until the next one
//	failed ERROR [again]      the step of now has failed: for good, or to be tried again in 10 s
//	checked                   the checkpoint of now was made
//	clock SECONDS             lets time pass
//
// Each command but the first two prints the next step and what is reported.
func TestNext(t *testing.T) {
	datadriven.Walk(t, "testdata/next", func(t *testing.T, path string) {
		v := View{Managed: true, FenceAfter: 10 * time.Second, RestartWait: 5 * time.Second}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "state":
				v.State, v.Now, v.Tried = scriptState(t, d), scriptStart, map[Action]Attempt{}
				v.Held, v.Backend = v.Now.Add(time.Hour), "h2"
				d.MaybeScanArgs(t, "me", &v.Backend)
				return "ok"
			case "operation":
				scriptOperation(t, d, v.State)
				return "ok"
			case "server":
				scriptServer(t, d, &v)
			case "failed":
				s := Next(v)
				v.Tried[s.Action] = Attempt{
					For: s.For, Err: strings.ReplaceAll(d.CmdArgs[0].Key, "_", " "), Count: 1,
					Final: !d.HasArg("again"), Again: v.Now.Add(10 * time.Second),
				}
			case "checked":
				s := Next(v)
				v.Tried[s.Action] = Attempt{For: s.For, Final: true}
			case "clock":
				n, err := strconv.Atoi(d.CmdArgs[0].Key)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				v.Now = v.Now.Add(time.Duration(n) * time.Second)
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			return Next(v).String() + "\n" + showReport(Report(v))
		})
	})
}

func scriptState(t *testing.T, d *datadriven.TestData) *cluster.State {
	s := &cluster.State{Epoch: 9, Format: cluster.Format, SystemID: 7}
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "primary":
			s.Primary = a.Vals[0]
		case "former":
			s.Former = a.Vals[0]
		case "timeline":
			s.Timeline = uint32(number(t, d, a.Vals[0], 10))
		case "fork":
			tli, end, _ := strings.Cut(a.Vals[0], ":")
			s.History = append(s.History, cluster.Fork{
				Timeline: uint32(number(t, d, tli, 10)), End: cluster.LSN(number(t, d, end, 16)),
			})
		case "failover":
			s.FailoverOff = a.Vals[0] == "off"
		case "new":
			s.SystemID = 0
		case "me":
		default:
			d.Fatalf(t, "unknown argument %s", a.Key)
		}
	}
	for line := range strings.Lines(d.Input) {
		w := strings.Fields(line)
		b := cluster.Backend{Name: w[0], Address: w[0] + ":5432", Agent: w[0]}
		if err := b.Status.UnmarshalText([]byte(w[1])); err != nil {
			d.Fatalf(t, "%v", err)
		}
		for _, word := range w[2:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "primary":
				b.Role = cluster.RolePrimary
			case "standby":
				b.Role = cluster.RoleStandby
			case "rebuild":
				b.Rebuild = true
			case "recovery":
				id, place, _ := strings.Cut(value, ",")
				b.Rebuild = true
				b.Recovery = &cluster.Recovery{ID: number(t, d, id, 10), InPlace: place != ""}
			default:
				d.Fatalf(t, "unknown word %s", word)
			}
		}
		s.Backends = append(s.Backends, b)
	}
	return s
}

func scriptOperation(t *testing.T, d *datadriven.TestData, s *cluster.State) {
	o := &cluster.Operation{ID: 5}
	if err := o.Kind.UnmarshalText([]byte(d.CmdArgs[0].Key)); err != nil {
		d.Fatalf(t, "%v", err)
	}
	if err := o.Phase.UnmarshalText([]byte(d.CmdArgs[1].Key)); err != nil {
		d.Fatalf(t, "%v", err)
	}
	d.ScanArgs(t, "old", &o.Old)
	d.MaybeScanArgs(t, "target", &o.Target)
	d.MaybeScanArgs(t, "candidate", &o.Candidate)
	s.Operation = o
	if o.Barred() {
		s.Primary, s.Former = "", o.Old
	}
}

// scriptServer replaces what is seen.
func scriptServer(t *testing.T, d *datadriven.TestData, v *View) {
	s := Server{SystemID: 7, Timeline: v.State.Timeline, Rewindable: true}
	v.Files, v.Cold, v.Halted, v.Down, v.Idle, v.Held = Files{}, false, false, v.Now, time.Time{}, v.Now.Add(time.Hour)
	if err := s.State.UnmarshalText([]byte(d.CmdArgs[0].Key)); err != nil || s.State == cluster.ServerUnknown {
		d.Fatalf(t, "state of the server %s", d.CmdArgs[0].Key)
	}
	for _, a := range d.CmdArgs[1:] {
		value := ""
		if len(a.Vals) > 0 {
			value = a.Vals[0]
		}
		switch a.Key {
		case "system":
			s.SystemID = number(t, d, value, 10)
		case "tl":
			s.Timeline = uint32(number(t, d, value, 10))
		case "end":
			s.End = cluster.LSN(number(t, d, value, 16))
		case "clean":
			s.Clean = true
		case "produced":
			s.Produced = true
		case "backup":
			s.Backup = true
		case "signal":
			s.Signal = true
		case "no-checksums":
			s.Rewindable = false
		case "follows":
			s.Follows, s.Receiver = value, true
		case "receiver":
			s.Receiver = true
		case "settling":
			s.Settling = true
		case "streaming":
			s.Streaming, s.Receiver = true, true
		case "replays":
			s.Replays = true
		case "log-gone":
			s.LogGone = true
		case "marker":
			v.Files.Marker = true
		case "in-place":
			v.Files.InPlace = true
		case "fenced":
			v.Files.Fenced = true
		case "left":
			v.Files.Left = true
		case "rebuilt":
			v.Files.Rebuilt = number(t, d, value, 10)
		case "cold":
			v.Cold = true
		case "halted":
			v.Halted = true
		case "idle":
			v.Idle = v.Now
		case "alone":
			v.Held = v.Now
		default:
			d.Fatalf(t, "unknown word %s", a.Key)
		}
	}
	v.Server = s
}

func number(t *testing.T, d *datadriven.TestData, text string, base int) uint64 {
	n, err := strconv.ParseUint(text, base, 64)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return n
}

// showReport prints what the leader decides by.
func showReport(l cluster.Local) string {
	var b strings.Builder
	fmt.Fprintf(&b, "report: %s", l.Server)
	for _, f := range []struct {
		word string
		is   bool
	}{
		{"clean", l.Clean},
		{"marker", l.Marker},
		{"detached", l.Detached},
		{"promoted", l.Promoted},
		{"stopped", l.Stopped},
		{"restarted", l.Restarted},
		{"rebuilt", l.Rebuilt},
	} {
		if f.is {
			b.WriteString(" " + f.word)
		}
	}
	for _, f := range []struct{ word, text string }{{"failed", l.Failed}, {"trouble", l.Trouble}} {
		if f.text != "" {
			fmt.Fprintf(&b, "\n%s: %s", f.word, f.text)
		}
	}
	return b.String()
}

// TestNextUnmanaged: where another tool has the roles only what an operator asks for
// is done.
func TestNextUnmanaged(t *testing.T) {
	state := &cluster.State{Primary: "h1", Timeline: 4, SystemID: 7, Backends: []cluster.Backend{
		{Name: "h1", Role: cluster.RolePrimary, Status: cluster.StatusUp}, {Name: "h2", Status: cluster.StatusUp},
	}}
	v := View{Now: scriptStart, Held: scriptStart.Add(-time.Hour), Backend: "h2", State: state, FenceAfter: time.Second}
	for _, s := range []Server{
		{State: cluster.ServerPrimary, SystemID: 7, Timeline: 4},
		{State: cluster.ServerStopped, SystemID: 7, Timeline: 3},
		{State: cluster.ServerStandby, SystemID: 7, Timeline: 3, End: 500, Follows: Elsewhere},
	} {
		v.Server = s
		if got := Next(v); got.Action != ActionNone || got.Trouble != "" {
			t.Errorf("%s: %s", s.State, got)
		}
	}
	state.Backends[1].Status, state.Backends[1].Recovery = cluster.StatusRecovering, &cluster.Recovery{ID: 3}
	if got := Next(v); got.Action != ActionRebuild {
		t.Errorf("recovering: %s", got)
	}
	v.Files, v.Server.Streaming = Files{Rebuilt: 3, Left: true}, true
	if got := Next(v); got.Action != ActionSettle {
		t.Errorf("rebuilt: %s", got)
	}
}
