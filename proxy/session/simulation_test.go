package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// TestSimulation sends what a client may send to a session with model servers, in
// random order of events, with a standby that lags, fails and is lost, and holds
// what the client gets against the answers of one server.
func TestSimulation(t *testing.T) {
	for seed := range uint64(5000) {
		if !t.Run("", func(t *testing.T) { simulate(t, seed) }) {
			return
		}
	}
}

// simulation is one run.
type simulation struct {
	*play
	t      *testing.T
	r      *rand.Rand
	data   *modelData
	faults bool

	replayed *int // position of the standby
	servers  [Standby + 1]*modelServer
	inbox    [Standby + 1][]byte
	sent     []byte // of the client, not given to the core yet
	client   []byte // what the client has got
	taking   *cluster.Samples
	trace    []string
	ids      uint64

	pool  *modelPool // nil: connections are the session's own
	conns [Standby + 1]*modelConn

	losses  int  // of the primary; negative: there are to be none
	rowSeen bool // or an error, since the standby was outside of a transaction
}

func simulate(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	s := &simulation{play: newPlay(t), t: t, replayed: new(int), losses: -1, r: r, data: &modelData{history: []int{0}}, faults: seed%2 == 1}
	s.env.choose = "h2"
	s.attach(Primary, "h1")

	script := randomScript(r)
	reference := newModelServer(&modelData{history: []int{0}}, nil)
	for _, line := range script {
		b := clientMessage(t, line)
		reference.take(b[0], b[pgwire.HeaderLen:])
		s.sent = append(s.sent, b...)
	}
	for idle := 0; len(s.client) < len(reference.out) && idle < 2000; idle++ {
		if s.step() {
			idle = 0
		}
		if s.core.Closed() {
			break
		}
	}
	s.compare(seed, script, reference.out)
	wantNothing(t)
}

// compare holds what the client has got against what one server says.
func (s *simulation) compare(seed uint64, script []string, out []byte) {
	t := s.t
	t.Helper()
	if string(s.client) != string(out) {
		got, want := decode(s.client, true), decode(out, true)
		same := 0
		for same < len(got) && same < len(want) && got[same] == want[same] {
			same++
		}
		t.Fatalf("seed %d, script:\n%s\n\nevents:\n%s\n\n%d lines:\n%s\n\nthen the client got:\n%s\n\none server says:\n%s",
			seed, strings.Join(script, "\n"), strings.Join(s.trace, "\n"), same, strings.Join(want[:same], "\n"),
			strings.Join(got[same:], "\n"), strings.Join(want[same:], "\n"))
	}
}

// randomScript makes messages of a client in the form of clientMessage. Left out
// is what the session does not promise: to use an unnamed statement that another
// server has, behind a Parse in flight that is skipped; and to write behind the
// COMMIT of a read-only transaction in the same batch (40001).
func randomScript(r *rand.Rand) (lines []string) {
	lines = modelBatches(r, modelStatements, "n")
	return append(lines, "Q ROLLBACK", "Q SELECT n FROM t", "Q SELECT d FROM t")
}

// modelBatches makes batches of these statements; what is made by PREPARE reads that
// column, and with n there is COPY, too.
func modelBatches(r *rand.Rand, statements []string, column string) (lines []string) {
	names := []string{"-", "-", "s1", "s2"}
	name := func() string { return names[r.IntN(len(names))] }
	sql := func() string { return statements[r.IntN(len(statements))] }
	for range 1 + r.IntN(12) {
		kind := r.IntN(12)
		if kind < 2 && column != "n" {
			kind = 2
		}
		switch kind {
		case 0:
			lines = append(lines, "Q COPY t FROM STDIN", "d 1", "d 2", []string{"c", "f"}[r.IntN(2)])
		case 1:
			lines = append(lines, "P - COPY t FROM STDIN", "B - -", "E -", "S", "d 1", []string{"c", "f"}[r.IntN(2)], "S")
		case 2:
			lines = append(lines, []string{
				"Q DISCARD ALL", "Q PREPARE s1 AS SELECT " + column + " FROM t", "Q EXECUTE s1", "Q EXECUTE s2",
			}[r.IntN(4)])
		case 3, 4, 5, 6:
			lines = append(lines, "Q "+sql())
		default:
		batch:
			for range 1 + r.IntN(3) {
				n := name()
				switch r.IntN(6) {
				case 0:
					lines = append(lines, "P "+n+" "+sql(), "D S "+n)
				case 1:
					lines = append(lines, "C S "+n)
				case 2, 3: // not the unnamed one, see randomScript
					n = names[2+r.IntN(2)]
					lines = append(lines, "B - "+n, "E -")
				default:
					text := sql()
					lines = append(lines, "P "+n+" "+text, "B - "+n, "D P -", "E -")
					if text == "COMMIT" || text == "ROLLBACK" {
						break batch
					}
				}
				if r.IntN(4) == 0 {
					lines = append(lines, "H")
				}
			}
			lines = append(lines, "S")
		}
	}
	return lines
}

func (s *simulation) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

func (s *simulation) attach(slot Slot, backend string) {
	s.ids++
	sv := newModelServer(s.data, nil)
	if slot == Standby {
		sv.replayed = s.replayed
		sv.fault = func() bool { return s.faults && !s.rowSeen && !rowIn(sv.out) && s.r.IntN(8) == 0 }
		s.rowSeen = false
	}
	s.servers[slot], s.inbox[slot] = sv, nil
	s.rest[slot] = nil
	s.note("attach %v", slot)
	s.core.Attach(slot, Attachment{Backend: backend, ID: s.ids, Fresh: true})
	s.collect()
}

