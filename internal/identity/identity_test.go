package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

var (
	ours   = []byte("n0JSmWv3oXzPzMqzZ9nHqmEwIuN9V0b7V0aDq0xLw1k=")
	theirs = []byte("n0JSmWv3oXzPzMqzZ9nHqmEwIuN9V0b7V0aDq0xLw1l=")
)

func newIdentity(t *testing.T, secret []byte, member string) *Identity {
	t.Helper()
	i, err := New(secret, member)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// connect runs both sides of a handshake and one byte each way, and returns what
// each side ended with.
func connect(t *testing.T, server, client *tls.Config) (serverSide, clientSide tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	talk := func(c *tls.Conn, first bool) error {
		defer c.NetConn().Close()
		if err := c.HandshakeContext(context.Background()); err != nil {
			return err
		}
		one := []byte{1}
		if first {
			if _, err := c.Write(one); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, one); err != nil {
			return err
		}
		if !first {
			if _, err := c.Write(one); err != nil {
				return err
			}
		}
		return nil
	}
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serverErr = talk(s, false)
	}()
	clientErr = talk(c, true)
	<-done
	return s.ConnectionState(), c.ConnectionState(), serverErr, clientErr
}

func TestMembersKnowEachOther(t *testing.T) {
	h1, h2 := newIdentity(t, ours, "h1"), newIdentity(t, ours, "h2")
	s, c, serverErr, clientErr := connect(t, h1.ServerTLS("a", "b"), h2.ClientTLS("b"))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("connect: server %v, client %v", serverErr, clientErr)
	}
	if Peer(s) != "h2" || Peer(c) != "h1" {
		t.Errorf("the server sees %q, the client %q", Peer(s), Peer(c))
	}
	if s.NegotiatedProtocol != "b" || s.Version != tls.VersionTLS13 {
		t.Errorf("protocol %q, version %x", s.NegotiatedProtocol, s.Version)
	}
}

func TestAuthorityDependsOnTheSecretAlone(t *testing.T) {
	a, _, err := newAuthority(ours)
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := newAuthority(ours)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := newAuthority(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Raw, b.Raw) {
		t.Error("one secret made two authorities")
	}
	if bytes.Equal(a.Raw, other.Raw) {
		t.Error("two secrets made one authority")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	h1, stranger := newIdentity(t, ours, "h1"), newIdentity(t, theirs, "h2")
	nobody := h1.ClientTLS("b")
	nobody.Certificates = nil
	old := h1.ClientTLS("b")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	silent := h1.ClientTLS("b")
	silent.NextProtos, silent.VerifyConnection = nil, nil
	trusting := stranger.ClientTLS("b")
	trusting.InsecureSkipVerify = true
	for name, client := range map[string]*tls.Config{
		"other secret":                       stranger.ClientTLS("b"),
		"other secret, trusts every server":  trusting,
		"no certificate":                     nobody,
		"TLS 1.2":                            old,
		"no protocol":                        silent,
		"a protocol that the server has not": h1.ClientTLS("c"),
	} {
		t.Run(name, func(t *testing.T) {
			s, _, serverErr, _ := connect(t, h1.ServerTLS("a", "b"), client)
			if serverErr == nil {
				t.Errorf("the server let it in as %q", Peer(s))
			}
		})
	}
	t.Run("server of another secret", func(t *testing.T) {
		server := stranger.ServerTLS("b")
		server.ClientAuth = tls.NoClientCert
		_, _, _, clientErr := connect(t, server, h1.ClientTLS("b"))
		if clientErr == nil {
			t.Error("the client trusts it")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		secret []byte
		member string
		want   string
	}{
		"short secret": {[]byte("secret"), "h1", "too short"},
		"no name":      {ours, "", "name"},
		"long name":    {ours, strings.Repeat("h", 65), "longer"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(c.secret, c.member); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
