package failover

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

var testStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// TestDecide runs the scripts of testdata. Each keeps a cluster state and a clock:
//
//	state [primary=NAME|former=NAME] [timeline=N] [agents]  sets it; lines: NAME STATUS [ROLE] [rebuild]
//	operator                                 lines: promote|detach|attach|recover NAME, failover off, address TEXT [by MEMBER], sync first|any N LISTED NAME...
//	decide [mode=MODE] [after=SECONDS] [barred] [voters=N]  prints the commands and applies them
//
// With agents, backend hN has the agent mN, and there are three voting members. The
// lines of decide are then reports, MEMBER: ITEM, ITEM...; a member without a line
// is gone, one with "=" reports as before. ITEM is NAME WHAT for what it sees of a
// backend, "local WHAT" for its agent's server, "link WHAT", or a word. Without
// agents the lines are NAME WHAT, as the one member sees it.
//
// WHAT of a backend is primary or standby with tl=N (default 1) and sys=N (default
// 7), or starting, or dead with the number of failed probes, refused, or moved (a
// primary at an address that the backend no longer has). A backend without a line
// has not been probed. After each decide the same reports must lead to no command.
func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{now: testStart}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "state":
				s.state, s.reports, s.now, s.known, s.last = parseState(t, d), nil, testStart, Known{}, cluster.State{}
				s.since = testStart.Add(-time.Hour)
				return show(&s.state)
			case "operator":
				return s.operator(t, d)
			case "decide":
				return s.decide(t, d)
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

// script is the state of one file.
type script struct {
	state   cluster.State
	now     time.Time
	since   time.Time
	known   Known
	last    cluster.State // that known was learnt from
	reports map[string]cluster.Reported
}

func (s *script) decide(t *testing.T, d *datadriven.TestData) string {
	in := Input{
		State: &s.state, Self: "m1", Voters: []string{"m1", "m2", "m3"},
		Mode: ModeManaged, Retries: 1, Interval: time.Second, Timeout: time.Second, StartWait: time.Minute,
		RestartWait: 5 * time.Second, PromoteWait: 30 * time.Second, StopWait: 10 * time.Second, DiskWait: 10 * time.Second, Drain: time.Second,
		SlotKeep: 1000, Barred: d.HasArg("barred"),
	}
	var mode string
	if d.MaybeScanArgs(t, "mode", &mode) {
		in.Mode = Mode(mode)
	}
	d.MaybeScanArgs(t, "self", &in.Self)
	var after int
	if d.MaybeScanArgs(t, "after", &after) {
		s.now = s.now.Add(time.Duration(after) * time.Second)
	}
	if d.HasArg("elected") {
		s.since = s.now
	}
	s.now = s.now.Add(10 * time.Millisecond)
	s.learn()
	in.Now, in.Since, in.Known = s.now, s.since, s.known
	if strings.Contains(d.Input, ":") || slices.ContainsFunc(s.state.Backends, func(b cluster.Backend) bool { return b.Agent != "" }) {
		in.Reports = s.parseReports(t, d)
		s.reports = in.Reports
	} else {
		in.Voters = []string{"m1"}
		in.Reports = reportOf(s.now, s.state.Epoch, slices.Collect(maps.Values(parseObservations(t, d))))
	}
	defer s.learn()
	return decide(t, in)
}

// learn is what a member does when the State has changed.
func (s *script) learn() { s.known, s.last = s.known.Learn(&s.last, &s.state, s.now), s.state }

// reportOf is what one member that sees all of this reports.
func reportOf(now time.Time, epoch uint64, all []cluster.Observation) map[string]cluster.Reported {
	r := cluster.Reported{At: now, Report: cluster.Report{Member: "m1", Format: cluster.Format, Up: time.Hour, Epoch: epoch}}
	for _, o := range all {
		sight := cluster.Sight{
			Backend: o.Backend, Address: o.Address, Alive: o.Alive, Ready: o.Ready, Refused: o.Refused, Failures: o.Failures,
			Role: o.Role, SystemID: o.SystemID, Timeline: o.Timeline, Seen: true,
		}
		if o.Err != nil {
			sight.Error = o.Err.Error()
		}
		r.Sights = append(r.Sights, sight)
	}
	return map[string]cluster.Reported{"m1": r}
}

