package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// fakeServer listens and gives each connection to serve, which the test scripts.
type fakeServer struct {
	address string
	dials   atomic.Int32
}

func newFakeServer(t *testing.T, serve func(conn net.Conn)) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{address: l.Addr().String()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.dials.Add(1)
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return f
}

// readStartup reads a packet without a type.
func readStartup(conn net.Conn) []byte {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil
	}
	body := make([]byte, int(head[3])|int(head[2])<<8-4)
	_, _ = io.ReadFull(conn, body)
	return body
}

// greet plays a server that trusts everybody.
func greet(conn net.Conn) {
	readStartup(conn)
	_, _ = conn.Write(greeting())
	answerStart(conn)
}

// answerStart answers the question for the start of the server.
func answerStart(conn net.Conn) {
	var buf []byte
	if _, _, err := readMessage(conn, &buf, 1<<16); err != nil {
		return
	}
	row := append([]byte{0, 1, 0, 0, 0, 4}, "1234"...)
	b := pgwire.AppendMessage(nil, pgwire.DataRow, row)
	_, _ = conn.Write(pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(b, "SELECT 1"), pgwire.TxIdle))
}

func greeting() []byte {
	b := pgwire.AppendAuthentication(nil, pgwire.AuthOK, nil)
	b = pgwire.AppendParameterStatus(b, "TimeZone", "UTC")
	b = pgwire.AppendNotice(b, pgwire.SeverityWarning, "01000", "collation", "", "")
	b = pgwire.AppendBackendKeyData(b, 42, []byte("abcd"))
	return pgwire.AppendReadyForQuery(b, pgwire.TxIdle)
}

func testClient(user string) *client {
	return &client{user: user, database: user, cred: auth.NewPasswordCredential("secret")}
}

func testDialer(t *testing.T, cfg BackendTLSConfig) *dialer {
	t.Helper()
	b, err := newBackTLS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return newDialer(&dialRules{tls: b})
}

func TestLogin(t *testing.T) {
	f := newFakeServer(t, greet)
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	l, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.pid != 42 || string(l.secret) != "abcd" || len(l.params) != 1 || l.params[0].Value != "UTC" ||
		l.server != 1234 || !bytes.Contains(l.notices, []byte("collation")) || l.backend != "h1" || l.protocol != pgwire.Version32 {
		t.Errorf("link = %+v", l)
	}
}

func TestLoginSendsTheClientsParametersInOrder(t *testing.T) {
	got := make(chan []byte, 1)
	f := newFakeServer(t, func(conn net.Conn) {
		got <- readStartup(conn)
		_, _ = conn.Write(greeting())
		answerStart(conn)
	})
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	c := testClient("a")
	c.database = "db"
	c.params = []pgwire.Parameter{{Name: "DateStyle", Value: "SQL"}, {Name: "options", Value: "-c x=y"}, {Name: "DateStyle", Value: "ISO"}}
	if _, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, c); err != nil {
		t.Fatal(err)
	}
	want := startupVersion(pgwire.Version32, "user", "a", "database", "db",
		"DateStyle", "SQL", "options", "-c x=y", "DateStyle", "ISO")[4:]
	if body := <-got; !bytes.Equal(body, want) {
		t.Errorf("startup %q, want %q", body, want)
	}
}

func TestLoginRefused(t *testing.T) {
	raw := pgwire.AppendError(nil, pgwire.SeverityFatal, "3D000", `database "a" does not exist`, "", "")
	f := newFakeServer(t, func(conn net.Conn) {
		readStartup(conn)
		_, _ = conn.Write(append(pgwire.AppendAuthentication(nil, pgwire.AuthOK, nil), raw...))
	})
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	_, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
	refused, ok := errors.AsType[*ServerError](err)
	if !ok || refused.Code != "3D000" || refused.Backend != "h1" || !bytes.Equal(refused.Raw, raw) {
		t.Errorf("error %v", err)
	}
}

