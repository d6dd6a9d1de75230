package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// cancelServer reports the CancelRequests that it gets.
func cancelServer(t *testing.T) (*fakeServer, chan []byte) {
	got := make(chan []byte, 1)
	return newFakeServer(t, func(conn net.Conn) { got <- readStartup(conn) }), got
}

func loanOn(address string, pid uint32) *serverConn {
	return &serverConn{link: &link{address: address, pid: pid, secret: []byte("real")}}
}

func TestCancelGoesToTheRightServer(t *testing.T) {
	first, gotFirst := cancelServer(t)
	second, gotSecond := cancelServer(t)
	s := serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, nil)
	s.dialer.rules.Store(&dialRules{tls: &backTLS{mode: SSLDisable}})
	// Two sessions on two servers that happen to have equal process ids.
	key1, end1 := registered(s.cancels, 42, false, loanTarget{loanOn(first.address, 42)})
	key2, end2 := registered(s.cancels, 42, true, loanTarget{loanOn(second.address, 7)})
	defer end1()
	if len(key1) != 4 || len(key2) != 32 {
		t.Fatalf("keys of %d and %d bytes", len(key1), len(key2))
	}
	cancel := func(pid uint32, secret []byte) {
		conn := dialTest(t, s.Addr())
		send(t, conn, pgwire.AppendCancelRequest(nil, pid, secret))
		wantClosed(t, conn)
	}
	want := func(got chan []byte, pid uint32) {
		t.Helper()
		p, secret, ok := pgwire.ReadCancelRequest(<-got)
		if p != pid || string(secret) != "real" || !ok {
			t.Errorf("server got %d %q", p, secret)
		}
	}
	cancel(42, key1)
	want(gotFirst, 42)
	cancel(42, key2)
	want(gotSecond, 7)

	end2()
	cancel(42, key2)
	cancel(43, key1)
	cancel(42, append([]byte{key1[0] + 1}, key1[1:]...))
	cancel(42, append(key1, 0))
	if n := first.dials.Load() + second.dials.Load(); n != 2 {
		t.Errorf("%d requests were forwarded, want 2", n)
	}
}

// TestCancelByEveryWay sends CancelRequests over every kind of connection; a listener
// that demands TLS takes them without it, as PostgreSQL does: libpq may send them so.
func TestCancelByEveryWay(t *testing.T) {
	a := newAuthority(t)
	backend, got := cancelServer(t)
	cfg := testConfig(t)
	withTLS(&cfg, a, TLSRequire)
	cfg.Listen.UnixSocketDir = t.TempDir()
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
	s.dialer.rules.Store(&dialRules{tls: &backTLS{mode: SSLDisable}})
	tcp := func() net.Conn { return dialTest(t, s.Addr()) }
	for name, dial := range map[string]func() net.Conn{
		"TCP":        tcp,
		"Unix":       func() net.Conn { return dialTest(t, unixAddr(cfg, s)) },
		"direct TLS": func() net.Conn { return tlsOver(t, tcp(), a, alpn) },
		"TLS": func() net.Conn {
			conn := tcp()
			send(t, conn, sslRequest)
			wantByte(t, conn, 'S')
			return tlsOver(t, conn, a)
		},
		"TLS after GSS was refused": func() net.Conn {
			conn := tcp()
			send(t, conn, gssRequest)
			wantByte(t, conn, 'N')
			send(t, conn, sslRequest)
			wantByte(t, conn, 'S')
			return tlsOver(t, conn, a)
		},
	} {
		for _, long := range []bool{false, true} {
			key, end := registered(s.cancels, 42, long, loanTarget{loanOn(backend.address, 7)})
			conn := dial()
			send(t, conn, pgwire.AppendCancelRequest(nil, 42, key))
			wantClosed(t, conn)
			select {
			case request := <-got:
				if pid, secret, _ := pgwire.ReadCancelRequest(request); pid != 7 || string(secret) != "real" {
					t.Errorf("%s: the server got %d %q", name, pid, secret)
				}
			default:
				t.Errorf("%s, key of %d bytes: closed before the server has the request", name, len(key))
			}
			end()
		}
	}
}

// TestCancelAfterAFailover: a session that goes on on another primary is cancelled by
// the key that it was given at its start.
func TestCancelAfterAFailover(t *testing.T) {
	l := newLeased(t, 1, nil)
	conn := l.client()
	l.begin(7, cluster.Failover, cluster.PhaseBarrier)
	l.awaitNudge("barred", func() bool { return l.Barred() == 7 })
	if err := l.pg.Promote(t.Context(), "h2"); err != nil {
		t.Fatal(err)
	}
	l.adopt("h2", 2)
	done := l.run(conn, "INSERT INTO t SELECT 1 FROM pg_sleep(3600)")
	l.await("h2", ofClients("wait_event = 'PgSleep'"), "1")
	l.cancelRequest(conn)
	if err := l.end(done); !isCanceled(err) {
		t.Errorf("%v, want 57014", err)
	}
	if got := value(t, conn, "1"); got != "1" {
		t.Errorf("the session does not go on: %s", got)
	}
}

