package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

var (
	sslRequest = pgwire.AppendSSLRequest(nil)
	gssRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30}
)

func TestTLSModes(t *testing.T) {
	a := newAuthority(t)
	t.Run("disable", func(t *testing.T) {
		cfg := testConfig(t)
		withTLS(&cfg, a, TLSDisable)
		s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
		conn := dialTest(t, s.Addr())
		send(t, conn, sslRequest)
		wantByte(t, conn, 'N')
		send(t, conn, startupFor("user", "a"))
		wantIn(t, conn)
	})
	t.Run("allow", func(t *testing.T) {
		cfg := testConfig(t)
		withTLS(&cfg, a, TLSAllow)
		s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
		conn := dialTest(t, s.Addr())
		send(t, conn, startupFor("user", "a"))
		wantIn(t, conn)

		conn = dialTest(t, s.Addr())
		send(t, conn, sslRequest)
		wantByte(t, conn, 'S')
		tc := tlsOver(t, conn, a)
		send(t, tc, startupFor("user", "a"))
		wantIn(t, tc)
		wantClosed(t, tc)
	})
	t.Run("require", func(t *testing.T) {
		cfg := testConfig(t)
		withTLS(&cfg, a, TLSRequire)
		cfg.Listen.UnixSocketDir = t.TempDir()
		s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
		conn := dialTest(t, s.Addr())
		send(t, conn, startupFor("user", "a"))
		wantError(t, conn, "28000", "pgproxy: this server accepts TCP connections only with TLS")
		wantClosed(t, conn)

		conn = dialTest(t, unixAddr(cfg, s))
		send(t, conn, sslRequest)
		wantByte(t, conn, 'N')
		send(t, conn, startupFor("user", "a"))
		wantIn(t, conn)
	})
	t.Run("old versions", func(t *testing.T) {
		cfg := testConfig(t)
		withTLS(&cfg, a, TLSAllow)
		s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
		conn := dialTest(t, s.Addr())
		send(t, conn, sslRequest)
		wantByte(t, conn, 'S')
		tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
		if err := tc.Handshake(); err == nil {
			t.Error("TLS 1.1 was accepted")
		}
	})
}