// step lets one event happen and reports whether it did.
func (s *simulation) step() bool {
	slot := Primary + Slot(s.r.IntN(2))
	sv := s.servers[slot]
	switch s.r.IntN(10) {
	case 0, 1:
		return s.clientSends()
	case 2, 3, 4:
		return sv != nil && s.serverTakes(slot, sv)
	case 5, 6, 7:
		return sv != nil && s.serverSays(slot, sv)
	case 8:
		if want, backend := s.core.Wanted(); want != None && (want == Standby || !s.yielding) {
			if s.pool != nil {
				return s.attachPooled(want, max(backend, "h1"))
			}
			s.attach(want, max(backend, "h1"))
			return true
		}
		if s.core.Waiting() && s.r.IntN(4) == 0 {
			s.note("give up waiting")
			s.core.StopWaiting()
			s.collect()
			return true
		}
		if s.faults && s.servers[Standby] != nil && !s.rowSeen && s.r.IntN(30) == 0 {
			s.note("lose standby")
			s.forget(Standby)
			s.core.ServerClosed(Standby)
			s.collect()
			return true
		}
	case 9:
		s.sample()
		s.primaryLeaves()
	}
	return false
}

// primaryLeaves lets a switchover begin or end, or loses a primary on which nothing
// runs.
func (s *simulation) primaryLeaves() {
	if s.r.IntN(4) > 0 {
		return
	}
	if s.faults && s.servers[Primary] != nil && !s.core.OnPrimary() && s.core.pins&pinBound == 0 && s.r.IntN(4) == 0 {
		s.note("lose primary")
		s.forget(Primary)
		s.core.ServerClosed(Primary)
		s.collect()
		return
	}
	s.yielding = !s.yielding
	s.note("yield %t", s.yielding)
	s.core.Yield(s.yielding)
	s.collect()
}

// forget takes out a connection that has ended.
func (s *simulation) forget(slot Slot) {
	if s.pool != nil {
		s.pool.open[slot]--
	}
	s.servers[slot], s.conns[slot] = nil, nil
}

// sample lets the standby replay, starts a round of sampling, or publishes one.
func (s *simulation) sample() {
	switch {
	case s.r.IntN(3) == 0:
		*s.replayed += s.r.IntN(s.data.last() - *s.replayed + 1)
	case s.taking == nil:
		s.env.mark++
		s.taking = &cluster.Samples{Round: s.env.mark, Primary: "h1", Timeline: 1, LSN: cluster.LSN(s.data.last())}
	default:
		s.taking.Replayed = []cluster.Replayed{{Backend: "h2", Timeline: 1, LSN: cluster.LSN(*s.replayed)}}
		s.env.samples, s.taking = s.taking, nil
	}
	s.collect()
}

func (s *simulation) clientSends() bool {
	n := min(len(s.sent), 1+s.r.IntN(120))
	if n == 0 || len(s.unread) > 300 {
		return false
	}
	s.unread = append(s.unread, s.sent[:n]...)
	s.sent = s.sent[n:]
	s.collect()
	return true
}

func (s *simulation) serverTakes(slot Slot, sv *modelServer) bool {
	typ, n, ok, _ := pgwire.Header(s.inbox[slot])
	if !ok || len(s.inbox[slot]) < n {
		return false
	}
	s.note("%v takes %s", slot, decode(s.inbox[slot][:n], false)[0])
	body := s.inbox[slot][pgwire.HeaderLen:n]
	s.inbox[slot] = s.inbox[slot][n:]
	sv.take(typ, body)
	return true
}

// serverSays gives some of what a server has said to the core, by whole messages
// when the standby may be lost at any time.
func (s *simulation) serverSays(slot Slot, sv *modelServer) bool {
	n := min(len(sv.out), 1+s.r.IntN(40))
	if slot == Standby && s.faults || s.losses >= 0 {
		typ, whole, ok, _ := pgwire.Header(sv.out)
		if !ok {
			return false
		}
		n = whole
		switch {
		case typ == pgwire.DataRow, typ == pgwire.ErrorResponse:
			s.rowSeen = true
		case typ == pgwire.ReadyForQuery && sv.out[n-1] == pgwire.TxIdle:
			s.rowSeen = false
		}
	}
	if n == 0 {
		return false
	}
	b := slices.Clone(sv.out[:n])
	sv.out = sv.out[n:]
	s.note("%v says %d bytes of %q", slot, n, b[0])
	s.server(slot, b)
	s.collect()
	return true
}

// collect has the core look on, and moves what it put out.
func (s *simulation) collect() {
	s.take(nil)
	s.play.client()
	for _, d := range s.core.Detached() {
		if s.pool != nil {
			s.pool.take(s, d)
		}
		s.servers[d.Slot] = nil
	}
	s.client = append(s.client, s.got[None].String()...)
	for slot := Primary; slot <= Standby; slot++ {
		s.inbox[slot] = append(s.inbox[slot], s.got[slot].String()...)
	}
	for i := range s.got {
		s.got[i].Reset()
	}
	s.env.events = nil
}

// rowIn reports that a DataRow is among the messages.
func rowIn(b []byte) bool {
	for len(b) > 0 {
		typ, n, ok, _ := pgwire.Header(b)
		if typ == pgwire.DataRow {
			return true
		}
		if !ok || n > len(b) {
			return false
		}
		b = b[n:]
	}
	return false
}