// testCancels makes a registry that asks elsewhere about keys that it does not know.
func testCancels(t *testing.T, elsewhere func(ctx context.Context, pid uint32, secret []byte) bool) *cancelRegistry {
	t.Helper()
	r, err := newCancelRegistry(newDialer(&dialRules{tls: &backTLS{mode: SSLDisable}}), nil, Deps{
		CancelElsewhere: elsewhere, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantOutcomes compares pgproxy_cancels_total.
func wantOutcomes(t *testing.T, r *cancelRegistry, want map[string]int) {
	t.Helper()
	for outcome, n := range want {
		var m dto.Metric
		if err := r.outcomes.WithLabelValues(outcome).Write(&m); err != nil {
			t.Fatal(err)
		}
		if got := m.GetCounter().GetValue(); got != float64(n) {
			t.Errorf("%g cancel requests %s, want %d", got, outcome, n)
		}
	}
}

// noTarget is a session with which no server is busy.
type noTarget struct{}

func (noTarget) beginCancel() (loan *serverConn, mayCommit bool) { return nil, false }
func (noTarget) cancelWaiting(context.Context) bool              { return false }

func TestCancelWithoutServer(t *testing.T) {
	r := testCancels(t, nil)
	key, end := registered(r, 1, false, noTarget{})
	if err := r.cancel(t.Context(), &client{local: true}, 1, key); err != nil {
		t.Error(err)
	}
	ended := loanOn("127.0.0.1:1", 1)
	ended.end()
	key2, end2 := registered(r, 1, false, loanTarget{ended})
	if err := r.cancel(t.Context(), &client{local: true}, 1, key2); err != nil {
		t.Error(err)
	}
	end()
	if len(key2) == 0 || r.find(1, key2) == nil || r.find(1, key) != nil {
		t.Error("the end of one session is not that of the one with the same process id")
	}
	end2()
	if len(r.mu.byPID) != 0 {
		t.Errorf("%d process ids left", len(r.mu.byPID))
	}
}

func clientAt(addr string) *client { return &client{remote: netip.MustParseAddrPort(addr)} }

func TestCancelOfAnotherMember(t *testing.T) {
	real := bytes.Repeat([]byte{1}, secretLen32)
	asked := 0
	r := testCancels(t, func(_ context.Context, pid uint32, secret []byte) bool {
		asked++
		return pid == 7 && bytes.Equal(secret, real)
	})
	key, end := registered(r, 7, true, noTarget{})
	defer end()
	from := clientAt("192.0.2.1:1000")
	for _, c := range []struct {
		pid    uint32
		secret []byte
	}{
		{7, key},
		{7, real},
		{8, real},
		{7, make([]byte, secretLen30)},
		{7, nil},
		{7, make([]byte, 5)},
		{7, make([]byte, 9000)}, // nobody's
	} {
		if err := r.cancel(t.Context(), from, c.pid, c.secret); err != nil {
			t.Error(err)
		}
	}
	if asked != 3 {
		t.Errorf("the others were asked %d times, want 3", asked)
	}
	wantOutcomes(t, r, map[string]int{cancelIdle: 1, cancelElsewhere: 1, cancelUnknown: 5, cancelRefused: 0})
}

func TestCancelWithGuessedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		real := bytes.Repeat([]byte{1}, secretLen30)
		guessed := 0
		r := testCancels(t, func(_ context.Context, _ uint32, secret []byte) bool {
			if bytes.Equal(secret, real) {
				return true
			}
			guessed++
			return false
		})
		key, end := registered(r, 7, false, noTarget{})
		defer end()
		send := func(from string, secret []byte) {
			t.Helper()
			if err := r.cancel(t.Context(), clientAt(from), 7, secret); err != nil {
				t.Error(err)
			}
		}
		flood := func(n int) {
			for i := range n {
				send("[2001:db8::1]:1000", binary.BigEndian.AppendUint32(nil, uint32(i)))
			}
		}
		flood(1000)
		if guessed != guessBurst {
			t.Errorf("%d guesses at once are looked for, want %d", guessed, guessBurst)
		}
		wantOutcomes(t, r, map[string]int{cancelUnknown: guessBurst, cancelRefused: 1000 - guessBurst})
		advance(3 * time.Second)
		flood(1000)
		if want := guessBurst + 3*guessRate; guessed != want {
			t.Errorf("%d guesses in three seconds are looked for, want %d", guessed, want)
		}
		// Keys of this member are never refused, and real ones of others cost nothing.
		send("[2001:db8::2]:1", key) // the same /64
		for range 10 * guessBurst {
			send("192.0.2.1:1", real)
		}
		wantOutcomes(t, r, map[string]int{cancelIdle: 1, cancelElsewhere: 10 * guessBurst})
	})
}

func TestGuessesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		from := func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i))))
		}
		allowed := 0
		for i := range 10 * maxGuessers {
			if g.take(from(i)) {
				allowed++
			}
		}
		if allowed != maxGuessers+guessBurst || len(g.mu.byNetwork) != maxGuessers {
			t.Errorf("%d allowed, %d remembered, want %d and %d", allowed, len(g.mu.byNetwork), maxGuessers+guessBurst, maxGuessers)
		}
		advance(sweepGuessers)
		if !g.take(from(-1)) || len(g.mu.byNetwork) != 1 {
			t.Errorf("%d are remembered that have nothing to be remembered", len(g.mu.byNetwork)-1)
		}
		if g.take(from(-1)); len(g.mu.byNetwork) != 1 {
			t.Errorf("%d are remembered", len(g.mu.byNetwork))
		}
	})
}

// registered gives a session a key until end is called.
func registered(r *cancelRegistry, pid uint32, long bool, target canceler) (key []byte, end func()) {
	e := r.register(pid, long, target)
	return e.secret(), func() { r.unregister(e) }
}
