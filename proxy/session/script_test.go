package session

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// TestScripts plays client and servers of one session. The commands:
//
//	client              messages of the client, one a line (clientMessage)
//	primary, standby    messages of that server (serverMessage)
//	attach SLOT [used]  gives the connection that the core waits for; written: others have
//	                    written there; own: that of an earlier attachment which the core wants
//	refuse SLOT         it cannot be had
//	lost SLOT           the connection has ended
//	judged [administrator]  what a 57P01 of the primary meant
//	gone                the client has ended
//	env KEY=VALUE...    choose: the standby to choose; mark, round, lsn, h2: samples; crowded: a line
//	give-up             StopWaiting
//	yield on|off        the primary is about to become a standby, or is not any more
//	end                 the session is ended by an operator
//	greeted             the client was told that TimeZone is UTC and DateStyle ISO
//	share               the session is in transaction mode
//
// Each prints what came out since: bytes by peer, then what the core waits for. It must
// be the same whether the core is given the messages one by one or all at once.
func TestScripts(t *testing.T) {
	for _, singly := range []bool{true, false} {
		datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
			p := newPlay(t)
			p.singly = singly
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				return p.command(t, d)
			})
		})
	}
}

// play is one session under test with its surroundings.
type play struct {
	core   *Core
	env    *fakeEnv
	unread []byte              // of the client
	rest   [Standby + 1][]byte // of the servers
	got    [Standby + 1]strings.Builder
	ids    uint64

	yielding bool
	singly   bool // the core is given one message at a time
}

func newPlay(t testing.TB) *play {
	t.Helper()
	classifier, err := lb.NewClassifier(lb.Default())
	if err != nil {
		t.Fatal(err)
	}
	env := &fakeEnv{classifier: classifier, samples: &cluster.Samples{Primary: "h1", Timeline: 1}}
	env.catalog = lb.NewCatalog([]lb.FunctionRow{
		{Name: "count"},
		{Name: "lower"},
		{Name: "now"},
		{Name: "nextval", Volatile: true, Argument: true},
		{Name: "f", Volatile: true},
	}, nil)
	return &play{core: New(env), env: env}
}

