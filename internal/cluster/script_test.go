package cluster

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

var testStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// TestApply runs the scripts of testdata/apply: each line of input is a command
// in words, the output what it changed or why it was refused, then the state.
//
//	configure NAME=ADDRESS[,WEIGHT[,AGENT]] ... vip=ADDRESS ...
//	status NAME STATUS | role NAME ROLE | rebuild NAME | detach NAME | attach NAME
//	adopt NAME TIMELINE SYSTEM [TIMELINE@LSN ...] | clear
//	begin failover OLD | begin switchover OLD TARGET | advance PHASE [CANDIDATE]
//	abandon NAME | end
//	hold ADDRESS [MEMBER] | sync none | sync first NUM NAME ... | sync any NUM LISTED NAME ...
//	recover NAME [inplace] | recoverfailed NAME | recovered NAME
//	failover on|off | pause | resume | format N
//
// "expect=N" before it sets the expected epoch, "expect=." that of the state. What
// stands behind " -- " is the reason.
func TestApply(t *testing.T) {
	datadriven.Walk(t, "testdata/apply", func(t *testing.T, path string) {
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
				c := scriptCommand(t, strings.TrimSpace(line), s.Epoch)
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
			writeState(&b, &s)
			return b.String()
		})
	})
}

// writeState leaves out what is as in a new State.
func writeState(b *strings.Builder, s *State) {
	fmt.Fprintf(b, "epoch %d primary=%q former=%q timeline %d", s.Epoch, s.Primary, s.Former, s.Timeline)
	for _, f := range s.History {
		fmt.Fprintf(b, " %d@%s", f.Timeline, f.End)
	}
	if s.FailoverOff {
		b.WriteString(" failover off")
	}
	if p := s.Paused; p != nil {
		fmt.Fprintf(b, " paused since %v %q", p.Since.Sub(testStart), p.Reason)
	}
	if s.Sync.Method != SyncNone {
		fmt.Fprintf(b, " sync %s", s.Sync)
	}
	b.WriteString("\n")
	if o := s.Operation; o != nil {
		fmt.Fprintf(b, "  operation %d: %s in %s, old=%q target=%q candidate=%q began %v since %v",
			o.ID, o.Kind, o.Phase, o.Old, o.Target, o.Candidate, o.Began.Sub(testStart), o.Since.Sub(testStart))
		if o.Reason != "" {
			fmt.Fprintf(b, ": %s", o.Reason)
		}
		b.WriteString("\n")
	}
	for _, n := range s.Backends {
		fmt.Fprintf(b, "  %s %s weight %d %s %s", n.Name, n.Address, n.Weight, n.Status, n.Role)
		if n.Rebuild {
			b.WriteString(" rebuild")
		}
		if r := n.Recovery; r != nil {
			fmt.Fprintf(b, " recovery %d in place %t failed %q", r.ID, r.InPlace, r.Failed)
		}
		fmt.Fprintf(b, " since %v\n", n.Since.Sub(testStart))
	}
	for _, a := range s.Addresses {
		fmt.Fprintf(b, "  %s held by %q since %v\n", a.Address, a.Holder, a.Since.Sub(testStart))
	}
}

func scriptCommand(t *testing.T, line string, epoch uint64) Command {
	t.Helper()
	line, reason, _ := strings.Cut(line, " -- ")
	words := strings.Fields(line)
	c := Command{Reason: reason}
	if after, ok := strings.CutPrefix(words[0], "expect="); ok {
		if c.Expect = epoch; after != "." {
			c.Expect = scriptNumber(t, after)
		}
		words = words[1:]
	}
	verb := words[0]
	args := append(words[1:], make([]string, 4)...)
	n := len(words) - 1
	if n > 0 {
		c.Backend = args[0]
	}
	var err error
	switch verb {
	case "configure":
		c.Kind, c.Backend = KindConfigure, ""
		scriptSpecs(t, &c, args[:n])
	case "status":
		c.Kind = KindSetStatus
		err = c.Status.UnmarshalText([]byte(args[1]))
	case "role":
		c.Kind = KindSetRole
		err = c.Role.UnmarshalText([]byte(args[1]))
	case "adopt":
		c.Kind, c.Timeline, c.SystemID = KindAdoptPrimary, uint32(scriptNumber(t, args[1])), scriptNumber(t, args[2])
		c.History = scriptHistory(t, words[4:])
	case "clear":
		c.Kind = KindClearPrimary
	case "rebuild":
		c.Kind = KindMarkRebuild
	case "detach":
		c.Kind = KindDetach
	case "attach":
		c.Kind = KindAttach
	case "begin":
		c.Kind, c.Backend, c.Target = KindBegin, args[1], args[2]
		if args[0] != "nothing" {
			err = c.Operation.UnmarshalText([]byte(args[0]))
		}
	case "advance":
		c.Kind, c.Backend = KindAdvance, args[1]
		err = c.Phase.UnmarshalText([]byte(args[0]))
	case "abandon":
		c.Kind = KindAbandon
	case "end":
		c.Kind = KindEnd
	case "hold":
		c.Kind, c.Backend, c.Address, c.Member = KindHold, "", args[0], args[1]
	case "sync":
		c.Kind, c.Backend, c.Sync = KindSync, "", scriptSync(t, args[:n])
	case "recover":
		c.Kind, c.InPlace = KindRecover, args[1] == "inplace"
	case "recoverfailed":
		c.Kind = KindRecoverFailed
	case "recovered":
		c.Kind = KindRecovered
	case "failover":
		c.Kind, c.Backend, c.Off = KindSetFailover, "", args[0] == "off"
	case "pause", "resume":
		c.Kind, c.Off = KindPause, verb == "resume"
	case "format":
		c.Kind, c.Backend, c.Format = KindFormat, "", int(scriptNumber(t, args[0]))
	case "levitate":
		c.Kind = 99
	default:
		t.Fatalf("no verb %q", verb)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func scriptSpecs(t *testing.T, c *Command, words []string) {
	t.Helper()
	for _, w := range words {
		name, rest, _ := strings.Cut(w, "=")
		if name == "vip" {
			c.Addresses = append(c.Addresses, rest)
			continue
		}
		parts := append(strings.Split(rest, ","), "", "")
		s := Spec{Name: name, Address: parts[0], Agent: parts[2]}
		if parts[1] != "" {
			s.Weight = int(scriptNumber(t, parts[1]))
		}
		c.Backends = append(c.Backends, s)
	}
}

func scriptHistory(t *testing.T, words []string) []Fork {
	t.Helper()
	var history []Fork
	for _, w := range words {
		timeline, end, _ := strings.Cut(w, "@")
		lsn, err := ParseLSN(end)
		if err != nil {
			t.Fatal(err)
		}
		history = append(history, Fork{Timeline: uint32(scriptNumber(t, timeline)), End: lsn})
	}
	return history
}

func scriptSync(t *testing.T, words []string) Sync {
	t.Helper()
	var s Sync
	switch words[0] {
	case "first":
		s = Sync{Method: SyncFirst, Num: int(scriptNumber(t, words[1])), Standbys: words[2:]}
	case "any":
		s = Sync{Method: SyncAny, Num: int(scriptNumber(t, words[1])), Listed: int(scriptNumber(t, words[2])), Standbys: words[3:]}
	case "levitate":
		s.Method = 99
	}
	return s
}

func scriptNumber(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
