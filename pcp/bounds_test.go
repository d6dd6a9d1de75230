package pcp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/identity"
)

// pipes is a listener whose connections live in the bubble of a test.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// bubble serves on pipes with synthetic time.
func bubble(t *testing.T, test func(t *testing.T, f *fixture, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.deps.Token = testToken
		var err error
		if f.server, err = New(f.cfg, f.deps); err != nil {
			t.Fatal(err)
		}
		p := newPipes()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.server.serve(ctx, p) }()
		test(t, f, p)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// handshake makes the TLS of one who has the token.
func handshake(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	id, err := identity.New([]byte(testToken), "test")
	if err != nil {
		t.Fatal(err)
	}
	secure := tls.Client(conn, id.ClientTLS(tokenProtocol))
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	return secure
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

const headers = " HTTP/1.1\r\nHost: h1\r\nAuthorization: Bearer " + testToken + "\r\n"

// TestSilenceIsBounded: who says nothing is disconnected, wherever he stops.
func TestSilenceIsBounded(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, conn net.Conn) net.Conn{
		"before the handshake": func(_ *testing.T, conn net.Conn) net.Conn { return conn },
		"before the header":    handshake,
		"in the header": func(t *testing.T, conn net.Conn) net.Conn {
			conn = handshake(t, conn)
			send(t, conn, "POST /v1/detach"+headers)
			return conn
		},
		"in the body": func(t *testing.T, conn net.Conn) net.Conn {
			conn = handshake(t, conn)
			send(t, conn, "POST /v1/detach"+headers+"Content-Length: 13\r\n\r\n{\"node\":")
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture, p *pipes) {
				conn := p.dial()
				defer conn.Close()
				began := time.Now()
				_, _ = io.Copy(io.Discard, begin(t, conn))
				if took := time.Since(began); took < readTimeout || took > 2*readTimeout {
					t.Errorf("disconnected after %v", took)
				}
				if f.log.State().Backend("h2").Status != cluster.StatusUp {
					t.Error("half an order was carried out")
				}
			})
		})
	}
}

// TestReaderIsBounded: who does not read his stream is disconnected.
func TestReaderIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, _ *fixture, p *pipes) {
		raw := p.dial()
		defer raw.Close()
		conn := handshake(t, raw)
		send(t, conn, "GET /v1/nodes?watch=1"+headers+"\r\n")
		lines := bufio.NewReader(conn)
		for range 12 { // the header, and the first items
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if lines.Buffered() == 0 {
				break
			}
		}
		// The write, and crypto/tls's own to say goodbye.
		<-time.After(aliveEvery + writeTimeout + 10*time.Second)
		_ = raw.SetWriteDeadline(time.Now().Add(time.Minute))
		if _, err := raw.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("still connected: %v", err)
		}
	})
}

// TestServerIsBounded: a client does not wait for ever for a server that is frozen.
func TestServerIsBounded(t *testing.T) {
	for name, answer := range map[string]string{
		"no answer":    "",
		"no more":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n",
		"half an item": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"i\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := net.Pipe()
					go func() {
						_, _ = http.ReadRequest(bufio.NewReader(theirs))
						_, _ = io.WriteString(theirs, answer)
						_, _ = io.Copy(io.Discard, theirs)
						_ = theirs.Close()
					}()
					return ours, nil
				}}
				c := &Client{http: &http.Client{Transport: transport}, base: "http://h1", server: "h1"}
				began := time.Now()
				_, err := c.Recover(t.Context(), "h2", false, func(Progress) error { return nil })
				if !errors.Is(err, ErrInterrupted) || !strings.Contains(err.Error(), "h1 has gone silent") {
					t.Error(err)
				}
				if took := time.Since(began); took > answerTimeout {
					t.Errorf("after %v", took)
				}
				if answer != "" {
					return
				}
				_, err = c.Nodes(t.Context())
				if err == nil || err.Error() != "h1 has not answered within 30s" {
					t.Error(err)
				}
			})
		})
	}
}