func (p *play) command(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	slot := map[string]Slot{"primary": Primary, "standby": Standby}
	switch d.Cmd {
	case "client":
		for line := range strings.Lines(d.Input) {
			p.unread = append(p.unread, clientMessage(t, strings.TrimSpace(line))...)
		}
	case "primary", "standby":
		var b []byte
		for line := range strings.Lines(d.Input) {
			b = append(b, serverMessage(t, strings.TrimSpace(line))...)
		}
		p.server(slot[d.Cmd], b)
	case "attach":
		s := slot[d.CmdArgs[0].Key]
		_, backend := p.core.Wanted()
		if backend == "" {
			backend = "h1"
		}
		p.ids++
		a := Attachment{Backend: backend, ID: p.ids, Fresh: !d.HasArg("used")}
		if id, uses, ok := p.core.Exact(); ok && d.HasArg("own") {
			a.ID, a.Uses, a.Carried = id, uses+1, &Carried{written: true}
		} else if d.HasArg("written") {
			a.Carried = &Carried{written: true}
		}
		p.core.Attach(s, a)
		p.take(nil)
	case "refuse":
		p.core.AttachFailed(slot[d.CmdArgs[0].Key], ownError("57P03", "no server"))
		p.take(nil)
	case "lost":
		p.core.ServerClosed(slot[d.CmdArgs[0].Key])
		p.take(nil)
	case "gone":
		p.core.ClientGone()
	case "judged":
		p.core.Judged(d.HasArg("administrator"))
		p.take(nil)
	case "give-up":
		p.core.StopWaiting()
	case "yield":
		p.yielding = d.HasArg("on")
		p.core.Yield(p.yielding)
	case "greeted":
		p.core.Greeted([]pgwire.Parameter{{Name: "TimeZone", Value: "UTC"}, {Name: "DateStyle", Value: "ISO"}})
	case "share": // transaction mode
		p.core.Share(NewStatements(), 10)
	case "end":
		p.core.End(ownError("57P01", "ended"))
		p.take(nil)
	case "env":
		for _, a := range d.CmdArgs {
			p.env.set(t, a.Key, strings.Join(a.Vals, ","))
		}
		return ""
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	p.client()
	return p.report()
}

// client gives the core what the client has sent until it takes no more.
func (p *play) client() {
	given := p.core.heldLen
	for {
		given += p.piece(p.unread[given:], p.core.body.left)
		n := p.core.Client(p.unread[:given])
		p.take(p.unread[:given])
		p.unread = p.unread[n:]
		given -= n
		if n == 0 && given == len(p.unread) {
			return
		}
	}
}

func (p *play) server(slot Slot, b []byte) {
	p.rest[slot] = append(p.rest[slot], b...)
	given := 0
	for given < len(p.rest[slot]) {
		s := p.core.server[slot]
		attached := s.ready
		given += p.piece(p.rest[slot][given:], s.left)
		n := p.core.Server(slot, p.rest[slot][:given])
		if p.yielding {
			p.core.Yield(true) // as the driver does
		}
		p.take(p.rest[slot][:given])
		p.rest[slot] = p.rest[slot][n:]
		given -= n
		if attached && !s.ready {
			p.rest[slot] = nil // the connection was given up
		}
	}
}

// piece returns how much of b the core is given at once, where left bytes more of a
// message come first.
func (p *play) piece(b []byte, left int) int {
	if !p.singly {
		return len(b)
	}
	if left == 0 {
		_, n, ok, err := pgwire.Header(b)
		if !ok || err != nil {
			return len(b)
		}
		left = n
	}
	return min(left, len(b))
}

// take collects the outputs of one call.
func (p *play) take(input []byte) {
	outs := [...]*Output{p.core.ToClient(), p.core.ToServer(Primary), p.core.ToServer(Standby)}
	for i, out := range outs {
		for _, piece := range out.Take(nil, input) {
			p.got[i].Write(piece)
		}
	}
}

func (p *play) report() string {
	var b strings.Builder
	for i, name := range [...]string{"client", "primary", "standby"} {
		if raw := p.got[i].String(); raw != "" {
			for _, line := range decode([]byte(raw), i == 0) {
				fmt.Fprintf(&b, "%s< %s\n", name, line)
			}
		}
		p.got[i].Reset()
	}
	if id, _, ok := p.core.Exact(); ok {
		fmt.Fprintf(&b, "that of attachment %d: ", id)
	}
	if slot, backend := p.core.Wanted(); slot != None {
		fmt.Fprintf(&b, "wants %s %s\n", slot, backend)
	}
	for _, d := range p.core.Detached() {
		fmt.Fprintf(&b, "gives back %s reusable=%v clean=%v\n", d.Slot, d.Reusable, d.Clean)
	}
	if _, open := p.core.Judging(); open {
		b.WriteString("asks what a 57P01 means\n")
	}
	if p.core.Waiting() {
		b.WriteString("waits for a sample\n")
	}
	for _, e := range p.env.events {
		fmt.Fprintln(&b, e)
	}
	p.env.events = nil
	if p.core.Closed() {
		b.WriteString("closed\n")
	}
	return b.String()
}

// fakeEnv is a world that the script sets.
type fakeEnv struct {
	classifier *lb.Classifier
	catalog    *lb.Catalog
	scratch    lb.Scratch
	choose     string
	confirms   bool
	listens    bool
	crowded    bool
	samples    *cluster.Samples
	mark       uint64
	events     []string
}

func (e *fakeEnv) set(t *testing.T, key, value string) {
	s := *e.samples
	number := func() uint64 {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	switch key {
	case "confirms":
		e.confirms = true
	case "crowded":
		e.crowded = true
	case "listens":
		e.listens = true
	case "choose":
		e.choose = value
	case "mark":
		e.mark = number()
	case "round":
		s.Round = number()
	case "lsn":
		s.LSN = cluster.LSN(number())
	case "timeline":
		s.Timeline = uint32(number())
	default:
		s.Replayed = []cluster.Replayed{{Backend: key, Timeline: s.Timeline, LSN: cluster.LSN(number())}}
	}
	e.samples = &s
}

func (e *fakeEnv) event(format string, args ...any) {
	e.events = append(e.events, fmt.Sprintf(format, args...))
}

func (e *fakeEnv) Classify(sql []byte) *lb.Verdict {
	return e.classifier.Classify(e.catalog, lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true}, sql, &e.scratch)
}

func (e *fakeEnv) SetConfig(sql []byte) ([]lb.ConfigChange, bool) {
	return lb.SetConfig(sql, lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true})
}
func (e *fakeEnv) Show(name string) string               { return "SELECT rows of " + name }
func (e *fakeEnv) Choose(string, bool, lb.Target) string { return e.choose }
func (e *fakeEnv) Samples() *cluster.Samples             { return e.samples }
func (e *fakeEnv) Mark() uint64                          { return e.mark }
func (e *fakeEnv) RequestSample()                        { e.event("asks for a sample") }
func (e *fakeEnv) Confirms() bool                        { return e.confirms }
func (e *fakeEnv) Floors() bool                          { return true }
func (e *fakeEnv) Crowded(string) bool                   { return e.crowded }
func (e *fakeEnv) ListensAgain() bool                    { return e.listens }
func (e *fakeEnv) Parameter(Slot, []byte, []byte)        {}
func (e *fakeEnv) Distrust(sql []byte)                   { e.event("distrusts %s", sql) }
func (e *fakeEnv) CatalogChanged()                       { e.event("catalog changed") }
func (e *fakeEnv) CloseIdle(Slot)                        { e.event("closes idle connections") }
func (e *fakeEnv) Wrote()                                { e.event("wrote") }
func (e *fakeEnv) Completed(Slot, []byte)                {}
func (e *fakeEnv) Failed(Slot, bool)                     {}
func (e *fakeEnv) Routed(Slot)                           {}
func (e *fakeEnv) Answered(Slot)                         {}

