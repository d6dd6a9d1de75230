package watchdog

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/identity"
)

func TestStrangersAreRefused(t *testing.T) {
	g, leader := newLeased(t)
	address := g.cfg.member(leader.name).Address
	stranger, err := identity.New([]byte("another secret of another cluster"), "h2")
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	refused := func(name string, c io.Reader) {
		t.Helper()
		// TLS may say why before it closes; an answer to what was asked is longer.
		if data, err := io.ReadAll(c); len(data) > 100 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	for name, text := range map[string]string{
		"HTTP":    "POST /status HTTP/1.1\r\nHost: h1\r\nContent-Length: 2\r\n\r\n{}",
		"garbage": strings.Repeat("\x00\xff\x16\x03", 1000),
	} {
		c := dial()
		io.WriteString(c, text) // it may be closed before all is written
		refused(name, c)
	}
	for _, protocol := range []string{protocolRaft, protocolCall} {
		cfg := stranger.ClientTLS(protocol)
		cfg.InsecureSkipVerify = true
		c := tls.Client(dial(), cfg)
		io.WriteString(c, "POST /status HTTP/1.1\r\nHost: h1\r\nContent-Length: 2\r\n\r\n{}")
		refused("another secret, "+protocol, c)
	}

	// One who knows the secret and means another server, or is of another cluster.
	friend, err := identity.New(secret, "h2")
	if err != nil {
		t.Fatal(err)
	}
	n := leader.node.Load()
	for name, hello := range map[string]greeting{
		"old incarnation": {To: leader.name + "/0000000000000000", Cluster: n.cluster()},
		"other cluster":   {To: n.id, Cluster: "0000000000000000"},
		"no cluster":      {To: n.id},
	} {
		c := tls.Client(dial(), friend.ClientTLS(protocolRaft))
		if err := hello.write(c); err != nil {
			t.Fatal(err)
		}
		refused(name, c)
	}
	if _, _, ok := leader.Leading(); !ok {
		t.Error("the leader leads no more")
	}
}

func TestCallsAreReadStrictly(t *testing.T) {
	g, leader := newLeased(t)
	friend, err := identity.New(secret, "h2")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: friend.ClientTLS(protocolCall), DisableKeepAlives: true}}
	for _, c := range []struct{ verb, body, want string }{
		{"nonce", `{"to": "x", "term": 1, "nonce": "n"}`, "the nonce is for x"},
		{"nonce", `{"to": "x", "extra": 1}`, "unknown field"},
		{"propose", `{"command": {"kind": "dance"}}`, "unknown kind"},
		{"propose", `{"command": {"kind": "attach", "dance": 1}}`, "unknown field"},
		{"propose", `{`, "unexpected EOF"},
		{"hello", `{} {}`, "bytes after"},
		{"hello", `{"pad": "` + strings.Repeat("x", maxRequest) + `"}`, "too large"},
		{"lease", `{"id": "h9/0", "future": true}`, "not a member"},
		{"lease", fmt.Sprintf(`{"id": %q}`, leader.node.Load().id), "not a member"}, // h2 as another
		{"join", `{"id": "h9/0", "address": "10.0.0.1:9000"}`, "h2 asks for h9/0"},
		{"remove", `{"Name": "h9"}`, "not a member"},
	} {
		r, err := client.Post("https://"+g.cfg.member(leader.name).Address+"/"+c.verb, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Errorf("%s %.40s: %v", c.verb, c.body, err)
			continue
		}
		data, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode == http.StatusOK || !strings.Contains(string(data), c.want) {
			t.Errorf("%s %.40s: %s %s, want %q", c.verb, c.body, r.Status, data, c.want)
		}
	}
}