func TestLoginRejectsBadServers(t *testing.T) {
	ready := pgwire.AppendReadyForQuery(nil, pgwire.TxIdle)
	ok := pgwire.AppendAuthentication(nil, pgwire.AuthOK, nil)
	for name, tc := range map[string]struct {
		answer []byte
		text   string
	}{
		"ready at once":     {ready, "ready before"},
		"no key":            {append(ok[:len(ok):len(ok)], ready...), "ready before"},
		"row":               {append(ok[:len(ok):len(ok)], pgwire.AppendEmpty(nil, pgwire.DataRow)...), "unexpected message"},
		"key before auth":   {pgwire.AppendBackendKeyData(nil, 1, []byte("abcd")), "before authentication"},
		"short key":         {append(ok[:len(ok):len(ok)], pgwire.AppendMessage(nil, 'K', []byte("abcd"))...), "BackendKeyData"},
		"bad parameter":     {append(ok[:len(ok):len(ok)], pgwire.AppendMessage(nil, 'S', []byte("a"))...), "ParameterStatus"},
		"newer version":     {pgwire.AppendNegotiateProtocolVersion(nil, 4<<16, nil), "NegotiateProtocolVersion"},
		"unknown options":   {pgwire.AppendNegotiateProtocolVersion(nil, pgwire.Version30, []string{"_pq_.a"}), "NegotiateProtocolVersion"},
		"negative length":   {[]byte{'R', 0xff, 0xff, 0xff, 0xff}, "invalid length"},
		"endless":           {[]byte{'R', 0x3f, 0xff, 0xff, 0xff}, "more than"},
		"end in a message":  {[]byte{'R', 0, 0, 0, 8, 0}, "unexpected EOF"},
		"end":               {nil, "EOF"},
		"unanswerable auth": {pgwire.AppendAuthentication(nil, 7, nil), "log in on backend"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t, func(conn net.Conn) {
				readStartup(conn)
				_, _ = conn.Write(tc.answer)
			})
			d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
			_, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
			contains(t, err, tc.text)
		})
	}
}

func TestLoginNegotiatesDown(t *testing.T) {
	f := newFakeServer(t, func(conn net.Conn) {
		readStartup(conn)
		_, _ = conn.Write(append(pgwire.AppendNegotiateProtocolVersion(nil, pgwire.Version30, nil), greeting()...))
		answerStart(conn)
	})
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	l, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
	if err != nil {
		t.Fatal(err)
	}
	if l.protocol != pgwire.Version30 {
		t.Errorf("protocol %x", l.protocol)
	}
}