func (s *script) operator(t *testing.T, d *datadriven.TestData) string {
	for line := range strings.Lines(d.Input) {
		w := strings.Fields(line)
		c := cluster.Command{At: s.now}
		switch w[0] {
		case "promote":
			c.Kind, c.Operation, c.Backend, c.Target = cluster.KindBegin, cluster.Switchover, s.state.Primary, w[1]
		case "detach":
			c.Kind, c.Backend = cluster.KindDetach, w[1]
		case "attach":
			c.Kind, c.Backend = cluster.KindAttach, w[1]
		case "recover":
			c.Kind, c.Backend = cluster.KindRecover, w[1]
		case "failover":
			c.Kind, c.Off = cluster.KindSetFailover, w[1] == "off"
		case "address":
			if s.state.Address(w[1]) == nil {
				s.state.Addresses = append(s.state.Addresses, cluster.Address{Address: w[1]})
			}
			if len(w) == 2 {
				continue
			}
			c.Kind, c.Address, c.Member = cluster.KindHold, w[1], w[3]
		case "sync":
			c.Kind = cluster.KindSync
			c.Sync.Method = map[string]cluster.SyncMethod{"first": cluster.SyncFirst, "any": cluster.SyncAny}[w[1]]
			c.Sync.Num, c.Sync.Listed, c.Sync.Standbys = atoi(t, w[2]), atoi(t, w[3]), w[4:]
		default:
			d.Fatalf(t, "unknown command %q", line)
		}
		s.state = applyAll(t, s.state, []cluster.Command{c})
	}
	s.learn()
	return show(&s.state)
}

func atoi(t *testing.T, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// parseReports reads MEMBER: ITEM, ITEM...
func (s *script) parseReports(t *testing.T, d *datadriven.TestData) map[string]cluster.Reported {
	all := map[string]cluster.Reported{}
	for line := range strings.Lines(d.Input) {
		member, items, _ := strings.Cut(strings.TrimSpace(line), ":")
		items = strings.TrimSpace(items)
		r := cluster.Reported{At: s.now, Report: cluster.Report{Member: member, Format: cluster.Format, Up: time.Hour, Epoch: s.state.Epoch}}
		if items == "=" {
			r = s.reports[member]
			r.Sights = slices.Clone(r.Sights)
			for i := range r.Sights {
				r.Sights[i].Age += s.now.Sub(r.At)
			}
			r.At = s.now
			all[member] = r
			continue
		}
		for item := range strings.SplitSeq(items, ",") {
			s.parseItem(t, d, &r.Report, strings.Fields(item))
		}
		all[member] = r
	}
	return all
}

func (s *script) parseItem(t *testing.T, d *datadriven.TestData, r *cluster.Report, w []string) {
	if len(w) == 0 {
		return
	}
	var id uint64
	if s.state.Operation != nil {
		id = s.state.Operation.ID
	}
	switch w[0] {
	case "local":
		r.Local = s.parseLocal(t, d, r.Member, id, w[1:])
	case "link":
		l := cluster.Link{Address: w[1], Carrier: true, Gateway: true}
		for _, word := range w[2:] {
			switch word {
			case "down":
				l.Carrier = false
			case "no-gateway":
				l.Gateway = false
			case "foreign":
				l.Foreign = "02:00:00:00:00:99"
			default:
				d.Fatalf(t, "unknown word %q", word)
			}
		}
		r.Links = append(r.Links, l)
	case "witness":
		r.Witness = true
	case "drained":
		r.Drained = id
	case "young":
		r.Up = time.Second
	default:
		r.Sights = append(r.Sights, parseSight(t, d, w))
	}
}

func parseSight(t *testing.T, d *datadriven.TestData, w []string) cluster.Sight {
	v := cluster.Sight{Backend: w[0], Address: w[0] + ":5432", SystemID: 7, Timeline: 1, Seen: true}
	for _, word := range w[1:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "primary", "standby":
			v.Alive, v.Ready, v.Streaming = true, true, key == "standby"
			if err := v.Role.UnmarshalText([]byte(key)); err != nil {
				d.Fatalf(t, "%v", err)
			}
		case "starting":
			v.Alive = true
		case "dead":
			v.Failures, v.Error = atoi(t, value), "timeout"
		case "refused":
			v.Failures, v.Refused, v.Error = 1, true, "connection refused"
		case "unseen":
			v.Seen = false
		case "idle":
			v.Streaming = false
		case "old":
			v.Age = time.Minute
		case "tl":
			v.Timeline = uint32(atoi(t, value))
		case "sync":
			v.SyncState = value
		case "names":
			v.SyncNames = strings.NewReplacer("_", " ", "+", ", ").Replace(value)
		default:
			d.Fatalf(t, "unknown word %q", word)
		}
	}
	return v
}

