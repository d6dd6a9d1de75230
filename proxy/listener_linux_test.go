package proxy

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// Every connection has the keepalive that is configured when it is accepted.
func TestKeepaliveOfClients(t *testing.T) {
	read := func(conn net.Conn) (k KeepaliveConfig) {
		rc, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = control(rc, func(fd int) error {
			if at, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); at != 1 || err != nil {
				t.Errorf("TCP_NODELAY %d, %v", at, err)
			}
			on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			if on == 0 || err != nil {
				return err
			}
			for option, seconds := range map[int]*time.Duration{unix.TCP_KEEPIDLE: &k.Idle, unix.TCP_KEEPINTVL: &k.Interval} {
				n, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, option)
				if err != nil {
					return err
				}
				*seconds = time.Duration(n) * time.Second
			}
			k.Count, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	seen := make(chan net.Conn)
	cfg := testConfig(t)
	s := serveTest(t, cfg, newFakeCluster(testState()), Deps{}, func(s *Server) {
		s.handle = func(_ context.Context, c *client) error {
			seen <- c.raw
			seen <- nil // it was looked at
			return c.tell(pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		}
	})
	first := cfg.Listen.Keepalive
	second := KeepaliveConfig{Idle: 7 * time.Second, Interval: 3 * time.Second, Count: 5}
	for _, want := range []KeepaliveConfig{first, first, second, second, {}, first} {
		changed := cfg
		changed.Listen.Keepalive = want
		s.cfg.Store(&changed)
		conn := dialTest(t, s.Addr())
		send(t, conn, startupFor("user", "a"))
		if got := read(<-seen); got != want {
			t.Errorf("keepalive %+v, want %+v", got, want)
		}
		<-seen
		wantIn(t, conn)
	}
}

func TestUnread(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for sent, want := range map[string]bool{"": false, "x": true} {
		client := dialTest(t, l.Addr())
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if unread(conn) {
			t.Error("input before anything was sent")
		}
		send(t, client, []byte(sent))
		client.Close()
		for quietSocket(conn) { // until it has crossed the loopback
		}
		if got := unread(conn); got != want {
			t.Errorf("after %q and the end: input %v", sent, got)
		}
		conn.Close()
	}
}