func TestLoginEndsWithItsContext(t *testing.T) {
	reached := make(chan struct{})
	f := newFakeServer(t, func(conn net.Conn) {
		readStartup(conn)
		close(reached)
		_, _ = io.Copy(io.Discard, conn) // says nothing
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	_, err := d.login(ctx, cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// tlsServer answers SSLRequest with S and shows that certificate.
func tlsServer(t *testing.T, cert tls.Certificate) *fakeServer {
	return newFakeServer(t, func(conn net.Conn) {
		readStartup(conn)
		_, _ = conn.Write([]byte{'S'})
		tc := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
		if tc.Handshake() == nil {
			greet(tc)
		}
	})
}

func TestBackendTLSModes(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	good, otherName, unknown := a.pair("127.0.0.1"), a.pair("example.org"), stranger.pair("127.0.0.1")
	for _, tc := range []struct {
		name string
		mode SSLMode
		ca   string
		cert tls.Certificate
		text string // of the error; "" none
	}{
		{"prefer takes any", SSLPrefer, a.file, unknown, ""},
		{"require takes any without CA", SSLRequire, "", unknown, ""},
		{"require checks with CA", SSLRequire, a.file, unknown, "unknown authority"},
		{"verify-ca good", SSLVerifyCA, a.file, good, ""},
		{"verify-ca other name", SSLVerifyCA, a.file, otherName, ""},
		{"verify-ca unknown", SSLVerifyCA, a.file, unknown, "unknown authority"},
		{"verify-full good", SSLVerifyFull, a.file, good, ""},
		{"verify-full other name", SSLVerifyFull, a.file, otherName, "certificate"},
		{"verify-full unknown", SSLVerifyFull, a.file, unknown, "unknown authority"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tlsServer(t, tc.cert)
			d := testDialer(t, BackendTLSConfig{Mode: tc.mode, CAFile: tc.ca})
			l, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
			if tc.text != "" {
				contains(t, err, tc.text)
			} else if err != nil {
				t.Fatal(err)
			} else if _, ok := l.Conn.(*tls.Conn); !ok {
				t.Errorf("connection is a %T", l.Conn)
			}
			if n := f.dials.Load(); n != 1 {
				t.Errorf("%d connections, want one: no second try without TLS", n)
			}
		})
	}
}

func TestBackendRefusesTLS(t *testing.T) {
	a := newAuthority(t)
	for _, mode := range []SSLMode{SSLPrefer, SSLRequire, SSLVerifyCA, SSLVerifyFull} {
		var plain atomic.Bool
		f := newFakeServer(t, func(conn net.Conn) {
			readStartup(conn)
			_, _ = conn.Write([]byte{'N'})
			if len(readStartup(conn)) > 0 {
				plain.Store(true)
				_, _ = conn.Write(greeting())
				answerStart(conn)
			}
		})
		d := testDialer(t, BackendTLSConfig{Mode: mode, CAFile: a.file})
		_, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
		if mode == SSLPrefer {
			if err != nil {
				t.Errorf("%s: %v", mode, err)
			}
			continue
		}
		contains(t, err, "the server does not support it")
		if plain.Load() || f.dials.Load() != 1 {
			t.Errorf("%s: went on without TLS", mode)
		}
	}
}

// CVE-2021-23222: what follows the 'S' before the handshake is not encrypted.
func TestBytesAfterTheServersAnswer(t *testing.T) {
	for answer, text := range map[string]string{
		"S" + string(greeting()): "unencrypted data",
		"N" + string(greeting()): "does not let anybody log in",
		"E":                      "unexpected answer",
	} {
		f := newFakeServer(t, func(conn net.Conn) {
			readStartup(conn)
			_, _ = conn.Write([]byte(answer))
			_, _ = io.Copy(io.Discard, conn)
		})
		for _, mode := range []SSLMode{SSLPrefer, SSLRequire} {
			d := testDialer(t, BackendTLSConfig{Mode: mode})
			_, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
			contains(t, err, text)
		}
	}
}

func TestBackendTLSConfigFaults(t *testing.T) {
	for _, cfg := range []BackendTLSConfig{
		{Mode: "sometimes"},
		{Mode: SSLVerifyFull},
		{Mode: SSLVerifyCA, CAFile: filepath.Join(t.TempDir(), "missing")},
		{Mode: SSLRequire, CAFile: writeFile(t, "no certificate")},
		{Mode: SSLRequire, CertFile: writeFile(t, "no certificate")},
	} {
		if _, err := newBackTLS(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestSplitAddress(t *testing.T) {
	for _, tc := range []struct{ address, network, target, host, port string }{
		{"10.0.0.1:5432", "tcp", "10.0.0.1:5432", "10.0.0.1", "5432"},
		{"[::1]:5432", "tcp", "[::1]:5432", "::1", "5432"},
		{"/run/pg:5433", "unix", "/run/pg/.s.PGSQL.5433", "/run/pg", "5433"},
	} {
		network, target, host, port, err := splitAddress(tc.address)
		if err != nil || network != tc.network || target != tc.target || host != tc.host || port != tc.port {
			t.Errorf("splitAddress(%q) = %q, %q, %q, %q, %v", tc.address, network, target, host, port, err)
		}
	}
	for _, address := range []string{"h1", "/run/pg"} {
		if _, _, _, _, err := splitAddress(address); err == nil {
			t.Errorf("splitAddress(%q) succeeded", address)
		}
	}
}
