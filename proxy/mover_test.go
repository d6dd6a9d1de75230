package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// TestMoversAgree: whatever the network cuts the bytes of clients and servers into, a
// session of each driver gives its client what PostgreSQL itself gives, byte for byte. A
// client that breaks off in the middle leaves nothing behind that another one could meet.
func TestMoversAgree(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	primary := pgtest.StartCluster(t, pgtest.Options{HBA: "local all all trust\nhost all all 127.0.0.1/32 trust\n"}).Primary()
	if err := primary.Exec(t.Context(), pgtest.AppDatabase, "CREATE TABLE c (t text); ALTER TABLE c OWNER TO app"); err != nil {
		t.Fatal(err)
	}
	relay := choppyRelay(t, seed, primary.Address())
	proxies := make(map[Driver]*Server)
	for _, driver := range []Driver{DriverGoroutine, DriverEpoll} {
		cfg := testConfig(t)
		cfg.Listen.Driver, cfg.Pool.Mode, cfg.Pool.Size = driver, PoolTransaction, 2
		cfg.Monitor = MonitorConfig{User: pgtest.MonitorUser, Database: "postgres"}
		proxies[driver] = serveTest(t, cfg, newFakeCluster(testState(relay.String())), Deps{
			MonitorPassword: pgtest.Password(pgtest.MonitorUser), Sampler: noSampler{},
		}, func(s *Server) { s.handle = s.serveSession })
	}
	for i := range uint64(6) {
		script := randomScript(rand.New(rand.NewPCG(seed, i)))
		want := play(t, seed, relay, script, len(script))
		for driver, s := range proxies {
			got := play(t, seed+i, s.Addr(), script, len(script))
			if !bytes.Equal(got, want) {
				at := 0
				for at < min(len(got), len(want)) && got[at] == want[at] {
					at++
				}
				t.Fatalf("%s, script %d: %d bytes, want %d, different from %d on: %.200q, want %.200q",
					driver, i, len(got), len(want), at, got[at:], want[at:])
			}
			cut := rand.New(rand.NewPCG(seed, i+100)).IntN(len(script))
			play(t, seed+i, s.Addr(), script, cut)
			awaitIdle(t, s)
		}
	}
}

// choppyRelay passes connections on, in pieces of random sizes.
func choppyRelay(t *testing.T, seed uint64, to string) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	pass := func(n uint64, to, from net.Conn) {
		r := rand.New(rand.NewPCG(seed, n))
		for buf := make([]byte, 30_000); ; {
			size := 1 + r.IntN(20)
			if r.IntN(3) > 0 {
				size = 1 + r.IntN(len(buf))
			}
			k, err := from.Read(buf[:size])
			if k > 0 {
				if _, err := to.Write(buf[:k]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		_ = to.Close()
		_ = from.Close()
	}
	relays.Go(func() {
		for n := uint64(0); ; n += 2 {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			relays.Go(func() { pass(n, near, far) })
			relays.Go(func() { pass(n+1, far, near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		relays.Wait()
	})
	return l.Addr()
}

// play sends the first bytes of a script in a session, in pieces of random sizes, and
// returns all that comes; after less than all of it the connection is closed at once.
func play(t *testing.T, seed uint64, addr net.Addr, script []byte, n int) []byte {
	t.Helper()
	conn := dialTest(t, addr)
	defer conn.Close()
	send(t, conn, startupFor("user", pgtest.AppUser, "database", pgtest.AppDatabase))
	for typ := byte(0); typ != pgwire.ReadyForQuery; {
		if typ, _ = readOne(t, conn); typ == pgwire.ErrorResponse {
			t.Fatal("refused")
		}
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		for rest := script[:n]; len(rest) > 0; {
			k := min(len(rest), 1+r.IntN(1+r.IntN(100_000)))
			if _, err := conn.Write(rest[:k]); err != nil {
				return // the reader says why
			}
			rest = rest[k:]
		}
		if n < len(script) {
			_ = conn.Close()
		}
	})
	got, err := io.ReadAll(conn)
	sending.Wait()
	if n == len(script) && err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	return got
}

// randomScript is what a client sends without waiting for any answer, with Terminate.
func randomScript(r *rand.Rand) (b []byte) {
	text := func() string { return strings.Repeat("abcdefgh", r.IntN(1+r.IntN(40_000))) }
	for i := range 40 {
		switch r.IntN(7) {
		case 0:
			b = pgwire.AppendQuery(b, fmt.Sprintf("SELECT repeat('%d', %d) FROM generate_series(1, %d)", i, r.IntN(100_000), r.IntN(100)))
		case 1:
			b = pgwire.AppendQuery(b, "SELECT 1/0")
		case 2:
			b = pgwire.AppendParse(b, "", "SELECT $1::text, now() IS NULL", nil)
			b = appendBind(b, "", text())
			b = appendExecute(b)
		case 3:
			name := fmt.Sprintf("s%d", i)
			b = pgwire.AppendParse(b, name, "SELECT length($1::text)", nil)
			b = pgwire.AppendEmpty(b, pgwire.Flush)
			for range 1 + r.IntN(20) {
				b = appendExecute(appendBind(b, name, text()))
			}
		case 4:
			b = pgwire.AppendQuery(b, fmt.Sprintf("COPY (SELECT generate_series(1, %d)) TO STDOUT", r.IntN(100_000)))
		case 5:
			b = pgwire.AppendQuery(b, "COPY c FROM STDIN")
			for range r.IntN(20) {
				b = pgwire.AppendMessage(b, pgwire.CopyData, []byte(text()+"\n"))
			}
			b = pgwire.AppendEmpty(b, pgwire.CopyDone)
		case 6:
			b = pgwire.AppendQuery(b, "BEGIN")
			for range r.IntN(50) {
				b = pgwire.AppendQuery(b, "SELECT 'x'")
			}
			b = pgwire.AppendQuery(b, "ROLLBACK")
		}
	}
	return pgwire.AppendEmpty(b, pgwire.Terminate)
}

// appendBind binds the unnamed portal to a statement with one argument.
func appendBind(b []byte, name, arg string) []byte {
	body := append([]byte{0}, name...)
	body = append(body, 0, 0, 0, 0, 1)
	body = binary.BigEndian.AppendUint32(body, uint32(len(arg)))
	return pgwire.AppendMessage(b, pgwire.Bind, append(append(body, arg...), 0, 0))
}

// appendExecute executes the unnamed portal, and ends the batch.
func appendExecute(b []byte) []byte {
	return pgwire.AppendEmpty(pgwire.AppendMessage(b, pgwire.Execute, make([]byte, 5)), pgwire.Sync)
}
