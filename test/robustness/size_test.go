package robustness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

const megabyte = 1 << 20

// endless is a query whose answer nobody can read to its end; a set in the select list
// is not computed before its first row is sent.
const endless = "SELECT repeat('x', 1000), generate_series(1, 1000000000)"

// TestSizes sends and receives what is larger than pgproxy may hold.
func TestSizes(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	must(t, r.cluster.Primary().Exec(t.Context(), pgtest.AppDatabase,
		"CREATE UNLOGGED TABLE large (v text); ALTER TABLE large OWNER TO app"))
	r.run(t, "one CopyData of 300 MB", func(t *testing.T) { r.bounded(t, func() { testCopyData(t, r) }) })
	r.run(t, "a parameter of 200 MB", func(t *testing.T) { r.bounded(t, func() { testLargeBind(t, r) }) })
	r.run(t, "a statement of 50 MB", func(t *testing.T) { r.bounded(t, func() { testLargeStatement(t, r) }) })
	r.run(t, "a row of 200 MB", func(t *testing.T) { r.bounded(t, func() { testLargeRow(t, r) }) })
	r.run(t, "a long pipeline", func(t *testing.T) { r.bounded(t, func() { testPipeline(t, r) }) })
	r.run(t, "a client that does not read", func(t *testing.T) { r.bounded(t, func() { testNotReading(t, r) }) })
	r.run(t, "a client that stops in a result", func(t *testing.T) { r.bounded(t, func() { testStoppedReader(t, r) }) })
}

// testCopyData sends one huge message and then many, in two COPYs.
func testCopyData(t *testing.T, r *rig) {
	w := r.wire(t)
	const huge, many, size = 300 * megabyte, 3000, 10_000
	w.query("COPY large FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	w.sendLarge(pgwire.CopyData, nil, huge, []byte("\n"))
	w.send(pgwire.AppendEmpty(nil, pgwire.CopyDone))
	w.expect(pgwire.ReadyForQuery)
	if got := w.value("SELECT sum(length(v)) FROM large"); got != fmt.Sprint(huge) {
		t.Errorf("%s bytes have arrived, want %d", got, huge)
	}
	w.exec("TRUNCATE large")
	w.query("COPY large FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	line := pgwire.AppendMessage(nil, pgwire.CopyData, append(bytes.Repeat([]byte("y"), size), '\n'))
	for range many {
		w.send(line)
	}
	w.send(pgwire.AppendEmpty(nil, pgwire.CopyDone))
	w.expect(pgwire.ReadyForQuery)
	if got := w.value("SELECT sum(length(v)) FROM large"); got != fmt.Sprint(many*size) {
		t.Errorf("%s bytes have arrived, want %d", got, many*size)
	}
	w.exec("TRUNCATE large")
}

func testLargeBind(t *testing.T, r *rig) {
	w := r.wire(t)
	const size = 200 * megabyte
	const bytea = 17
	w.send(pgwire.AppendParse(nil, "", "SELECT length($1)", []uint32{bytea}))
	// Bind: portal and statement without names, one format (binary), one parameter.
	head := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1, 0, 1, 0, 1}, size)
	w.sendLarge(pgwire.Bind, head, size, []byte{0, 0})
	w.send(pgwire.AppendSync(pgwire.AppendMessage(nil, pgwire.Execute, make([]byte, 5))))
	row := w.expect(pgwire.DataRow)
	w.expect(pgwire.ReadyForQuery)
	if got := string(row.head[6:]); got != fmt.Sprint(size) {
		t.Errorf("%s bytes have arrived, want %d", got, size)
	}
}

// testLargeStatement sends a large text as a simple query and as Parse.
func testLargeStatement(t *testing.T, r *rig) {
	w := r.wire(t)
	const size = 50 * megabyte
	w.sendLarge(pgwire.Query, []byte("SELECT length('"), size, []byte("')\x00"))
	row := w.expect(pgwire.DataRow)
	w.expect(pgwire.ReadyForQuery)
	if got := string(row.head[6:]); got != fmt.Sprint(size) {
		t.Errorf("simple: %s bytes have arrived, want %d", got, size)
	}
	w.sendLarge(pgwire.Parse, []byte("big\x00SELECT length('"), size, []byte("')\x00\x00\x00"))
	w.send(pgwire.AppendSync(nil))
	w.expect(pgwire.ReadyForQuery)
	w.send(pgwire.AppendMessage(nil, pgwire.Bind, []byte("\x00big\x00\x00\x00\x00\x00\x00\x00")))
	w.send(pgwire.AppendSync(pgwire.AppendMessage(nil, pgwire.Execute, make([]byte, 5))))
	row = w.expect(pgwire.DataRow)
	w.expect(pgwire.ReadyForQuery)
	if got := string(row.head[6:]); got != fmt.Sprint(size) {
		t.Errorf("extended: %s bytes have arrived, want %d", got, size)
	}
}

