package session

import (
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// benchEnv answers with what costs nothing: a verdict by the first letter of the text,
// and a standby that has replayed everything.
type benchEnv struct {
	fakeEnv
	verdicts [256]*lb.Verdict
}

func (e *benchEnv) Classify(sql []byte) *lb.Verdict { return e.verdicts[sql[0]] }
func (e *benchEnv) RequestSample()                  {}
func (e *benchEnv) Wrote()                          {}

// exchange is what the client sends at once, and what the server answers.
type exchange struct{ client, server []byte }

func exchangeOf(t testing.TB, client, server []string) (x exchange) {
	for _, line := range client {
		x.client = append(x.client, clientMessage(t, line)...)
	}
	for _, line := range server {
		x.server = append(x.server, serverMessage(t, line)...)
	}
	return x
}

// simpleBatch is a simple query with an answer without rows.
func simpleBatch(t testing.TB, sql, tag, tx string) exchange {
	return exchangeOf(t, []string{"Q " + sql}, []string{"C " + tag, "Z " + tx})
}

var selectRow = []string{"T column", "D value", "C SELECT 1", "Z I"}

// benchTransactions are transactions as pgbench makes them.
func benchTransactions(t testing.TB) map[string][]exchange {
	const sql = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345"
	return map[string][]exchange{
		"simple":   {exchangeOf(t, []string{"Q " + sql}, selectRow)},
		"extended": {exchangeOf(t, []string{"P - " + sql, "B - -", "D P -", "E -", "S"}, append([]string{"1", "2"}, selectRow...))},
		"prepared": {exchangeOf(t, []string{"B - s", "D P -", "E -", "S"}, append([]string{"2"}, selectRow...))},
		"tpcb": {
			simpleBatch(t, "BEGIN;", "BEGIN", "T"),
			simpleBatch(t, "UPDATE pgbench_accounts SET abalance = abalance + 4 WHERE aid = 12345;", "UPDATE 1", "T"),
			exchangeOf(t, []string{"Q " + sql}, append(slices.Clone(selectRow[:3]), "Z T")),
			simpleBatch(t, "UPDATE pgbench_tellers SET tbalance = tbalance + 4 WHERE tid = 5;", "UPDATE 1", "T"),
			simpleBatch(t, "UPDATE pgbench_branches SET bbalance = bbalance + 4 WHERE bid = 1;", "UPDATE 1", "T"),
			simpleBatch(t, "INSERT INTO pgbench_history (tid, bid, aid, delta) VALUES (5, 1, 12345, 4);", "INSERT 0 1", "T"),
			simpleBatch(t, "END;", "COMMIT", "I"),
		},
		"tpcb_extended": {
			extendedBatch(t, "BEGIN;", "BEGIN", "T"),
			extendedBatch(t, "UPDATE pgbench_accounts SET abalance = abalance + 4 WHERE aid = 12345;", "UPDATE 1", "T"),
			extendedBatch(t, "UPDATE pgbench_branches SET bbalance = bbalance + 4 WHERE bid = 1;", "UPDATE 1", "T"),
			extendedBatch(t, "END;", "COMMIT", "I"),
		},
	}
}

func extendedBatch(t testing.TB, sql, tag, tx string) exchange {
	return exchangeOf(t, []string{"P - " + sql, "B - -", "D P -", "E -", "S"}, []string{"1", "2", "n", "C " + tag, "Z " + tx})
}

// benchSession is a session with its driver, and the connection that waits in the pool.
type benchSession struct {
	core    *Core
	idle    [slots]Attachment
	pieces  [][]byte
	written int // bytes for the client
}

func newBenchEnv(t testing.TB) *benchEnv {
	p := newPlay(t)
	env := &benchEnv{fakeEnv: *p.env}
	env.samples = &cluster.Samples{Primary: "h1", Timeline: 1, Round: 1 << 62, Replayed: []cluster.Replayed{{Backend: "h2", Timeline: 1, LSN: 1}}}
	for _, sql := range []string{"BEGIN", "UPDATE t SET a = 1", "SELECT a FROM t", "INSERT INTO t VALUES (1)", "END", "COPY t FROM STDIN"} {
		env.verdicts[sql[0]] = p.env.Classify([]byte(sql))
	}
	return env
}

// newBenchSession makes one that has its connection, and a statement "s".
func newBenchSession(t testing.TB, statements *Statements, choose string) *benchSession {
	env := newBenchEnv(t)
	env.choose = choose
	return startBenchSession(t, New(env), statements)
}

func startBenchSession(t testing.TB, core *Core, statements *Statements) *benchSession {
	s := &benchSession{core: core}
	for slot, name := range map[Slot]string{Primary: "h1", Standby: "h2"} {
		s.idle[slot] = Attachment{Backend: name, ID: uint64(slot), Name: "pgbench", Fresh: true}
	}
	if statements != nil {
		core.Name("pgbench")
		core.Share(statements, 100)
	} else {
		core.Attach(Primary, s.idle[Primary])
	}
	return s
}

// all plays a transaction. The statement "s" is prepared before the first one that uses it.
func (s *benchSession) all(b testing.TB, transaction []exchange) {
	if transaction[0].client[0] == pgwire.Bind && len(s.core.names.known) == 0 {
		s.run(b, exchangeOf(b, []string{"P s SELECT abalance FROM pgbench_accounts WHERE aid = $1", "S"}, []string{"1", "Z I"}))
	}
	for i := range transaction {
		s.run(b, transaction[i])
	}
}

// run plays an exchange as a driver does.
func (s *benchSession) run(b testing.TB, x exchange) {
	c := s.core
	done := c.Client(x.client)
	if slot, _ := c.Wanted(); slot != None {
		s.idle[slot].Uses++
		c.Attach(slot, s.idle[slot])
		s.idle[slot].Fresh = false
		done += c.Client(x.client[done:])
	}
	if done != len(x.client) {
		b.Fatalf("the core has taken %d of %d bytes", done, len(x.client))
	}
	slot := Primary
	if c.ToServer(slot).Empty() {
		slot = Standby
	}
	s.pieces = c.ToServer(slot).Take(s.pieces[:0], x.client)
	if len(s.pieces) == 0 {
		b.Fatal("nothing for a server")
	}
	if n := c.Server(slot, x.server); n != len(x.server) {
		b.Fatalf("the core has taken %d of %d bytes", n, len(x.server))
	}
	for _, d := range c.Detached() {
		s.idle[d.Slot].Carried = d.Carried
	}
	s.pieces = c.ToClient().Take(s.pieces[:0], x.server)
	for _, piece := range s.pieces {
		s.written += len(piece)
	}
}

// benchModes are where connections are the session's own and where they are lent for each
// transaction, on the primary and, as far as that goes, on a standby.
var benchModes = []struct {
	name    string
	session func(testing.TB) *benchSession
}{
	{"session", func(t testing.TB) *benchSession { return newBenchSession(t, nil, "") }},
	{"transaction", func(t testing.TB) *benchSession { return newBenchSession(t, NewStatements(), "") }},
	{"standby", func(t testing.TB) *benchSession { return newBenchSession(t, NewStatements(), "h2") }},
}

// BenchmarkTransaction is what the core costs for one transaction.
func BenchmarkTransaction(b *testing.B) {
	for _, mode := range benchModes {
		transactions := benchTransactions(b)
		for _, name := range slices.Sorted(maps.Keys(transactions)) {
			b.Run(mode.name+"/"+name, func(b *testing.B) {
				s := mode.session(b)
				b.ReportAllocs()
				for b.Loop() {
					s.all(b, transactions[name])
				}
			})
		}
	}
}

// benchRow is a DataRow of 100 bytes.
var benchRow = pgwire.AppendMessage(nil, pgwire.DataRow, make([]byte, 95))

// BenchmarkRows is what the core costs for each row of a large result that comes in
// buffers of 64 KB.
func BenchmarkRows(b *testing.B) {
	s := newBenchSession(b, nil, "")
	query := exchangeOf(b, []string{"Q SELECT a FROM t"}, []string{"T column"})
	s.run(b, query)
	rows := slices.Repeat(benchRow, (64<<10)/len(benchRow))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		s.core.Server(Primary, rows)
		s.pieces = s.core.ToClient().Take(s.pieces[:0], rows)
		n += len(rows) / len(benchRow)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/row")
}

// BenchmarkCopyIn is the same for what a client copies in.
func BenchmarkCopyIn(b *testing.B) {
	s := newBenchSession(b, nil, "")
	s.run(b, exchangeOf(b, []string{"Q COPY t FROM STDIN"}, []string{"G"}))
	data := slices.Repeat(pgwire.AppendMessage(nil, pgwire.CopyData, make([]byte, 95)), (64<<10)/len(benchRow))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		s.core.Client(data)
		s.pieces = s.core.ToServer(Primary).Take(s.pieces[:0], data)
		n += len(data) / len(benchRow)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/row")
}

// idleBytes is what a session in transaction mode holds on the heap between two of these
// transactions, the name of its application included.
func idleBytes(t testing.TB, transaction []exchange) float64 {
	const sessions = 1000
	statements := NewStatements()
	cores := make([]*Core, sessions)
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	play := func(core *Core) *Core {
		s := startBenchSession(t, core, statements)
		s.all(t, transaction)
		s.all(t, transaction)
		clear(core.detach[:1]) // what is known of the connection stays with it
		return core
	}
	env := newBenchEnv(t)
	play(New(env)) // what is made once
	before := heap()
	for i := range cores {
		cores[i] = play(New(env))
	}
	after := heap()
	runtime.KeepAlive(cores)
	return (after - before) / sessions
}

// BenchmarkIdle reports that.
func BenchmarkIdle(b *testing.B) {
	transactions := benchTransactions(b)
	for _, name := range slices.Sorted(maps.Keys(transactions)) {
		b.Run(name, func(b *testing.B) {
			bytes := 0.0
			for b.Loop() {
				bytes = idleBytes(b, transactions[name])
			}
			b.ReportMetric(bytes, "B/session")
		})
	}
}

// TestIdleSessionIsSmall bounds that: there may be ten thousand of them.
func TestIdleSessionIsSmall(t *testing.T) {
	if bytes := idleBytes(t, benchTransactions(t)["simple"]); bytes > 1500 {
		t.Errorf("%v bytes", bytes)
	}
}
