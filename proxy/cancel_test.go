package proxy

import (
	"net"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// cancelServer reports the CancelRequests that it gets.
func cancelServer(t *testing.T) (*fakeServer, chan []byte) {
	got := make(chan []byte, 1)
	return newFakeServer(t, func(conn net.Conn) { got <- readStartup(conn) }), got
}

func loanOn(address string, pid uint32) *serverConn {
	return &serverConn{link: &link{address: address, pid: pid, secret: []byte("real")}}
}

func TestCancelGoesToTheRightServer(t *testing.T) {
	first, gotFirst := cancelServer(t)
	second, gotSecond := cancelServer(t)
	s := serveTest(t, testConfig(t), newFakeCluster(testState()), Deps{}, nil)
	s.dialer.tls = &backTLS{mode: SSLDisable}
	// Two sessions on two servers that happen to have equal process ids.
	key1, end1 := s.cancels.register(42, false, loanTarget{loanOn(first.address, 42)})
	key2, end2 := s.cancels.register(42, true, loanTarget{loanOn(second.address, 7)})
	defer end1()
	if len(key1) != 4 || len(key2) != 32 {
		t.Fatalf("keys of %d and %d bytes", len(key1), len(key2))
	}
	cancel := func(pid uint32, secret []byte) {
		conn := dialTest(t, s.Addr())
		send(t, conn, pgwire.AppendCancelRequest(nil, pid, secret))
		wantClosed(t, conn)
	}
	want := func(got chan []byte, pid uint32) {
		t.Helper()
		p, secret, ok := pgwire.ReadCancelRequest(<-got)
		if p != pid || string(secret) != "real" || !ok {
			t.Errorf("server got %d %q", p, secret)
		}
	}
	cancel(42, key1)
	want(gotFirst, 42)
	cancel(42, key2)
	want(gotSecond, 7)

	end2()
	cancel(42, key2)
	cancel(43, key1)
	cancel(42, append([]byte{key1[0] + 1}, key1[1:]...))
	cancel(42, append(key1, 0))
	if n := first.dials.Load() + second.dials.Load(); n != 2 {
		t.Errorf("%d requests were forwarded, want 2", n)
	}
}

// noTarget is a session with which no server is busy.
type noTarget struct{}

func (noTarget) cancelTarget() *serverConn { return nil }

func TestCancelWithoutServer(t *testing.T) {
	r := newCancelRegistry(&dialer{tls: &backTLS{mode: SSLDisable}})
	key, end := r.register(1, false, noTarget{})
	if err := r.cancel(t.Context(), 1, key); err != nil {
		t.Error(err)
	}
	ended := loanOn("127.0.0.1:1", 1)
	ended.end()
	key2, end2 := r.register(1, false, loanTarget{ended})
	if err := r.cancel(t.Context(), 1, key2); err != nil {
		t.Error(err)
	}
	end()
	end2()
	if len(r.mu.byPID) != 0 {
		t.Errorf("%d process ids left", len(r.mu.byPID))
	}
}