func TestDirectTLS(t *testing.T) {
	a := newAuthority(t)
	cfg := testConfig(t)
	withTLS(&cfg, a, TLSRequire)
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)

	tc := tlsOver(t, dialTest(t, s.Addr()), a, "postgresql")
	send(t, tc, sslRequest) // no TLS in TLS
	wantError(t, tc, "0A000", "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2")

	tc = tlsOver(t, dialTest(t, s.Addr()), a, "postgresql")
	send(t, tc, startupFor("user", "a"))
	wantIn(t, tc)

	tc = tlsOver(t, dialTest(t, s.Addr()), a)
	wantClosed(t, tc)

	tc = tls.Client(dialTest(t, s.Addr()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	contains(t, tc.Handshake(), "no application protocol")

	cfg = testConfig(t)
	s = serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
	tc = tls.Client(dialTest(t, s.Addr()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
	if err := tc.Handshake(); err == nil {
		t.Error("direct TLS without a certificate succeeded")
	}
}

// CVE-2021-23214: what follows the request before the answer is not encrypted.
func TestBytesBeforeHandshake(t *testing.T) {
	a := newAuthority(t)
	cfg := testConfig(t)
	withTLS(&cfg, a, TLSAllow)
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
	conn := dialTest(t, s.Addr())
	send(t, conn, sslRequest, startupFor("user", "a"))
	wantClosed(t, conn)

	s = serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, nil)
	for request, kind := range map[string]string{string(sslRequest): "SSL", string(gssRequest): "GSSAPI encryption"} {
		conn = dialTest(t, s.Addr())
		send(t, conn, []byte(request), []byte{0})
		wantByte(t, conn, 'N')
		wantError(t, conn, "08P01", "received unencrypted data after "+kind+" request")
		wantClosed(t, conn)
	}
}

func TestEncryptionRequestsInEitherOrder(t *testing.T) {
	s := serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, nil)
	for _, order := range [][][]byte{{sslRequest, gssRequest}, {gssRequest, sslRequest}} {
		conn := dialTest(t, s.Addr())
		for _, request := range order {
			send(t, conn, request)
			wantByte(t, conn, 'N')
		}
		send(t, conn, startupFor("user", "a"))
		wantIn(t, conn)
	}
	conn := dialTest(t, s.Addr())
	send(t, conn, gssRequest)
	wantByte(t, conn, 'N')
	send(t, conn, gssRequest)
	wantError(t, conn, "0A000", "unsupported frontend protocol 1234.5680: server supports 3.0 to 3.2")
}

func TestProtocolVersions(t *testing.T) {
	var seen atomic.Uint32
	s := serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.handle = func(_ context.Context, c *client) error {
			seen.Store(c.protocol)
			return c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		}
	})
	for _, tc := range []struct {
		asked, got uint32
		option     string
		told       []byte
	}{
		{pgwire.Version30, pgwire.Version30, "", nil},
		{3<<16 | 1, 3<<16 | 1, "", nil},
		{pgwire.Version32, pgwire.Version32, "", nil},
		{3<<16 | 9999, pgwire.Version32, "", pgwire.AppendNegotiateProtocolVersion(nil, pgwire.Version32, nil)},
		{
			pgwire.Version30, pgwire.Version30, "_pq_.grease",
			pgwire.AppendNegotiateProtocolVersion(nil, pgwire.Version30, []string{"_pq_.grease"}),
		},
	} {
		conn := dialTest(t, s.Addr())
		words := []string{"user", "a"}
		if tc.option != "" {
			words = append(words, tc.option, "1")
		}
		send(t, conn, startupVersion(tc.asked, words...))
		if tc.told != nil {
			if body := wantMessage(t, conn, pgwire.NegotiateProtocolVersion); !bytes.Equal(body, tc.told[pgwire.HeaderLen:]) {
				t.Errorf("%x: negotiated %v", tc.asked, body)
			}
		}
		wantIn(t, conn)
		if got := seen.Load(); got != tc.got {
			t.Errorf("asked for %x, session has %x", tc.asked, got)
		}
	}
}

func TestStartupPacket(t *testing.T) {
	clients := make(chan *client, 1)
	s := serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.handle = func(_ context.Context, c *client) error {
			clients <- c
			return c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		}
	})
	long := strings.Repeat("x", 70)
	conn := dialTest(t, s.Addr())
	// In pieces, as a slow network delivers it.
	packet := startupFor("user", long, "application_name", "app", "DateStyle", "ISO", "replication", "off")
	for _, part := range [][]byte{packet[:3], packet[3:6], packet[6:40], packet[40:]} {
		send(t, conn, part)
	}
	wantIn(t, conn)
	seen := <-clients
	if seen.user != long[:63] || seen.database != long[:63] || seen.appName != "app" || len(seen.params) != 2 {
		t.Errorf("client = %+v", seen)
	}

	for name, tc := range map[string]struct {
		packet        []byte
		code, message string
	}{
		"no user":     {startupFor("database", "a"), "28000", "no PostgreSQL user name specified in startup packet"},
		"empty user":  {startupFor("user", ""), "28000", "no PostgreSQL user name specified in startup packet"},
		"version 2":   {startupVersion(2<<16, "user", "a"), "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"},
		"layout":      {[]byte{0, 0, 0, 9, 0, 3, 0, 0, 'x'}, "08P01", "invalid startup packet layout: expected terminator as last byte"},
		"empty":       {[]byte{0, 0, 0, 8, 0, 3, 0, 0}, "08P01", "invalid startup packet layout: expected terminator as last byte"},
		"replication": {startupFor("user", "a", "replication", "x"), "22023", `invalid value for parameter "replication": "x"`},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialTest(t, s.Addr())
			send(t, conn, tc.packet)
			wantError(t, conn, tc.code, tc.message)
			wantClosed(t, conn)
		})
	}
	for name, packet := range map[string][]byte{
		"too long":     {0, 0, 0x27, 0x15}, // 10005
		"negative":     {0xff, 0xff, 0xff, 0xff},
		"too short":    {0, 0, 0, 7},
		"http":         []byte("GET / HTTP/1.0\r\n\r\n"),
		"short cancel": {0, 0, 0, 12, 4, 210, 22, 46, 0, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialTest(t, s.Addr())
			send(t, conn, packet)
			var b [1]byte
			if n, err := conn.Read(b[:]); n != 0 || err == nil {
				t.Errorf("read %d, %v; want the end", n, err)
			}
		})
	}
}