func testLargeRow(t *testing.T, r *rig) {
	w := r.wire(t)
	const size = 200 * megabyte
	w.query(fmt.Sprintf("SELECT repeat('x', %d)", size))
	if row := w.expect(pgwire.DataRow); row.size != 2+4+size {
		t.Errorf("a row of %d bytes, want %d", row.size, 2+4+size)
	}
	w.expect(pgwire.ReadyForQuery)
}

// pipeline is about 10 MB of statements in extended query messages whose answers
// have four times as many bytes.
func pipeline() (b []byte, statements int) {
	const each, answer = 2_000, 8_000
	parameter := bytes.Repeat([]byte("p"), each)
	b = pgwire.AppendParse(b, "s", fmt.Sprintf("SELECT rpad($1, %d)", answer), nil)
	for len(b) < 10*megabyte {
		body := binary.BigEndian.AppendUint32([]byte("\x00s\x00\x00\x00\x00\x01"), each)
		body = append(append(body, parameter...), 0, 0)
		b = pgwire.AppendMessage(b, pgwire.Bind, body)
		b = pgwire.AppendMessage(b, pgwire.Execute, make([]byte, 5))
		if statements++; statements%100 == 0 {
			b = pgwire.AppendSync(b)
		}
	}
	return pgwire.AppendSync(b), statements
}

// testPipeline writes a pipeline while it reads the answers.
func testPipeline(t *testing.T, r *rig) {
	w := r.wire(t)
	b, statements := pipeline()
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(b)
		written <- err
	}()
	rows, syncs := 0, statements/100+1
	for syncs > 0 {
		m, err := w.read()
		must(t, err)
		switch m.typ {
		case pgwire.DataRow:
			rows++
		case pgwire.ReadyForQuery:
			syncs--
		case pgwire.ErrorResponse:
			t.Fatalf("%s %s", m.code(), m.text())
		}
	}
	must(t, <-written)
	if rows != statements {
		t.Errorf("%d rows for %d statements", rows, statements)
	}
	if got := w.value("SELECT 1"); got != "1" {
		t.Errorf("after the pipeline: %q", got)
	}
}

// testNotReading writes pipelines and never reads: sooner or later its writes
// block, and nobody else's. Reading then gets everything.
func testNotReading(t *testing.T, r *rig) {
	w := r.wire(t)
	b, statements := pipeline()
	const times = 4 // more than sockets hold
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < times && err == nil; i++ {
			_, err = w.Write(b)
		}
		written <- err
	}()
	// A server that nobody listens to waits for its client.
	r.stalled(t, w.pid)
	select {
	case err := <-written:
		t.Fatalf("%d MB were taken from a client that does not read (%v)", times*len(b)>>20, err)
	default:
	}
	for range 3 {
		other := r.wire(t)
		if got := other.value("SELECT count(*) FROM generate_series(1, 10000)"); got != "10000" {
			t.Errorf("another session got %q", got)
		}
		must(t, other.Close())
	}
	rows := 0
	for ready := 0; ready < times*(statements/100+1); {
		m, err := w.read()
		must(t, err)
		switch m.typ {
		case pgwire.DataRow:
			rows++
		case pgwire.ReadyForQuery:
			ready++
		case pgwire.ErrorResponse: // the statement s is there already, from the second time on
			if m.code() != "42P05" {
				t.Fatalf("%s %s", m.code(), m.text())
			}
		}
	}
	must(t, <-written)
	// The error skips the first Sync of each further time.
	if want := statements*times - 100*(times-1); rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}

	// The second one is closed without ever having read.
	w = r.wire(t)
	go func() {
		var err error
		for err == nil {
			_, err = w.Write(b)
		}
		written <- err
	}()
	r.stalled(t, w.pid)
	must(t, w.Close())
	if err := <-written; !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to the end: %v", err)
	}
}

// stalled waits until the server process waits for its client.
func (r *rig) stalled(t *testing.T, pid uint32) {
	t.Helper()
	r.onPrimary(t, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %d AND wait_event = 'ClientWrite')
		OR EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'app' AND wait_event = 'ClientWrite')`, pid)
}

// testStoppedReader reads a little of an endless result, stops, and vanishes: by
// closing and by a reset. The server's work must end with it.
func testStoppedReader(t *testing.T, r *rig) {
	for _, route := range []struct {
		hint   string
		server *pgtest.Server
		open   func(*testing.T) *wire
	}{{"primary", r.cluster.Primary(), r.wire}, {"standby", r.cluster.Standbys()[0], r.standbyWire}} {
		for _, end := range []func(*wire){func(w *wire) { must(t, w.Close()) }, (*wire).reset} {
			w := route.open(t)
			w.query("/* pgproxy: " + route.hint + " */ " + endless)
			for range 1000 {
				w.expect(pgwire.DataRow)
			}
			r.on(t, route.server, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%%1000000000%%' AND wait_event = 'ClientWrite'")
			end(w)
			r.on(t, route.server, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%%1000000000%%' AND state = 'active' AND pid <> pg_backend_pid())")
		}
	}
}
