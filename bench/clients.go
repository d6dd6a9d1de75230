package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// Scripts of the mixed load, in the rig's directory.
const (
	readScript  = "bench-read.sql"
	writeScript = "bench-write.sql"
)

// opensslConfig leaves OpenSSL, which pgbench uses, one cipher of TLS 1.3: every proxy
// is measured with the same one, whichever it would prefer.
const opensslConfig = "openssl.cnf"

const tlsCipher = "TLS_AES_128_GCM_SHA256"

// clientFiles are what pgbench reads.
var clientFiles = map[string]string{
	readScript: `\set aid random(1, 100000 * :scale)
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
`,
	writeScript: `\set aid random(1, 100000 * :scale)
\set delta random(-5000, 5000)
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
`,
	opensslConfig: `openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
MinProtocol = TLSv1.3
Ciphersuites = ` + tlsCipher + `
`,
}

// writeClientFiles makes what clients and the TLS of the proxies need.
func (r *rig) writeClientFiles() (err error) {
	for name, content := range clientFiles {
		if _, err := r.writeFile(name, content); err != nil {
			return err
		}
	}
	cert, key, err := makeCertificate()
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	if r.cert, err = r.writeFile("server.crt", string(cert)); err != nil {
		return err
	}
	r.key, err = r.writeFile("server.key", string(key))
	return err
}

// makeCertificate makes one of a P-256 key that signs itself, for a day, in PEM.
func makeCertificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// client prepares a program of the PostgreSQL installation as a client of port.
func (r *rig) client(ctx context.Context, port int, tls bool, program string, args ...string) *exec.Cmd {
	cmd := r.cluster.Primary().Command(ctx, program, args...)
	cmd.Env = append(cmd.Env, "PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(port), "PGSSLMODE="+sslMode(tls),
		"OPENSSL_CONF="+filepath.Join(r.dir, opensslConfig),
		"PGUSER="+pgtest.AppUser, "PGPASSWORD="+pgtest.Password(pgtest.AppUser), "PGDATABASE="+pgtest.AppDatabase)
	cmd.Dir = r.dir
	cmd.SysProcAttr.Setpgid = true
	return cmd
}

// checkCipher makes sure that what is measured is what the report says.
func (r *rig) checkCipher(ctx context.Context, s *system) error {
	out, err := r.client(ctx, s.port, true, "psql", "-X", "-c", `\conninfo`).CombinedOutput()
	if err != nil {
		return fmt.Errorf("connect with TLS: %w: %s", err, out)
	}
	if !strings.Contains(string(out), tlsCipher) {
		return fmt.Errorf("connect with TLS: not by %s: %s", tlsCipher, out)
	}
	return nil
}