// A length that cannot be is a failed authentication, as in PostgreSQL.
func TestOversizedPassword(t *testing.T) {
	cfg := testConfig(t)
	cfg.Auth.HBAFile = "" // scram
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.knows(t, func(_ context.Context, user string) (auth.Role, error) { return auth.Role{Name: user}, nil })
	})
	for _, length := range [][]byte{{0, 1, 0, 4}, {0x7f, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 3}} {
		conn := dialTest(t, s.Addr())
		send(t, conn, startupFor("user", "a"))
		typ, body := readOne(t, conn)
		if typ == pgwire.ErrorResponse {
			t.Fatalf("error %q", body)
		}
		send(t, conn, []byte{'p'}, length)
		typ, body = readOne(t, conn)
		if code := pgwire.ErrorField(body, 'C'); typ != pgwire.ErrorResponse || string(code) != codeInvalidPassword {
			t.Errorf("length %v: %q %q", length, typ, body)
		}
	}
}

func TestMaxClients(t *testing.T) {
	cfg := testConfig(t)
	cfg.Listen.MaxClients = 1
	leave := make(chan struct{})
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.handle = func(_ context.Context, c *client) error {
			err := c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
			<-leave
			return err
		}
	})
	first := dialTest(t, s.Addr())
	send(t, first, startupFor("user", "a"))
	wantIn(t, first)
	second := dialTest(t, s.Addr())
	send(t, second, startupFor("user", "a"))
	wantError(t, second, "53300", "pgproxy: sorry, too many clients already")
	wantClosed(t, second)
	close(leave)
	wantClosed(t, first)
	for s.clients.Load() != 0 { // its goroutine is about to count it out
		first.Close()
	}
	third := dialTest(t, s.Addr())
	send(t, third, startupFor("user", "a"))
	wantIn(t, third)
}

func TestHalfOpenFlood(t *testing.T) {
	cfg := testConfig(t)
	cfg.Listen.Startup.MaxHalfOpen = 4
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
	var flood []net.Conn
	for range 100 {
		conn := dialTest(t, s.Addr())
		send(t, conn, []byte{0}) // without a byte it may stay with the kernel
		flood = append(flood, conn)
	}
	// It waits behind the flood, and gets in although nobody of the flood gives up.
	conn := dialTest(t, s.Addr())
	send(t, conn, startupFor("user", "a"))
	wantIn(t, conn)
	wantError(t, flood[0], "53300", "pgproxy: too many connections are authenticating")
	wantClosed(t, flood[0])
}

func TestStartupTimeout(t *testing.T) {
	cfg := testConfig(t)
	cfg.Listen.Startup.Timeout = 20 * time.Millisecond
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
	conn := dialTest(t, s.Addr())
	send(t, conn, []byte{0, 0, 0, 20})
	wantClosed(t, conn)
}

