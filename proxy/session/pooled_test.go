package session

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// TestPooledSimulation is TestSimulation for two sessions in transaction mode that use
// the same few connections, in random order of events: what each client gets is what a
// server of its own would say. One of them writes, the other one sets and prepares.
func TestPooledSimulation(t *testing.T) {
	for seed := range uint64(5000) {
		if !t.Run("", func(t *testing.T) { simulatePooled(t, seed) }) {
			return
		}
	}
}

// modelPool is the connections of both sessions.
type modelPool struct {
	idle [Standby + 1][]*modelConn
	open [Standby + 1]int
	ids  uint64
}

// modelConn is one of them.
type modelConn struct {
	server   *modelServer
	carried  *Carried
	id, uses uint64
}

// modelLimit is how many connections there may be to one server.
const modelLimit = 2

func simulatePooled(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	data := &modelData{history: []int{0}}
	pool := &modelPool{}
	statements := NewStatements()
	replayed := new(int)
	var both [2]*simulation
	var scripts [2][]string
	var references [2]*modelServer
	for i := range both {
		s := &simulation{play: newPlay(t), t: t, losses: -1, r: r, data: data, faults: seed%2 == 1, pool: pool, replayed: replayed}
		s.core.Share(statements, 1+r.IntN(4))
		s.env.choose = "h2"
		for scripts[i] == nil || slices.ContainsFunc(scripts[i], promisesLess) {
			scripts[i] = randomScript(r)
			if i == 1 {
				scripts[i] = append(modelBatches(r, settingStatements, "d"), "Q ROLLBACK", "Q SELECT d FROM t")
			}
		}
		references[i] = newModelServer(&modelData{history: []int{0}}, nil)
		for _, line := range scripts[i] {
			b := clientMessage(t, line)
			references[i].take(b[0], b[pgwire.HeaderLen:])
			s.sent = append(s.sent, b...)
		}
		both[i] = s
	}
	for idle := 0; idle < 4000; idle++ {
		i := r.IntN(2)
		if both[i].step() {
			idle = 0
		}
		if both[0].ended(references[0]) && both[1].ended(references[1]) {
			break
		}
	}
	for i, s := range both {
		s.client = inFailed(s.client)
		s.compare(seed, scripts[i], inFailed(references[i].out))
	}
	wantNothing(t)
	for _, s := range both {
		if s.core.pins&pinBound == 0 && s.servers[Primary] != nil || s.servers[Standby] != nil {
			t.Fatalf("seed %d: a session at rest has a connection\n%s", seed, strings.Join(s.trace, "\n"))
		}
	}
}

// inFailed makes those errors the same that a failed transaction may change: the
// statement that a Parse or Bind is about cannot be made there for the server to see.
func inFailed(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("C42P05"), []byte("C25P02"))
	const end = "\x00Mtext\x00\x00Z\x00\x00\x00\x05E"
	return bytes.ReplaceAll(b, []byte("C26000"+end), []byte("C25P02"+end))
}

// ended reports that the client has everything, and the session nothing.
func (s *simulation) ended(reference *modelServer) bool {
	return len(s.client) >= len(reference.out) && (s.servers[Primary] == nil || s.core.pins&pinBound != 0) && s.servers[Standby] == nil
}

// promisesLess reports what a session in transaction mode does not promise: that a
// statement is gone behind a DEALLOCATE by the extended protocol in the same batch, and
// that a name in use is refused in a failed transaction.
func promisesLess(line string) bool {
	named := strings.HasPrefix(line, "P s")
	return strings.HasPrefix(line, "P ") && strings.Contains(line, "DEALLOCATE") ||
		named && (strings.Contains(line, "ROLLBACK") || strings.Contains(line, "COMMIT"))
}

// settingStatements say nothing of the data.
var settingStatements = slices.Concat(
	slices.Repeat([]string{"SELECT d FROM t"}, 6),
	slices.Repeat([]string{"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a"}, 2),
	[]string{"SET DateStyle = 'SQL'", "SET DateStyle = 'German'", "DEALLOCATE s1", "DEALLOCATE ALL", "SELECT bad FROM t"},
)

// attachPooled gives the session one of the connections; false: all are in use.
func (s *simulation) attachPooled(slot Slot, backend string) bool {
	p := s.pool
	var conn *modelConn
	switch idle := p.idle[slot]; {
	case len(idle) > 0 && (p.open[slot] == modelLimit || s.r.IntN(2) == 0):
		i := s.r.IntN(len(idle))
		conn = idle[i]
		p.idle[slot] = slices.Delete(idle, i, i+1)
	case p.open[slot] < modelLimit:
		p.open[slot]++
		p.ids++
		conn = &modelConn{server: newModelServer(s.data, nil), id: p.ids}
	default:
		return false
	}
	if !s.core.Suits(conn.carried) {
		s.t.Fatal("no custom setting was made, and a connection does not suit")
	}
	conn.uses++
	sv := conn.server
	if slot == Standby {
		sv.replayed = s.replayed
		sv.fault = func() bool { return s.faults && !s.rowSeen && !rowIn(sv.out) && s.r.IntN(8) == 0 }
		s.rowSeen = false
	}
	s.servers[slot], s.conns[slot], s.inbox[slot], s.rest[slot] = sv, conn, nil, nil
	s.note("attach %v %d", slot, conn.id)
	run := uint64(slot)
	s.core.Attach(slot, Attachment{Backend: backend, ID: conn.id, Uses: conn.uses, Server: run, Fresh: conn.uses == 1, Carried: conn.carried})
	s.collect()
	return true
}

// take takes a connection back.
func (p *modelPool) take(s *simulation, d Detachment) {
	conn := s.conns[d.Slot]
	s.conns[d.Slot] = nil
	sv := conn.server
	s.note("gives back %v %d clean %t", d.Slot, conn.id, d.Clean)
	if !d.Reusable {
		p.open[d.Slot]--
		return
	}
	if len(s.inbox[d.Slot])+len(sv.out)+len(s.rest[d.Slot]) > 0 || sv.status != pgwire.TxIdle || sv.started || sv.skipping {
		s.t.Fatalf("a connection comes back at work:\n%s", strings.Join(s.trace, "\n"))
	}
	conn.carried = d.Carried
	if !d.Clean {
		clear(sv.statements)
		sv.setting, conn.carried = "ISO", nil
	}
	for name := range sv.statements {
		if name != "" && !isShared(name) {
			s.t.Fatalf("the statement %q of a session is left:\n%s", name, strings.Join(s.trace, "\n"))
		}
	}
	p.idle[d.Slot] = append(p.idle[d.Slot], conn)
}
