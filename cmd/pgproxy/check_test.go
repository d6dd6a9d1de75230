package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeFiles makes files in a new directory; a name may end in its mode: "secret 0644".
func writeFiles(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		name, open := strings.CutSuffix(name, " 0644")
		mode := os.FileMode(0o600)
		if open {
			mode = 0o644
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // the mode of WriteFile is under the umask
			t.Fatal(err)
		}
	}
	return dir
}

// selfSigned returns a certificate and its key in PEM.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return cert, key
}

func TestCheck(t *testing.T) {
	const backends = "backends:\n- {name: h1, address: \"10.0.0.1:5432\"}\n- {name: h2, address: \"10.0.0.2:5432\"}\n"
	cert, key := selfSigned(t)
	_, otherKey := selfSigned(t)
	tests := []struct {
		name   string
		files  map[string]string // pgproxy.yaml is the configuration
		stdout string            // with DIR for the directory
		stderr string
		status int
	}{
		{
			name:   "smallest",
			files:  map[string]string{"pgproxy.yaml": backends},
			stdout: "DIR/pgproxy.yaml: ok\n",
		},
		{
			name: "everything is in order",
			files: map[string]string{
				"pgproxy.yaml": backends + "monitor: {password_file: monitor.password}\n" +
					"listen: {tls: {cert_file: a.crt, key_file: a.key, client_ca_file: a.crt}}\n" +
					"backend_tls: {mode: verify-ca, ca_file: a.crt, cert_file: a.crt, key_file: a.key}\n" +
					"auth: {hba_file: hba.conf, password_file: passwords}\n",
				"monitor.password": "s3cret\n",
				"a.crt":            cert,
				"a.key":            key,
				"hba.conf":         "host all all 127.0.0.1/32 trust\nhost all all all scram-sha-256\n",
				"passwords":        "*:*:*:app:s3cret\n",
			},
			stdout: "DIR/pgproxy.yaml: ok\n",
		},
		{
			name:   "warnings",
			files:  map[string]string{"pgproxy.yaml": backends + "balance:\n  transactions: until_write\n"},
			stdout: "DIR/pgproxy.yaml: ok\n",
			stderr: "warning: DIR/pgproxy.yaml:5:3: balance.transactions: this version keeps the reads of a read-write transaction on the primary, as with primary\n",
		},
		{
			name: "faults of the file and of those that it names come together",
			files: map[string]string{
				"pgproxy.yaml": "pool: {size: many}\nmonitor: {password_file: none}\nbalance: {transactions: until_write}\n" +
					backends + "hold: {timeout: -1s}\n",
			},
			stderr: "warning: DIR/pgproxy.yaml:3:11: balance.transactions: this version keeps the reads of a read-write transaction on the primary, as with primary\n" +
				"DIR/pgproxy.yaml:1:8: pool.size: want a whole number, got the text \"many\"\n" +
				"DIR/pgproxy.yaml:2:11: monitor.password_file: open secret file: open DIR/none: no such file or directory\n" +
				"DIR/pgproxy.yaml:7:8: hold.timeout: want 0 to 24h, got -1s\n",
			status: 1,
		},
		{
			name:   "not YAML",
			files:  map[string]string{"pgproxy.yaml": "a: [\n"},
			stderr: "DIR/pgproxy.yaml:1:4: sequence end token ']' not found\n",
			status: 1,
		},
		{
			name: "secrets that others can read",
			files: map[string]string{
				"pgproxy.yaml": backends + "monitor: {password_file: monitor.password}\nauth: {password_file: passwords}\n" +
					"listen: {tls: {cert_file: a.crt, key_file: a.key}}\n",
				"monitor.password 0644": "s3cret\n",
				"passwords 0644":        "*:*:*:app:s3cret\n",
				"a.crt":                 cert,
				"a.key 0644":            key,
			},
			stderr: "DIR/pgproxy.yaml:4:11: monitor.password_file: secret file DIR/monitor.password has mode 0644; MODE\n" +
				"DIR/pgproxy.yaml:5:8: auth.password_file: open password file DIR/passwords: mode 0644 lets others read it: use 0600 or less\n" +
				"DIR/pgproxy.yaml:6:34: listen.tls.key_file: secret file DIR/a.key has mode 0644; MODE\n",
			status: 1,
		},
		{
			name: "certificates",
			files: map[string]string{
				"pgproxy.yaml": "listen: {tls: {cert_file: a.crt, key_file: b.key, client_ca_file: b.key}}\n" +
					"backend_tls: {ca_file: none.crt, cert_file: none.crt, key_file: b.key}\n" + backends,
				"a.crt": cert,
				"b.key": otherKey,
			},
			stderr: "DIR/pgproxy.yaml:1:16: listen.tls.cert_file: tls: private key does not match public key\n" +
				"DIR/pgproxy.yaml:1:51: listen.tls.client_ca_file: DIR/b.key holds no certificate\n" +
				"DIR/pgproxy.yaml:2:15: backend_tls.ca_file: open DIR/none.crt: no such file or directory\n" +
				"DIR/pgproxy.yaml:2:34: backend_tls.cert_file: open DIR/none.crt: no such file or directory\n",
			status: 1,
		},
		{
			name: "every fault of the HBA file",
			files: map[string]string{
				"pgproxy.yaml": "auth: {hba_file: hba.conf}\n" + backends,
				"hba.conf":     "host all all all kerberos\n# nothing\nhost all all all ftp\n",
			},
			stderr: "DIR/pgproxy.yaml:1:8: auth.hba_file: DIR/hba.conf:1: invalid authentication method \"kerberos\"\n" +
				"DIR/pgproxy.yaml:1:8: auth.hba_file: DIR/hba.conf:3: invalid authentication method \"ftp\"\n",
			status: 1,
		},
		{
			name:   "no HBA file",
			files:  map[string]string{"pgproxy.yaml": "auth: {hba_file: hba.conf}\n" + backends},
			stderr: "DIR/pgproxy.yaml:1:8: auth.hba_file: open DIR/hba.conf: no such file or directory\n",
			status: 1,
		},
		{
			name: "HBA methods that lack a password",
			files: map[string]string{
				"pgproxy.yaml": "auth:\n  hba_file: hba.conf\n  password_file: passwords\n" + backends,
				"hba.conf":     "host all all all scram-sha-256\nhostssl all batch all cert\nlocal all all peer\n",
				"passwords":    "10.0.0.1:5432:*:batch:s3cret\n",
			},
			stdout: "DIR/pgproxy.yaml: ok\n",
			stderr: "warning: DIR/pgproxy.yaml:2:3: auth.hba_file: DIR/hba.conf:2: method cert gives no key for the servers, and the password file has no entry for user \"batch\" on 10.0.0.2:5432\n" +
				"warning: DIR/pgproxy.yaml:2:3: auth.hba_file: DIR/hba.conf:3: method peer gives no key for the servers, and the password file has no entry for any user on 10.0.0.2:5432\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := writeFiles(t, tt.files)
			status, stdout, stderr := pgproxy(t, "check", "-c", filepath.Join(dir, "pgproxy.yaml"))
			plain := strings.NewReplacer(dir, "DIR",
				// What is allowed depends on who runs the test.
				"it must be 0640 or less", "MODE", "it must be 0600 or less, or 0640 and owned by root", "MODE")
			if got := plain.Replace(stdout); got != tt.stdout {
				t.Errorf("stdout: got\n%s\nwant\n%s", got, tt.stdout)
			}
			if got := plain.Replace(stderr); got != tt.stderr {
				t.Errorf("stderr: got\n%s\nwant\n%s", got, tt.stderr)
			}
			if status != tt.status {
				t.Errorf("status: got %d, want %d", status, tt.status)
			}
		})
	}
}

func TestCheckOfNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	status, stdout, stderr := pgproxy(t, "check", "-c", path)
	want := "pgproxy: read configuration: open " + path + ": no such file or directory\n"
	if status != exitFailure || stdout != "" || stderr != want {
		t.Errorf("status %d, stdout %q, stderr %q; want 1, nothing and %q", status, stdout, stderr, want)
	}
}

func TestCheckTakesTheReference(t *testing.T) {
	status, stdout, stderr := pgproxy(t, "check", "-c", "../../configs/pgproxy.yaml")
	if status != exitOK || stdout != "../../configs/pgproxy.yaml: ok\n" || stderr != "" {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}