func TestCertificateReload(t *testing.T) {
	a := newAuthority(t)
	cfg := testConfig(t)
	withTLS(&cfg, a, TLSRequire)
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
	serial := func() string {
		tc := tlsOver(t, dialTest(t, s.Addr()), a, "postgresql")
		defer tc.Close()
		return tc.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if again := serial(); again != first {
		t.Fatalf("serial %s, then %s", first, again)
	}
	old, err := os.ReadFile(cfg.Listen.TLS.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	touch := func(path string, content []byte, hours int) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(hours) * time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	touch(cfg.Listen.TLS.KeyFile, []byte("half a key"), 1)
	if again := serial(); again != first {
		t.Errorf("a broken key changed the certificate")
	}
	touch(cfg.Listen.TLS.KeyFile, old, 2)
	if again := serial(); again != first {
		t.Errorf("the old key changed the certificate")
	}
	a.issue("127.0.0.1", cfg.Listen.TLS.CertFile, cfg.Listen.TLS.KeyFile)
	if again := serial(); again == first {
		t.Errorf("the certificate was not reloaded")
	}
}

func TestClientCertificate(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	_, s := serveCertificates(t, a)
	connect := func(certs ...tls.Certificate) *tls.Conn {
		return tls.Client(dialTest(t, s.Addr()), &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"postgresql"}, Certificates: certs,
		})
	}
	alice := a.pair("alice")

	tc := connect(alice)
	send(t, tc, startupFor("user", "alice"))
	wantIn(t, tc)

	tc = connect(alice)
	send(t, tc, startupFor("user", "bob"))
	wantError(t, tc, "28000", `certificate authentication failed for user "bob"`)

	tc = connect()
	send(t, tc, startupFor("user", "alice"))
	wantError(t, tc, "28000", "connection requires a valid client certificate")

	tc = connect(stranger.pair("alice"))
	_, _ = tc.Write(startupFor("user", "alice"))
	var b [1]byte
	if _, err := tc.Read(b[:]); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
}

// unixAddr is the address of the server's Unix socket.
func unixAddr(cfg Config, s *Server) net.Addr {
	_, port, _ := net.SplitHostPort(s.Addr().String())
	return &net.UnixAddr{Name: filepath.Join(cfg.Listen.UnixSocketDir, ".s.PGSQL."+port), Net: "unix"}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, ".s.PGSQL.9999")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()

	cfg := testConfig(t)
	cfg.Listen.Address, cfg.Listen.UnixSocketDir = "", dir
	s := newTest(t, cfg, newFakeCluster(testState()), Deps{})
	stop := runTest(t, s)
	if got := s.Addr().String(); got != path {
		t.Errorf("address %s, want %s", got, path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("socket %v, %v", info.Mode(), err)
	}
	conn := dialTest(t, s.Addr())
	send(t, conn, startupFor("user", "a"))
	wantIn(t, conn)

	_, err = listen(t.Context(), cfg.Listen)
	contains(t, err, "another server has it")
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end the socket is there: %v", err)
	}
}

func TestShutdown(t *testing.T) {
	cfg := testConfig(t)
	cfg.Listen.Drain = time.Hour
	s := newTest(t, cfg, newFakeCluster(testState()), Deps{})
	s.handle = func(ctx context.Context, c *client) error {
		_ = c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		<-s.draining
		_, err := c.conn.Write(errShutdown.encode(pgwire.SeverityFatal))
		return err
	}
	stop := runTest(t, s)
	session := dialTest(t, s.Addr())
	send(t, session, startupFor("user", "a"))
	wantIn(t, session)
	half := dialTest(t, s.Addr())
	send(t, half, sslRequest)
	wantByte(t, half, 'N')
	stop()
	for _, conn := range []net.Conn{session, half} {
		wantError(t, conn, "57P01", "pgproxy: shutting down")
		wantClosed(t, conn)
	}
}

func TestDrainIsBounded(t *testing.T) {
	cfg := testConfig(t)
	cfg.Listen.Drain = time.Millisecond
	s := newTest(t, cfg, newFakeCluster(testState()), Deps{})
	s.handle = func(ctx context.Context, c *client) error {
		_ = c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		<-ctx.Done()
		return nil
	}
	stop := runTest(t, s)
	conn := dialTest(t, s.Addr())
	send(t, conn, startupFor("user", "a"))
	wantIn(t, conn)
	stop()
	wantClosed(t, conn)
}
