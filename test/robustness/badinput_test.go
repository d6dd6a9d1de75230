package robustness

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestBadInput sends what is no protocol, at every stage.
func TestBadInput(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	r.run(t, "before the startup message", func(t *testing.T) { r.bounded(t, func() { testBadStartup(t, r) }) })
	r.run(t, "before authentication", func(t *testing.T) { r.bounded(t, func() { testBadPassword(t, r) }) })
	r.run(t, "in a session", func(t *testing.T) { r.bounded(t, func() { testBadSession(t, r) }) })
	r.run(t, "in COPY", func(t *testing.T) { testBadCopy(t, r) })
	r.run(t, "who may not", func(t *testing.T) { testRefused(t, r) })
	r.run(t, "half-open flood", func(t *testing.T) { r.bounded(t, func() { testFlood(t, r) }) })
}

// startupParameters are those of the ordinary user.
var startupParameters = []pgwire.Parameter{{Name: "user", Value: pgtest.AppUser}, {Name: "database", Value: pgtest.AppDatabase}}

// lengths are sizes that no message may have.
var lengths = []uint32{0, 1, 3, 1 << 31, 1<<32 - 1, 1<<31 - 1}

// testBadStartup: PostgreSQL closes without a word, but where it knows the protocol
// well enough to say something.
func testBadStartup(t *testing.T, r *rig) {
	random := rand.New(rand.NewPCG(1, 2)) // the same bytes in each run
	var cases [][]byte
	for _, n := range append(lengths, 4, 7, 10_005, 1<<30) {
		b := binary.BigEndian.AppendUint32(nil, n)
		cases = append(cases, append(b, make([]byte, 100)...))
	}
	for range 20 {
		b := make([]byte, 1+random.IntN(20_000))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		cases = append(cases, b)
	}
	good := pgwire.AppendStartup(nil, 196608, startupParameters)
	cases = append(cases,
		[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		good[:len(good)-1],                            // incomplete
		append(bytes.Clone(good[:8]), "user"...),      // no end of a string
		bytes.Repeat(pgwire.AppendSSLRequest(nil), 3), // again and again
	)
	for i, b := range cases {
		w := r.dialRaw(t)
		// The end of the connection may come before all is written.
		_, _ = w.Write(b)
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		if last := w.endsRaw(); len(last) > 1 && last[0] != pgwire.ErrorResponse && last[0] != 'N' {
			t.Errorf("case %d was answered by %q", i, last)
		}
	}
	// A version that does not exist: PostgreSQL says so.
	w := r.dialRaw(t)
	w.send(pgwire.AppendStartup(nil, 7<<16, startupParameters))
	w.fails("0A000")
	w.ends()
	w = r.dialRaw(t)
	w.send(pgwire.AppendStartup(nil, 196608, nil))
	w.fails("28000")
	w.ends()
}

// testBadPassword: where the server waits for the password, only that may come.
// pgproxy answers as PostgreSQL does, or closes without a word.
func testBadPassword(t *testing.T, r *rig) {
	sasl := pgwire.AppendSASLInitialResponse(nil, "SCRAM-SHA-256", []byte("n,,n=,r=nonce"))
	cases := [][]byte{
		pgwire.AppendQuery(nil, "SELECT 1"),
		bytes.Repeat([]byte{0xff}, 100),
		nil,
		sasl[:len(sasl)-3],
		append(sasl, sasl...),
		pgwire.AppendSASLInitialResponse(nil, "NTLM", []byte("x")),
		pgwire.AppendMessage(nil, pgwire.Password, nil),
		pgwire.AppendSASLInitialResponse(nil, "SCRAM-SHA-256", []byte("nonsense")),
		binary.BigEndian.AppendUint32([]byte{pgwire.Password}, 1<<30),
	}
	for _, n := range lengths {
		cases = append(cases, binary.BigEndian.AppendUint32([]byte{pgwire.Password}, n))
	}
	for _, b := range cases {
		r.alike(t, b, true, func(address string) *wire {
			w := dialRaw(t, address)
			w.send(pgwire.AppendStartup(nil, 196608, startupParameters))
			w.expect(pgwire.Authentication)
			return w
		})
	}
}

// alike sends b to PostgreSQL and to pgproxy, where open begins, and compares how the
// connection ends; silence: pgproxy may say less.
func (r *rig) alike(t *testing.T, b []byte, silence bool, open func(address string) *wire) {
	t.Helper()
	var end [2]string
	for i, address := range []string{r.cluster.Primary().Address(), r.proxy.Address()} {
		w := open(address)
		_, _ = w.Write(b) // the end may come before all is written
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		if last := w.ends(); last.typ != 0 {
			end[i] = last.code() + " " + last.text()
		}
	}
	if end[0] != end[1] && (end[1] != "" || !silence) {
		t.Errorf("%.50q: the connection ends with %q, PostgreSQL's with %q", b, end[1], end[0])
	}
}

// testBadSession: what is no message ends this session only, as PostgreSQL does it.
func testBadSession(t *testing.T, r *rig) {
	open := func(address string) *wire {
		host, port, _ := strings.Cut(address, ":")
		return openWire(t, fmt.Sprintf("host=%s port=%s dbname=%s user=%s password=%s sslmode=disable",
			host, port, pgtest.AppDatabase, pgtest.AppUser, pgtest.Password(pgtest.AppUser)))
	}
	for _, n := range lengths {
		for _, typ := range []byte{pgwire.Query, pgwire.Parse, pgwire.Bind, pgwire.Sync, pgwire.CopyData, 0, '?', 0xff} {
			r.alike(t, binary.BigEndian.AppendUint32([]byte{typ}, n), false, open)
		}
	}
	// More than a message of this type may have: PostgreSQL does not wait for it.
	for _, typ := range []byte{pgwire.Sync, pgwire.Describe, pgwire.Execute, pgwire.Close, pgwire.Flush, pgwire.Terminate} {
		w := r.wire(t)
		w.send(binary.BigEndian.AppendUint32([]byte{typ}, 1<<20))
		w.ends()
	}
	random := rand.New(rand.NewPCG(3, 4)) // the same bytes in each run
	for range times {
		w := r.wire(t)
		b := make([]byte, 1+random.IntN(10_000))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		if b[0] == pgwire.Query || b[0] == pgwire.Terminate {
			b[0] = 0xff
		}
		_, _ = w.Write(b)
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		w.ends()
	}
	// What is well framed but makes no sense leaves the session alive.
	w := r.wire(t)
	w.send(pgwire.AppendSync(pgwire.AppendMessage(nil, pgwire.Bind, []byte("nonsense"))))
	w.fails("08P01")
	w.expect(pgwire.ReadyForQuery)
	w.send(pgwire.AppendSync(pgwire.AppendMessage(nil, pgwire.Describe, []byte{'?', 0})))
	w.fails("08P01")
	w.expect(pgwire.ReadyForQuery)
	if got := w.value("SELECT 1"); got != "1" {
		t.Errorf("after the errors: %q", got)
	}
}

// testBadCopy: a query in the middle of COPY FROM, then what comes behind.
func testBadCopy(t *testing.T, r *rig) {
	w := r.wire(t)
	w.exec("CREATE TEMP TABLE copied (v text)")
	w.query("COPY copied FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	w.query("SELECT 1")
	w.fails("08P01")
	w.ends()
	w = r.wire(t)
	w.exec("CREATE TEMP TABLE copied (v text)")
	w.query("COPY copied FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	w.send(pgwire.AppendMessage(nil, pgwire.CopyFail, []byte("no more\x00")))
	w.fails("57014")
	w.expect(pgwire.ReadyForQuery)
	if got := w.value("SELECT count(*) FROM copied"); got != "0" {
		t.Errorf("%s rows were copied", got)
	}
}

// testRefused logs in with what is wrong.
func testRefused(t *testing.T, r *rig) {
	for _, c := range []struct{ name, dsn, code, text string }{
		{"wrong password", r.proxy.DSN("app", "app") + " password=wrong", "28P01", `password authentication failed for user "app"`},
		{"unknown user", r.proxy.DSN("app", "nobody"), "28P01", `password authentication failed for user "nobody"`},
		{"unknown database", r.proxy.DSN("nowhere", "app"), "3D000", `database "nowhere" does not exist`},
		{"bad option", r.proxy.DSN("app", "app") + " options='-c no_such_setting=1'", "42704", `unrecognized configuration parameter "no_such_setting"`},
	} {
		for range times {
			_, err := pgconn.Connect(t.Context(), c.dsn)
			if e := pgError(err); e == nil || e.Code != c.code || e.Message != c.text || e.Severity != "FATAL" {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

// testFlood opens thousands of connections that never say who they are. Sessions go
// on, and a login still succeeds.
func testFlood(t *testing.T, r *rig) {
	const flood = 5000
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Max < flood+1000 {
		t.Fatalf("at most %d open files, the test needs %d (ulimit -n)", limit.Max, flood+1000)
	}
	limit.Cur = limit.Max
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	old := r.wire(t)
	for i := range flood {
		conn, err := net.Dial("tcp", r.proxy.Address())
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		switch i % 3 {
		case 1: // half a startup message
			_, _ = conn.Write([]byte{0, 0, 0})
		case 2: // no password
			_, _ = conn.Write(pgwire.AppendStartup(nil, 196608, startupParameters))
		}
		if i%1000 == 999 {
			if got := old.value("SELECT 1"); got != "1" {
				t.Errorf("a session got %q behind %d half-open connections", got, i)
			}
		}
	}
	// The gate holds 1000 of them; a slot is free as soon as the oldest is a second
	// old, which is far below a client's patience.
	w := r.wire(t)
	if got := w.value("SELECT 1"); got != "1" {
		t.Errorf("a new session got %q", got)
	}
	entries, err := os.ReadDir(procPath(r.proxy.PID(), "fd"))
	must(t, err)
	if len(entries) > 1200 {
		t.Errorf("pgproxy has %d file descriptors open", len(entries))
	}
}