// clientMessage encodes a line: Q sql | P name sql | B portal name | D S|P name |
// E portal rows | C S|P name | S | H | F | d data | c | f | X; "-" is an empty name.
func clientMessage(t testing.TB, line string) []byte {
	word, rest, _ := strings.Cut(line, " ")
	first, second, _ := strings.Cut(rest, " ")
	name := func(s string) string { return strings.TrimSuffix(strings.TrimPrefix(s, "-"), "") }
	switch word {
	case "Q":
		return pgwire.AppendQuery(nil, rest)
	case "P":
		return pgwire.AppendParse(nil, name(first), second, nil)
	case "B":
		body := append([]byte(name(first)), 0)
		body = append(append(body, name(second)...), 0, 0, 0, 0, 0, 0, 0)
		return pgwire.AppendMessage(nil, pgwire.Bind, body)
	case "D":
		return pgwire.AppendDescribe(nil, first[0], name(second))
	case "C":
		return pgwire.AppendClose(nil, first[0], name(second))
	case "E":
		body := append([]byte(name(first)), 0, 0, 0, 0, 0)
		return pgwire.AppendMessage(nil, pgwire.Execute, body)
	case "F":
		return pgwire.AppendMessage(nil, pgwire.FunctionCall, make([]byte, 10))
	case "d", "f":
		return pgwire.AppendMessage(nil, word[0], []byte(rest))
	case "S", "H", "c", "X":
		return pgwire.AppendEmpty(nil, word[0])
	}
	t.Fatalf("unknown client message %q", line)
	return nil
}

// serverMessage encodes a line: a type, and what some types carry.
func serverMessage(t testing.TB, line string) []byte {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "Z":
		return pgwire.AppendReadyForQuery(nil, rest[0])
	case "E":
		if code, routine, ok := strings.Cut(rest, " "); ok {
			return pgwire.AppendMessage(nil, 'E', []byte("SERROR\x00VERROR\x00C"+code+"\x00Mtext\x00R"+routine+"\x00\x00"))
		}
		return pgwire.AppendError(nil, "ERROR", rest, "text", "", "")
	case "value": // a row of one column
		body := binary.BigEndian.AppendUint32([]byte{0, 1}, uint32(len(rest)))
		return pgwire.AppendMessage(nil, pgwire.DataRow, append(body, rest...))
	case "garbage":
		return make([]byte, pgwire.HeaderLen)
	case "WARNING":
		code, routine, _ := strings.Cut(rest, " ")
		b := pgwire.AppendNotice(nil, "WARNING", code, "text", "", "")
		if routine == "" {
			return b
		}
		return pgwire.AppendMessage(nil, pgwire.NoticeResponse, append(b[pgwire.HeaderLen:len(b)-1:len(b)-1], "R"+routine+"\x00\x00"...))
	case "half-row":
		b := pgwire.AppendMessage(nil, pgwire.DataRow, make([]byte, 10000))
		return b[:9000]
	case "FATAL":
		return pgwire.AppendError(nil, "FATAL", rest, "text", "", "")
	case "C":
		return pgwire.AppendCommandComplete(nil, rest)
	case "row": // a DataRow of one column
		body := binary.BigEndian.AppendUint32([]byte{0, 1}, uint32(len(rest)))
		return pgwire.AppendMessage(nil, pgwire.DataRow, append(body, rest...))
	case "S":
		name, value, _ := strings.Cut(rest, " ")
		return pgwire.AppendParameterStatus(nil, name, value)
	case "1", "2", "3", "t", "T", "n", "s", "I", "D", "d", "c", "G", "H", "N", "A", "V":
		return pgwire.AppendMessage(nil, word[0], []byte(rest))
	}
	t.Fatalf("unknown server message %q", line)
	return nil
}

// decode prints messages in the form in which scripts write them.
func decode(b []byte, toClient bool) (lines []string) {
	for len(b) > 0 {
		typ, n, ok, err := pgwire.Header(b)
		if ok && err == nil && n > len(b) {
			return append(lines, fmt.Sprintf("%d bytes of %c", len(b), typ))
		}
		if !ok || err != nil {
			return append(lines, fmt.Sprintf("bytes %q", b))
		}
		body := b[pgwire.HeaderLen:n]
		b = b[n:]
		line := string(typ)
		switch {
		case toClient && typ == 'E':
			line = fmt.Sprintf("E %s %s", pgwire.ErrorField(body, 'C'), pgwire.ErrorField(body, 'M'))
		case toClient && typ == 'Z':
			line += " " + string(body)
		case typ == 'D' && toClient, typ == 'C', typ == 'Q', typ == 'S', typ == 'd':
			line += " " + strings.ReplaceAll(strings.TrimRight(string(body), "\x00"), "\x00", " ")
		case typ == 'P', typ == 'B':
			a, rest, _ := pgwire.CString(body)
			c, _, _ := pgwire.CString(rest)
			line += fmt.Sprintf(" %s %s", nonEmpty(a), nonEmpty(c))
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func nonEmpty(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return string(b)
}
