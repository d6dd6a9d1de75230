package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// testConfig listens on a free port and lets everyone in.
func testConfig(t *testing.T) Config {
	cfg := Config{
		Listen: DefaultListen(), Auth: DefaultAuth(), BackendTLS: DefaultBackendTLS(),
		Pool: DefaultPool(), Balance: lb.Default(), Hold: DefaultHold(),
	}
	cfg.Listen.Address = "127.0.0.1:0"
	if driver := os.Getenv("PGPROXY_TEST_DRIVER"); driver != "" {
		cfg.Listen.Driver = Driver(driver)
	}
	cfg.Auth.HBAFile = writeFile(t, "local all all trust\nhost all all all trust\nhost replication all all trust\n")
	return cfg
}

// writeFile makes a private file with that content.
func writeFile(t *testing.T, content string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// testState is a cluster of backends that are up, the first one the primary.
func testState(addresses ...string) cluster.State {
	s := cluster.State{Epoch: 1, Timeline: 1, Primary: "h1"}
	for i, a := range addresses {
		b := cluster.Backend{Name: "h" + string(rune('1'+i)), Address: a, Weight: 1, Status: cluster.StatusUp, Role: cluster.RoleStandby}
		if i == 0 {
			b.Role = cluster.RolePrimary
		}
		s.Backends = append(s.Backends, b)
	}
	return s
}

// fakeCluster is a Cluster that a test changes.
type fakeCluster struct{ *cluster.Log }

func newFakeCluster(s cluster.State) *fakeCluster { return &fakeCluster{cluster.NewLog(s)} }

// knows makes a Server know roles by that function instead of the auth query.
func (s *Server) knows(t *testing.T, lookup func(ctx context.Context, user string) (auth.Role, error)) {
	t.Helper()
	var err error
	s.auth, err = newAuthenticator(s.cfg.Load().Auth, auth.NewStore(auth.StoreConfig{Lookup: lookup}), nil)
	if err != nil {
		t.Fatal(err)
	}
}

// newTest makes a Server that knows every role and whose session is an answer of
// ReadyForQuery and the end.
func newTest(t *testing.T, cfg Config, c Cluster, deps Deps) *Server {
	t.Helper()
	deps.Cluster = c
	deps.Logger = slog.New(slog.DiscardHandler)
	deps.Registerer = prometheus.NewRegistry()
	deps.Poke = func(string) {}
	if deps.GoesOn == nil {
		deps.GoesOn = func(context.Context, string, uint64) bool { return false }
	}
	deps.Observations = func() map[string]cluster.Observation { return nil }
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	s.knows(t, func(_ context.Context, user string) (auth.Role, error) {
		return auth.Role{Name: user, Exists: true, CanLogin: true}, nil
	})
	s.handle = func(_ context.Context, c *client) error {
		return c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
	}
	return s
}

// runTest runs a Server until stop, or the end of the test.
func runTest(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return stop
}

// serveTest makes and runs a Server; change may replace parts of it first.
func serveTest(t *testing.T, cfg Config, c Cluster, deps Deps, change func(*Server)) *Server {
	t.Helper()
	s := newTest(t, cfg, c, deps)
	if change != nil {
		change(s)
	}
	runTest(t, s)
	return s
}

// dialTest connects to a listener.
func dialTest(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, parts ...[]byte) {
	t.Helper()
	if _, err := conn.Write(bytes.Join(parts, nil)); err != nil {
		t.Fatal(err)
	}
}

// startupFor is a StartupMessage of protocol 3.0; words are names and values.
func startupFor(words ...string) []byte { return startupVersion(pgwire.Version30, words...) }

func startupVersion(version uint32, words ...string) []byte {
	var params []pgwire.Parameter
	for i := 0; i < len(words); i += 2 {
		params = append(params, pgwire.Parameter{Name: words[i], Value: words[i+1]})
	}
	return pgwire.AppendStartup(nil, version, params)
}

// wantByte reads one byte.
func wantByte(t *testing.T, conn net.Conn, want byte) {
	t.Helper()
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil || b[0] != want {
		t.Fatalf("read %q, %v; want %q", b[0], err, want)
	}
}

// readOne reads one message.
func readOne(t *testing.T, conn net.Conn) (byte, []byte) {
	t.Helper()
	var buf []byte
	typ, body, err := readMessage(conn, &buf, 1<<20)
	if err != nil {
		t.Fatalf("read message: %v", err)
	}
	return typ, body
}

// wantMessage reads one message of that type.
func wantMessage(t *testing.T, conn net.Conn, want byte) []byte {
	t.Helper()
	typ, body := readOne(t, conn)
	if typ != want {
		t.Fatalf("message %q %q, want %q", typ, body, want)
	}
	return body
}

// wantIn reads what a client is told that gets in.
func wantIn(t *testing.T, conn net.Conn) {
	t.Helper()
	if code, _, _ := pgwire.ReadAuthentication(wantMessage(t, conn, pgwire.Authentication)); code != pgwire.AuthOK {
		t.Fatalf("authentication %d", code)
	}
	wantMessage(t, conn, pgwire.ReadyForQuery)
}

// wantError reads an ErrorResponse FATAL with that code and message.
func wantError(t *testing.T, conn net.Conn, code, message string) {
	t.Helper()
	body := wantMessage(t, conn, pgwire.ErrorResponse)
	if c, m := string(pgwire.ErrorField(body, 'C')), string(pgwire.ErrorField(body, 'M')); c != code || m != message {
		t.Fatalf("error %s %q, want %s %q", c, m, code, message)
	}
	if s := string(pgwire.ErrorField(body, 'S')); s != pgwire.SeverityFatal {
		t.Fatalf("severity %s", s)
	}
}

// wantClosed waits for the end of a connection on which nothing more comes.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	rest, err := io.ReadAll(conn)
	if len(rest) > 0 {
		t.Fatalf("read %q (%v), want the end", rest, err)
	}
}

