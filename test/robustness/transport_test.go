package robustness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestTransports moves large answers over TLS and over the Unix socket.
func TestTransports(t *testing.T) {
	dir, err := os.MkdirTemp("", "pgproxy") // short: the path of a socket has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	certificate, key := writeCertificate(t, dir)
	r := startRig(t, 1, proxytest.Options{Listen: fmt.Sprintf(
		"drain: 1s, unix_socket_dir: %q, tls: {mode: allow, cert_file: %q, key_file: %q}", dir, certificate, key)})
	must(t, r.cluster.Primary().Exec(t.Context(), pgtest.AppDatabase,
		"CREATE UNLOGGED TABLE large (v text); ALTER TABLE large OWNER TO app"))
	for _, transport := range []struct{ name, dsn string }{
		{"TLS", fmt.Sprintf("host=127.0.0.1 port=%d sslmode=verify-ca sslrootcert=%s", r.proxy.Port, certificate)},
		{"direct TLS", fmt.Sprintf("host=127.0.0.1 port=%d sslmode=verify-ca sslnegotiation=direct sslrootcert=%s", r.proxy.Port, certificate)},
		{"Unix socket", fmt.Sprintf("host=%s port=%d", dir, r.proxy.Port)},
	} {
		dsn := fmt.Sprintf("%s dbname=%s user=%s password=%s", transport.dsn, pgtest.AppDatabase, pgtest.AppUser, pgtest.Password(pgtest.AppUser))
		r.run(t, transport.name, func(t *testing.T) { r.bounded(t, func() { testTransport(t, r, dsn) }) })
	}
}

func testTransport(t *testing.T, r *rig, dsn string) {
	const size = 50 * megabyte
	w := openWire(t, dsn)
	w.query(fmt.Sprintf("SELECT repeat('x', %d)", size))
	if row := w.expect(pgwire.DataRow); row.size != 2+4+size {
		t.Errorf("a row of %d bytes, want %d", row.size, 2+4+size)
	}
	w.expect(pgwire.ReadyForQuery)
	w.query("/* pgproxy: standby */ SELECT repeat('x', 1000), generate_series(1, 50000)")
	for range 50_000 {
		w.expect(pgwire.DataRow)
	}
	w.expect(pgwire.ReadyForQuery)
	w.exec("TRUNCATE large")
	w.query("COPY large FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	w.sendLarge(pgwire.CopyData, nil, size, []byte("\n"))
	w.send(pgwire.AppendEmpty(nil, pgwire.CopyDone))
	w.expect(pgwire.ReadyForQuery)
	if got := w.value("SELECT sum(length(v)) FROM large"); got != fmt.Sprint(size) {
		t.Errorf("%s bytes have arrived, want %d", got, size)
	}
	// Who vanishes in the middle leaves nothing.
	for range 5 {
		gone := openWire(t, dsn)
		gone.query("/* pgproxy: primary */ " + endless)
		gone.expect(pgwire.DataRow)
		must(t, gone.Close())
	}
	r.onPrimary(t, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%%1000000000%%' AND state = 'active' AND pid <> pg_backend_pid())")
}

// writeCertificate makes a certificate for 127.0.0.1 that signs itself.
func writeCertificate(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pgproxy"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return certificate, key
}
