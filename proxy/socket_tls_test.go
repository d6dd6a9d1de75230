package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/proxy/loop"
)

// runLoop runs an event loop until the end of the test.
func runLoop(t *testing.T) *loop.Loop {
	t.Helper()
	l, err := loop.New(nil, monotonic)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		run.Wait()
	})
	return l
}

// secureSocket returns a socket with TLS in a loop that runs, and the peer's side.
func secureSocket(t *testing.T) (*socket, *tls.Conn) {
	t.Helper()
	l := runLoop(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client := dialTest(t, listener.Addr())
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	server := tls.Server(&carrier{Conn: conn}, &tls.Config{Certificates: []tls.Certificate{a.pair("127.0.0.1")}})
	var shaken sync.WaitGroup
	shaken.Go(func() {
		if err := server.Handshake(); err != nil {
			t.Error(err)
		}
	})
	peer := tlsOver(t, client, a)
	shaken.Wait()
	k, err := newSocket(l, server, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k, peer
}

// A peer that does not read makes put take less than it is given, and gets all in the end.
func TestSecureSocketWaitsForItsPeer(t *testing.T) {
	k, peer := secureSocket(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20) // more than the kernel's buffers
	sent := 0
	put := func() bool {
		n, err := k.put([][]byte{content[sent:min(sent+100, len(content))], content[min(sent+100, len(content)):]})
		if err != nil {
			t.Fatal(err)
		}
		sent += n
		return sent == len(content) && !k.laden()
	}
	if put() {
		t.Fatal("the kernel has taken everything; the test needs more")
	}
	if again := sent; put() || sent != again || len(k.under.rest) > 2*maxGathered {
		t.Errorf("with a full socket %d bytes more are taken, and %d wait", sent-again, len(k.under.rest))
	}
	sum := make(chan [32]byte)
	go func() {
		h := sha256.New()
		_, _ = io.CopyN(h, peer, int64(len(content)))
		sum <- [32]byte(h.Sum(nil))
	}()
	for !put() {
	}
	if got := <-sum; got != sha256.Sum256(content) {
		t.Error("the peer has read something else")
	}
}

// What comes is given out whatever the sizes of records, reads and buffers are, and the
// end after it.
func TestSecureSocketGivesOutAll(t *testing.T) {
	k, peer := secureSocket(t)
	if !k.Quiet() {
		t.Error("something has come before anything was sent") // but for TLS's own
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		for rest := content; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%40000)
			_, _ = peer.Write(rest[:n])
			rest = rest[n:]
		}
		_ = peer.Close()
	}()
	var got []byte
	for buf := make([]byte, 5000); ; {
		n, err := k.Read(buf)
		got = append(got, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, content) {
		t.Errorf("%d bytes, want %d", len(got), len(content))
	}
	if k.Quiet() {
		t.Error("quiet after the end")
	}
}

// Sessions with TLS on both sides, by each driver.
func TestSessionsWithTLS(t *testing.T) {
	a := newAuthority(t)
	pg := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	enableTLS(t, pg, a, "127.0.0.1")
	for _, driver := range []Driver{DriverEpoll, DriverGoroutine} {
		for _, mode := range []PoolMode{PoolSession, PoolTransaction} {
			t.Run(fmt.Sprintf("%s, %s", driver, mode), func(t *testing.T) {
				if err := pg.Exec(t.Context(), "postgres", "DROP SCHEMA IF EXISTS pgproxy CASCADE"); err != nil {
					t.Fatal(err)
				}
				s := servePostgres(t, pg, func(cfg *Config) {
					withTLS(cfg, a, TLSRequire)
					cfg.BackendTLS = BackendTLSConfig{Mode: SSLVerifyFull, CAFile: a.file}
					cfg.Listen.Driver, cfg.Pool.Mode = driver, mode
				})
				var clients sync.WaitGroup
				for range 4 {
					clients.Go(func() { useSession(t, s, driver == DriverEpoll) })
				}
				clients.Wait()
			})
		}
	}
}

// useSession moves large texts and COPY through a session.
func useSession(t *testing.T, s *Server, loops bool) {
	conn, err := pgx.Connect(t.Context(), strings.Replace(appDSN(s, ""), "sslmode=disable", "sslmode=require", 1))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for range 20 {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT $1::int + 1", 41).Scan(&n); err != nil || n != 42 {
			t.Errorf("%d, %v", n, err)
			return
		}
	}
	for _, cs := range s.sessions.all() {
		if (cs.client.loop != nil) != loops {
			t.Errorf("an event loop serves the session: %v, want %v", !loops, loops)
		}
	}
	var text string
	err = conn.QueryRow(t.Context(), "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200000) AS i").Scan(&text)
	if err != nil || len(text) != 32*200000 || text[:32] != "c4ca4238a0b923820dcc509a6f75849b" {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	var back int
	if err := conn.QueryRow(t.Context(), "SELECT length($1::text)", text).Scan(&back); err != nil || back != len(text) {
		t.Errorf("%d, %v", back, err)
	}
	var out bytes.Buffer
	if _, err := conn.PgConn().CopyTo(t.Context(), &out, "COPY (SELECT i FROM generate_series(1, 500000) AS i) TO STDOUT"); err != nil || out.Len() != 3388895 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}
