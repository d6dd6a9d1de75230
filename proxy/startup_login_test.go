package proxy

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// pencil is the verifier of that password (RFC 7677, section 3).
const pencil = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==" +
	"$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

// scramServer makes a Server that is not run, whose roles have the password pencil and
// whose sessions are an answer of ReadyForQuery and the end.
func scramServer(t testing.TB) *Server {
	t.Helper()
	cfg := Config{Listen: DefaultListen(), Auth: DefaultAuth(), BackendTLS: DefaultBackendTLS(), Pool: DefaultPool(), Hold: DefaultHold()}
	s, err := New(cfg, Deps{
		Cluster: newFakeCluster(testState()), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Observations: func() map[string]cluster.Observation { return nil }, Poke: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := auth.ParseVerifier(pencil)
	if err != nil {
		t.Fatal(err)
	}
	store := auth.NewStore(auth.StoreConfig{TTL: time.Hour, Lookup: func(_ context.Context, user string) (auth.Role, error) {
		return auth.Role{Name: user, Exists: true, CanLogin: true, Verifier: v}, nil
	}})
	if s.auth, err = newAuthenticator(cfg.Auth, store, nil); err != nil {
		t.Fatal(err)
	}
	s.handle = func(_ context.Context, c *client) error {
		return c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
	}
	return s
}

// serveOne has the server serve a connection that was accepted.
func (s *Server) serveOne(t testing.TB, conn net.Conn) {
	t.Helper()
	n := newcomer{conn: conn}
	n.ctx, n.end = context.WithCancelCause(context.Background())
	n.place = s.gate.newPlace(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(), n.end)
	if err := s.gate.enter(n.ctx, n.place); err != nil {
		t.Fatal(err)
	}
	s.serve(context.Background(), n)
}

// logIn logs a client in by SCRAM, up to ReadyForQuery.
func logIn(t testing.TB, conn net.Conn, cred *auth.Credential, packet []byte) {
	t.Helper()
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	login := cred.Login("u", nil)
	var buf []byte
	for {
		typ, body, err := readMessage(conn, &buf, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		switch typ {
		case pgwire.Authentication:
			answer, _, err := login.Next(body)
			if err != nil {
				t.Fatal(err)
			}
			if len(answer) > 0 {
				if _, err := conn.Write(answer); err != nil {
					t.Fatal(err)
				}
			}
		case pgwire.ReadyForQuery:
			return
		default:
			t.Fatalf("message %q %q", typ, body)
		}
	}
}

// countedConn counts what its owner asks of it.
type countedConn struct {
	net.Conn
	reads, writes *atomic.Int32
}

func (c countedConn) Read(b []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(b)
}

func (c countedConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// A login takes one read for each packet of the client, and one write for each answer that
// the client waits for.
func TestLoginReadsAndWritesOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := dialTest(t, l.Addr())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := scramServer(t)
	var reads, writes atomic.Int32
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.serveOne(t, countedConn{conn, &reads, &writes})
	}()
	logIn(t, client, auth.NewPasswordCredential("pencil"), startupFor("user", "u"))
	<-served
	if r, w := reads.Load(), writes.Load(); r != 3 || w != 3 {
		t.Errorf("%d reads and %d writes, want 3 of each", r, w)
	}
}

// What a client sends before it is told that it may is for its session.
func TestClientDoesNotWaitForReadyForQuery(t *testing.T) {
	query := pgwire.AppendQuery(nil, "SELECT 1")
	got := make(chan []byte, 1)
	s := serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.handle = func(_ context.Context, c *client) error {
			var buf []byte
			typ, body, err := readMessage(c.conn, &buf, 100)
			got <- pgwire.AppendMessage(nil, typ, body)
			return err
		}
	})
	send(t, dialTest(t, s.Addr()), startupFor("user", "a"), query)
	if b := <-got; !bytes.Equal(b, query) {
		t.Errorf("the session read %q, want %q", b, query)
	}
}

// A client that knows what it will be asked may send its password at once, and what its
// session is to do.
func TestClientDoesNotWaitForTheRequestOfItsPassword(t *testing.T) {
	cfg := testConfig(t)
	cfg.Auth.HBAFile = writeFile(t, "host all all all password\n")
	v, err := auth.ParseVerifier(pencil)
	if err != nil {
		t.Fatal(err)
	}
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.knows(t, func(_ context.Context, user string) (auth.Role, error) {
			return auth.Role{Name: user, Exists: true, CanLogin: true, Verifier: v}, nil
		})
	})
	conn := dialTest(t, s.Addr())
	send(t, conn, startupFor("user", "a"), pgwire.AppendMessage(nil, pgwire.Password, []byte("pencil\x00")),
		pgwire.AppendQuery(nil, "SELECT 'longer than the password'"))
	wantMessage(t, conn, pgwire.Authentication)
	wantIn(t, conn)
}

// BenchmarkLogin is a login by SCRAM over loopback, up to ReadyForQuery; the client's half,
// without the 4096 rounds, counts too.
func BenchmarkLogin(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	s := scramServer(b)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.serveOne(b, conn)
		}
	}()
	cred, packet := auth.NewPasswordCredential("pencil"), startupFor("user", "u", "client_encoding", "UTF8")
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		logIn(b, conn, cred, packet)
		conn.Close()
	}
}