func (s *script) parseLocal(t *testing.T, d *datadriven.TestData, member string, id uint64, w []string) *cluster.Local {
	l := &cluster.Local{Backend: "h" + strings.TrimPrefix(member, "m"), SystemID: 7, Timeline: s.state.Timeline, End: 100}
	if err := l.Server.UnmarshalText([]byte(w[0])); err != nil || l.Server == cluster.ServerUnknown {
		d.Fatalf(t, "local %q", w[0])
	}
	for _, word := range w[1:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "clean":
			l.Clean = true
		case "end":
			l.End = cluster.LSN(atoi(t, value))
		case "tl":
			l.Timeline = uint32(atoi(t, value))
		case "detached":
			l.Operation, l.Detached = id, true
		case "promoted":
			l.Operation, l.Promoted, l.Timeline = id, true, s.state.Timeline+1
			l.History = []cluster.Fork{{Timeline: s.state.Timeline, End: l.End}}
		case "stopped":
			l.Operation, l.Stopped, l.Clean = id, true, true
		case "restarted":
			l.Operation, l.Restarted = id, true
		case "failed":
			l.Operation, l.Failed = id, "it did not work"
		case "marker":
			l.Marker = true
		case "disk":
			l.DiskHangs = time.Duration(atoi(t, value)) * time.Second
		case "rebuilt", "trouble":
			if b := s.state.Backend(l.Backend); b.Recovery != nil {
				l.Recovery = b.Recovery.ID
			}
			l.Rebuilt = key == "rebuilt"
			if !l.Rebuilt {
				l.Trouble = "too little space"
			}
		case "slot":
			name, held, _ := strings.Cut(value, "/")
			l.Slots = append(l.Slots, cluster.Slot{Backend: name, Held: uint64(atoi(t, held))})
		default:
			d.Fatalf(t, "unknown word %q", word)
		}
	}
	return l
}

// decide prints what Decide wants and leaves *in.State as the commands make it.
func decide(t testing.TB, in Input) string {
	var b strings.Builder
	d := Decide(in)
	for _, c := range d.Commands {
		fmt.Fprintln(&b, c)
	}
	if len(d.Ask) > 0 {
		fmt.Fprintf(&b, "ask: %s\n", strings.Join(d.Ask, " "))
	}
	if d.Waiting != "" {
		fmt.Fprintf(&b, "waiting: %s\n", d.Waiting)
	}
	next := applyAll(t, *in.State, d.Commands)
	in.Known = in.Known.Learn(in.State, &next, in.Now)
	*in.State = next
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
	if o := s.Operation; o != nil {
		fmt.Fprintf(&b, " (%s %s", o.Kind, o.Phase)
		if o.Candidate != "" {
			fmt.Fprintf(&b, " %s", o.Candidate)
		}
		b.WriteString(")")
	}
	for _, a := range s.Addresses {
		fmt.Fprintf(&b, " %s@%s", a.Address, a.Holder)
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
		s.Reigns = []cluster.Reign{{Timeline: s.Timeline, Backend: s.Primary + s.Former}}
	}
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		b := cluster.Backend{Name: words[0], Address: words[0] + ":5432", Since: testStart}
		if d.HasArg("agents") {
			b.Agent = "m" + strings.TrimPrefix(b.Name, "h")
		}
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
		if b.Status == cluster.StatusRecovering {
			b.Rebuild, b.Recovery = true, &cluster.Recovery{ID: 1}
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
		var known Known
		var learnt cluster.State
		for range 12 {
			now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			in := Input{Now: now, State: &s, Mode: mode, Retries: 1, StartWait: time.Minute, Voters: []string{"m1"}, Interval: time.Second, Timeout: time.Second}
			known = known.Learn(&learnt, &s, now)
			learnt, in.Known = s, known
			seen := map[string]cluster.Observation{}
			for _, n := range names {
				if o, ok := drawObservation(t, n); ok {
					seen[n] = o
				}
			}
			in.Reports = reportOf(now, s.Epoch, slices.Collect(maps.Values(seen)))
			before := s
			d := Decide(in)
			s = applyAll(t, s, d.Commands)
			in.Known = in.Known.Learn(&before, &s, in.Now)
			for _, c := range d.Commands {
				checkAdoption(t, in, seen[c.Backend], before, c)
			}
			works := s.Primary != "" && s.Backend(s.Primary).Status != cluster.StatusDown
			if works == (d.Waiting != "") {
				t.Fatalf("primary %q, but waiting %q", s.Primary, d.Waiting)
			}
			if again := Decide(in); len(again.Commands) > 0 {
				t.Fatalf("does not settle: %v, then %v", d.Commands, again.Commands)
			}
			for _, b := range s.Backends {
				o := seen[b.Name]
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

func checkAdoption(t *rapid.T, in Input, o cluster.Observation, before cluster.State, c cluster.Command) {
	if c.Kind != cluster.KindAdoptPrimary {
		return
	}
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