// authority is a certificate authority for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(t.TempDir(), "ca.crt")
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue writes a certificate for that name and its key to files.
func (a *authority) issue(name, certFile, keyFile string) {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotAfter:    time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses, template.DNSNames = []net.IP{ip}, nil
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, keyFile, "PRIVATE KEY", private)
	writePEM(a.t, certFile, "CERTIFICATE", der)
}

// files issues a certificate into new files.
func (a *authority) files(name string) (certFile, keyFile string) {
	dir := a.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	a.issue(name, certFile, keyFile)
	return certFile, keyFile
}

// pair issues a certificate in memory.
func (a *authority) pair(name string) tls.Certificate {
	a.t.Helper()
	cert, err := tls.LoadX509KeyPair(a.files(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withTLS gives the listener a certificate for 127.0.0.1.
func withTLS(cfg *Config, a *authority, mode TLSMode) {
	cfg.Listen.TLS.Mode = mode
	cfg.Listen.TLS.CertFile, cfg.Listen.TLS.KeyFile = a.files("127.0.0.1")
}

// serveCertificates serves clients who have a certificate of that authority.
func serveCertificates(t *testing.T, a *authority) (Config, *Server) {
	t.Helper()
	cfg := testConfig(t)
	withTLS(&cfg, a, TLSRequire)
	cfg.Listen.TLS.ClientCAFile = a.file
	cfg.Auth.HBAFile = writeFile(t, "hostssl all all all cert\n")
	return cfg, serveTest(t, cfg, newFakeCluster(testState()), Deps{}, nil)
}

// tlsOver is a client's handshake after the server's 'S'.
func tlsOver(t *testing.T, conn net.Conn, a *authority, protos ...string) *tls.Conn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	tc := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: protos})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	return tc
}

func contains(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want one with %q", err, text)
	}
}

// advance moves the clock of the synctest bubble that its caller is in, and returns when
// all that was due has been done. Outside of a bubble it panics before it would wait.
func advance(d time.Duration) {
	synctest.Wait()
	<-time.After(d)
	synctest.Wait()
}
