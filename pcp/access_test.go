package pcp

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/identity"
)

// nobody is a user that every system has and that owns nothing.
const nobody = 65534

// TestOtherUsersAreRefused: another user does not get through the socket's mode,
// and where the mode lets him, the kernel tells who he is.
func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test starts a program as another user, and needs root for that")
	}
	f := newFixture(t)
	f.start()
	socket := f.address("unix").String()
	if err := os.Chmod(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	before := f.log.State().Epoch
	ask := func(uid uint32) string {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^$")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), dialEnv+"="+socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	want := "connect to " + socket + ": permission denied: only root and the user that pgproxy runs as may"
	if got := ask(nobody); got != want {
		t.Errorf("with the socket's mode: %s, want %s", got, want)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if got, want := ask(nobody), userName(nobody)+" may not: only root and root"; got != want {
		t.Errorf("without it: %s, want %s", got, want)
	}
	if f.log.State().Epoch != before {
		t.Error("the order was carried out")
	}
	if got := ask(0); got != "<nil>" {
		t.Errorf("root: %s", got)
	}
	if !strings.Contains(strings.Join(f.logged.all(), "\n"), "operator refused") {
		t.Error("nobody was told")
	}
}

// TestPeerUnknown: where the kernel does not say who it is, it is nobody who may.
func TestPeerUnknown(t *testing.T) {
	s := &Server{}
	r := (&http.Request{}).WithContext(context.WithValue(t.Context(), peerKey{}, peer{uid: 0, known: false}))
	for _, r := range []*http.Request{r, {}} {
		if by, err := s.operator(r); err == nil || statusOf(err) != http.StatusForbidden {
			t.Errorf("%q, %v", by, err)
		}
	}
}

// remoteFixture listens on TCP too.
func remoteFixture(t *testing.T, secret, token string) *fixture {
	f := newFixture(t)
	f.cfg.Listen = "127.0.0.1:0"
	if secret != "" {
		f.deps.TLS = memberTLS(t, secret)
	}
	f.deps.Token = token
	f.start()
	return f
}

func TestRemote(t *testing.T) {
	const (
		noMember = "is not a member with the same secret or token"
		refused  = "refuses this secret or token"
	)
	other := strings.Repeat("x", 32)
	for _, tt := range []struct {
		name                      string
		secret, token             string // of the server
		clientSecret, clientToken string
		want                      string // in the error; "" it works
	}{
		{"secret", testSecret, "", testSecret, "", ""},
		{"secret beside a token", testSecret, testToken, testSecret, "", ""},
		{"another secret", testSecret, "", other, "", noMember},
		{"token", "", testToken, "", testToken, ""},
		{"token beside a secret", testSecret, testToken, "", testToken, ""},
		{"another token", "", testToken, "", other, noMember},
		{"token where there is none", testSecret, "", "", testToken, refused},
		{"secret where there is none", "", testToken, testSecret, "", refused},
		{"the secret as a token", testSecret, testToken, "", testSecret, noMember},
		{"the token as a secret", testSecret, testToken, testToken, "", noMember},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := remoteFixture(t, tt.secret, tt.token)
			before := f.log.State().Epoch
			_, err := f.remote(tt.clientSecret, tt.clientToken).Detach(t.Context(), "h2")
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %s", err, tt.want)
			}
			if changed := f.log.State().Epoch != before; changed != (tt.want == "") {
				t.Errorf("the state has changed: %t", changed)
			}
		})
	}
}

// TestRemoteWhoIsTold: the event log says who ordered it.
func TestRemoteWhoIsTold(t *testing.T) {
	f := remoteFixture(t, testSecret, testToken)
	for want, c := range map[string]*Client{
		operatorName(): f.remote(testSecret, ""),
		"the token":    f.remote("", testToken),
	} {
		if _, err := c.SetFailover(t.Context(), f.log.State().FailoverOff); err != nil {
			t.Fatal(err)
		}
		events := f.log.State().Events
		if got := events[len(events)-1].Text; !strings.HasSuffix(got, "ordered by "+want) {
			t.Errorf("%q, want by %s", got, want)
		}
	}
}

// exchange makes a request without the client, over a handshake of the test's own.
func (f *fixture) exchange(config *tls.Config, header string) (string, error) {
	f.Helper()
	conn, err := (&tls.Dialer{Config: config}).DialContext(f.Context(), "tcp", f.address("tcp").String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET /v1/pools HTTP/1.1\r\nHost: h1\r\nConnection: close\r\n"+header+"\r\n"); err != nil {
		return "", err
	}
	data, err := io.ReadAll(conn)
	return string(data), err
}

