package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// resumer connects with TLS as one client does that keeps session tickets.
type resumer struct {
	t      *testing.T
	addr   net.Addr
	config *tls.Config
}

func newResumer(t *testing.T, addr net.Addr, a *authority, certs ...tls.Certificate) *resumer {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &resumer{t, addr, &tls.Config{
		RootCAs: pool, ServerName: "127.0.0.1", NextProtos: []string{alpn}, Certificates: certs,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}}
}

// connect logs in, and returns whether the TLS session was one of before.
func (r *resumer) connect() bool {
	r.t.Helper()
	tc := tls.Client(dialTest(r.t, r.addr), r.config)
	send(r.t, tc, startupFor("user", "alice"))
	wantIn(r.t, tc) // the ticket comes before that
	return tc.ConnectionState().DidResume
}

func TestClientResumesItsTLSSession(t *testing.T) {
	a := newAuthority(t)
	for name, change := range map[string]func(*Config){
		"":                   func(*Config) {},
		"client certificate": func(cfg *Config) { cfg.Listen.TLS.ClientCAFile = a.file },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			withTLS(&cfg, a, TLSRequire)
			change(&cfg)
			if cfg.Listen.TLS.ClientCAFile != "" {
				cfg.Auth.HBAFile = writeFile(t, "hostssl all all all cert\n")
			}
			s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
			r := newResumer(t, s.Addr(), a, a.pair("alice"))
			if r.connect() {
				t.Error("the first session was resumed")
			}
			for range 2 { // the second by the ticket of the first
				if !r.connect() {
					t.Error("a session was not resumed")
				}
			}

			// With the certificate its sessions end.
			a.issue("127.0.0.1", cfg.Listen.TLS.CertFile, cfg.Listen.TLS.KeyFile)
			later := time.Now().Add(time.Hour)
			if err := os.Chtimes(cfg.Listen.TLS.CertFile, later, later); err != nil {
				t.Fatal(err)
			}
			if r.connect() {
				t.Error("a session was resumed that another certificate began")
			}
			if !r.connect() {
				t.Error("a session with the new certificate was not resumed")
			}
		})
	}
}

// A client certificate is good for as long as its authority is trusted.
func TestNoResumptionWithoutTheAuthority(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	cfg, s := serveCertificates(t, a)
	r := newResumer(t, s.Addr(), a, a.pair("alice"))
	r.connect()
	cfg.Listen.TLS.ClientCAFile = other.file
	if err := s.Reload(cfg, ""); err != nil {
		t.Fatal(err)
	}
	tc := tls.Client(dialTest(t, s.Addr()), r.config)
	_, _ = tc.Write(startupFor("user", "alice"))
	var b [1]byte
	if n, _ := tc.Read(b[:]); n > 0 && b[0] != pgwire.ErrorResponse {
		t.Errorf("answer %q", b[0])
	}
	if tc.ConnectionState().DidResume {
		t.Error("the session was resumed")
	}
}

// Logins on a server resume its TLS session, and not another server's of that host.
func TestLoginResumesTLSSession(t *testing.T) {
	a := newAuthority(t)
	resumed := make(chan bool, 1)
	server := func() *fakeServer {
		config := &tls.Config{Certificates: []tls.Certificate{a.pair("127.0.0.1")}}
		return newFakeServer(t, func(conn net.Conn) {
			readStartup(conn)
			_, _ = conn.Write([]byte{'S'})
			if tc := tls.Server(conn, config); tc.Handshake() == nil {
				greet(tc)
				resumed <- tc.ConnectionState().DidResume
			}
		})
	}
	first, second := server(), server()
	for _, mode := range []SSLMode{SSLRequire, SSLVerifyCA, SSLVerifyFull} {
		t.Run(string(mode), func(t *testing.T) {
			d := testDialer(t, BackendTLSConfig{Mode: mode, CAFile: a.file})
			for _, step := range []struct {
				server *fakeServer
				want   bool
			}{{first, false}, {first, true}, {second, false}, {first, true}, {second, true}} {
				l, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: step.server.address}, nil, testClient("a"))
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				if got := <-resumed; got != step.want {
					t.Errorf("login on %s: resumed %v, want %v", step.server.address, got, step.want)
				}
			}
		})
	}
}

// New files of backend_tls are taken for the next login, which begins a session.
func TestBackendTLSFilesAreReadAgain(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	f := tlsServer(t, other.pair("127.0.0.1"))
	d := testDialer(t, BackendTLSConfig{Mode: SSLVerifyFull, CAFile: a.file})
	login := func() error {
		l, err := d.login(t.Context(), cluster.Backend{Name: "h1", Address: f.address}, nil, testClient("a"))
		if err == nil {
			l.Close()
		}
		return err
	}
	contains(t, login(), "unknown authority")
	content, err := os.ReadFile(other.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(a.file, later, later); err != nil {
		t.Fatal(err)
	}
	if err := login(); err != nil {
		t.Error(err)
	}
}