// TestStrangers come with handshakes and headers that the client never makes.
func TestStrangers(t *testing.T) {
	f := remoteFixture(t, testSecret, testToken)
	member, err := identity.New([]byte(testSecret), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	operator, err := identity.New([]byte(testToken), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	bare := member.ClientTLS(Protocol)
	bare.Certificates = nil
	if got, err := f.exchange(bare, ""); err == nil {
		t.Errorf("without a certificate: %q", got)
	}
	byToken := operator.ClientTLS(tokenProtocol)
	for header, want := range map[string]string{
		"":                                     "401 Unauthorized",
		"Authorization: Bearer \r\n":           "401 Unauthorized",
		"Authorization: Bearer x" + "\r\n":     "401 Unauthorized",
		"Authorization: " + testToken + "\r\n": "401 Unauthorized",
		"Authorization: Bearer " + testSecret + "\r\n": "401 Unauthorized",
		"Authorization: Bearer " + testToken + "\r\n":  "200 OK",
	} {
		if got, err := f.exchange(byToken, header); err != nil || !strings.HasPrefix(got, "HTTP/1.1 "+want+"\r\n") {
			t.Errorf("%q: %q, %v; want %s", header, got, err, want)
		}
	}
	// An HTTP client that names its own protocol or none, and looks at no certificate.
	for _, protocols := range [][]string{{"h2", "http/1.1"}, nil} {
		config := &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}
		if got, err := f.exchange(config, ""); err != nil || !strings.HasPrefix(got, "HTTP/1.1 401 ") {
			t.Errorf("%q: %q, %v", protocols, got, err)
		}
		if got, err := f.exchange(config, "Authorization: Bearer "+testToken+"\r\n"); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("%q with the token: %q, %v", protocols, got, err)
		}
	}
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
	if got, err := f.exchange(old, "Authorization: Bearer "+testToken+"\r\n"); err == nil {
		t.Errorf("TLS 1.2: %q", got)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.address("tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/stop HTTP/1.1\r\nHost: h1\r\nAuthorization: Bearer "+testToken+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(conn); strings.Contains(string(got), "200 OK") || f.stopped.Load() {
		t.Errorf("without TLS: %q", got)
	}
}

// TestNoWayIn: without a secret and without a token the port is not opened.
func TestNoWayIn(t *testing.T) {
	f := newFixture(t)
	f.cfg.Listen = "127.0.0.1:0"
	stop := f.start()
	if _, err := f.client().Nodes(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	if f.server.mu.addresses["tcp"] != nil {
		t.Error("the port was opened")
	}
	want := "pcp.listen is not opened: it needs watchdog.secret_file or pcp.token_file address=127.0.0.1:0"
	if got := strings.Join(f.logged.all(), "\n"); !strings.Contains(got, want) {
		t.Errorf("logged:\n%s", got)
	}
}

func TestShortTokenIsRefused(t *testing.T) {
	f := newFixture(t)
	f.deps.Token = "hunter2"
	if _, err := New(f.cfg, f.deps); err == nil || !strings.Contains(err.Error(), "pcp.token_file") {
		t.Error(err)
	}
}

// TestSocketIsTakenOver: what a dead process left is removed; what another one has
// is awaited; and nothing of the kind ends the server.
func TestSocketIsTakenOver(t *testing.T) {
	first := newFixture(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: first.cfg.UnixSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	first.start()
	if _, err := first.client().Nodes(t.Context()); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(first.cfg.UnixSocket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	second := newFixture(t)
	second.cfg.UnixSocket = first.cfg.UnixSocket
	stop := second.start()
	late := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(strings.Join(second.logged.all(), "\n"), "another server has it") {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("logged: %q", second.logged.all())
		}
	}
	stop()
	if _, err := first.client().Nodes(t.Context()); err != nil {
		t.Errorf("the first server has lost its socket: %v", err)
	}
}

// TestExplained: what an operator reads when nobody answers.
func TestExplained(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		target Target
		want   string
	}{
		{Target{Socket: dir + "/none"}, "connect to " + dir + "/none: no such file or directory: is pgproxy running?"},
		{Target{Host: "127.0.0.1", Port: 1, SecretFile: ""}, "read secret file: open : no such file or directory"},
		{Target{Host: "127.0.0.1", Port: 1, SecretFile: "/dev/null"}, "secret file /dev/null does not have one line"},
	} {
		c, err := NewClient(tt.target)
		if err == nil {
			_, err = c.Nodes(t.Context())
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("%+v: %v, want %s", tt.target, err, tt.want)
		}
	}
}

// TestConnectionsAreBounded: those that say nothing keep no operator out for long.
func TestConnectionsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.start()
	socket := f.address("unix").String()
	var idle []net.Conn
	for range maxConnections {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	answered := make(chan error, 1)
	c := f.client()
	go func() {
		_, err := c.Nodes(t.Context())
		answered <- err
	}()
	for _, conn := range idle {
		_ = conn.Close()
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
