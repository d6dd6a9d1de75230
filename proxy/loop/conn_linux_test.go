package loop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadsAll: whatever the size of a read and of what comes, nothing is lost at an edge,
// and the end comes after all bytes.
func TestReadsAll(t *testing.T) {
	for _, buffer := range []int{7, 1000, BufferLen} {
		l, _ := start(t)
		c := newCollector(buffer)
		fd, peer := pair(t)
		must(t, l.Add(&c.Conn, fd, c))
		r, sent := random(t, 300_000)
		must(t, sendAll(r, peer, sent))
		<-c.ended
		if !bytes.Equal(c.got.Bytes(), sent) || !errors.Is(c.err, io.EOF) {
			t.Errorf("buffer of %d: %d bytes of %d, then %v", buffer, c.got.Len(), len(sent), c.err)
		}
	}
}

// TestEndBeforeAdd: what came before a connection is watched, and its end, are told too.
func TestEndBeforeAdd(t *testing.T) {
	l, _ := start(t)
	fd, peer := pair(t)
	_, err := peer.WriteString("last")
	must(t, err)
	must(t, peer.Close())
	c := newCollector(3)
	must(t, l.Add(&c.Conn, fd, c))
	<-c.ended
	if c.got.String() != "last" || !errors.Is(c.err, io.EOF) {
		t.Errorf("%q, then %v", c.got.String(), c.err)
	}
}

// TestReset: a connection that is reset is told as an error, and can be written to no more.
func TestReset(t *testing.T) {
	l, _ := start(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	server, err := listener.Accept()
	must(t, err)
	fd, err := Dup(server.(syscall.Conn))
	must(t, err)
	must(t, server.Close())
	c := newCollector(100)
	must(t, l.Add(&c.Conn, fd, c))
	must(t, client.(*net.TCPConn).SetLinger(0))
	must(t, client.Close())
	<-c.ended
	if !errors.Is(c.err, unix.ECONNRESET) {
		t.Errorf("read: %v", c.err)
	}
	if _, err := c.Write([][]byte{{1}}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

// TestWritesAll: what the peer does not take is left to the writer, who is told when there
// is room, until all has arrived in its order, however the kernel cuts it.
func TestWritesAll(t *testing.T) {
	l, _ := start(t)
	r, rest := random(t, 8_000_000)
	want := slices.Clone(rest)
	var c *Conn
	told := 0
	write := func(*Loop) {
		told++
		for len(rest) > 0 && c.takes() {
			var pieces [][]byte
			for b := rest; len(b) > 0 && len(pieces) < 3*maxPieces; {
				n := min(len(b), r.IntN(30_000)) // empty ones, too
				pieces, b = append(pieces, b[:n]), b[n:]
			}
			n, err := c.Write(pieces)
			if err != nil {
				t.Errorf("write: %v", err)
				return
			}
			rest = rest[n:]
		}
	}
	c, peer := add(t, l, &handler{writable: write})
	do(l, func(l *Loop) {
		write(l)
		if n, err := c.Write([][]byte{{1}}); n != 0 || err != nil {
			t.Errorf("write to a connection that is full: %d, %v", n, err)
		}
	})
	got := make([]byte, len(want))
	_, err := io.ReadFull(peer, got) // while more is written
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("other bytes arrived than were written")
	}
	do(l, func(*Loop) {
		if told < 3 {
			t.Errorf("told %d times", told)
		}
	})
}

// takes reports that the last write has taken everything.
func (c *Conn) takes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.mu.blocked
}

// TestWriterIsToldOfTheEnd: one who waits for room learns that none will come.
func TestWriterIsToldOfTheEnd(t *testing.T) {
	l, _ := start(t)
	var c *Conn
	got := make(chan error, 1)
	c, peer := add(t, l, &handler{writable: func(*Loop) {
		_, err := c.Write([][]byte{{1}})
		got <- err
	}})
	do(l, func(*Loop) {
		for c.takes() {
			_, err := c.Write([][]byte{make([]byte, 100_000)})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	must(t, peer.Close())
	if err := <-got; err == nil {
		t.Error("written to a peer that has gone")
	}
}

// TestCloseByAnother: the handler is told when somebody else has closed the connection,
// also with nothing to read; to close it again does nothing.
func TestCloseByAnother(t *testing.T) {
	l, _ := start(t)
	c := newCollector(100)
	fd, _ := pair(t)
	must(t, l.Add(&c.Conn, fd, c))
	if n := l.Conns(); n != 1 {
		t.Errorf("%d connections", n)
	}
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(func() { _ = c.Close() })
	}
	closers.Wait()
	<-c.ended
	if !errors.Is(c.err, ErrClosed) {
		t.Errorf("read: %v", c.err)
	}
	if _, err := c.Write([][]byte{{1}}); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := c.Move(l); !errors.Is(err, ErrClosed) {
		t.Errorf("move: %v", err)
	}
	if n := l.Conns(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestPlaceOfAnother: an event is not told to a connection that has got the place and the
// descriptor of the one it was for: while it was fetched, or while others were served.
func TestPlaceOfAnother(t *testing.T) {
	for _, while := range []string{"fetched", "served"} {
		l, err := New(nil, func() int64 { return 0 })
		must(t, err)
		fd, peer := pair(t)
		newFD, _ := pair(t)
		var old, next Conn
		told := false
		must(t, l.Add(&old, fd, &handler{}))
		_, err = peer.Write([]byte{1})
		must(t, err)
		n, err := l.wait()
		must(t, err)
		replace := func() {
			must(t, old.Close())
			must(t, unix.Dup3(newFD, fd, unix.O_CLOEXEC))
			must(t, unix.Close(newFD))
			must(t, l.Add(&next, fd, &handler{readable: func(*Loop) bool {
				told = true
				return false
			}}))
		}
		if while == "fetched" {
			replace()
		}
		l.fetch(n)
		if while == "served" {
			replace()
		}
		l.serve(n)
		if next.mu.place != old.mu.place || told {
			t.Errorf("%s: place %d for %d, told of what another connection has got: %v", while, next.mu.place, old.mu.place, told)
		}
		l.shut()
	}
}

// TestMove: a connection that goes from loop to loop loses nothing, what was pending is
// read by the new one.
func TestMove(t *testing.T) {
	loops := make([]*Loop, 3)
	for i := range loops {
		loops[i], _ = start(t)
	}
	var mu sync.Mutex
	c := newCollector(5000)
	fd, peer := pair(t)
	served := make(chan struct{}, 1)
	h := &handler{readable: func(l *Loop) bool { // both loops may call it during a move
		mu.Lock()
		defer mu.Unlock()
		select {
		case served <- struct{}{}:
		default:
		}
		return c.Readable(l)
	}}
	must(t, loops[0].Add(&c.Conn, fd, h))
	r, sent := random(t, 2_000_000)
	var sending sync.WaitGroup
	sending.Go(func() {
		if err := sendAll(rand.New(rand.NewPCG(1, 0)), peer, sent); err != nil {
			t.Error(err)
		}
	})
	for moving := true; moving; {
		select {
		case <-c.ended:
			moving = false
		case <-served: // else the mover keeps the processor from the loops
			to := loops[r.IntN(len(loops))]
			must(t, c.Move(to))
			if !c.On(to) {
				t.Error("not where it was moved to")
			}
		}
	}
	sending.Wait()
	if !bytes.Equal(c.got.Bytes(), sent) || !errors.Is(c.err, io.EOF) {
		t.Errorf("%d bytes of %d, then %v", c.got.Len(), len(sent), c.err)
	}
	if n := loops[0].Conns() + loops[1].Conns() + loops[2].Conns(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestMoveIsServedThere: what came before the move, and was not read, is told by the new
// loop.
func TestMoveIsServedThere(t *testing.T) {
	from, _ := start(t)
	to, _ := start(t)
	by := make(chan *Loop, 10)
	c, peer := add(t, from, &handler{readable: func(l *Loop) bool {
		by <- l
		return false
	}})
	_, err := peer.Write([]byte{1})
	must(t, err)
	if l := <-by; l != from {
		t.Error("not told by its own loop")
	}
	turns(from)
	must(t, c.Move(to))
	if l := <-by; l != to {
		t.Error("not told by the loop that it was moved to")
	}
}

// TestResume: a handler that does not want more is not told again of what it has left,
// until Resume, and not by Resume when there is nothing.
func TestResume(t *testing.T) {
	l, _ := start(t)
	told := 0
	var c *Conn
	c, peer := add(t, l, &handler{readable: func(*Loop) bool {
		told++
		return false
	}})
	check := func(want int) {
		t.Helper()
		turns(l)
		do(l, func(*Loop) {
			if told != want {
				t.Errorf("told %d times, want %d", told, want)
			}
		})
	}
	c.Resume()
	check(0)
	_, err := peer.Write([]byte{1})
	must(t, err)
	check(1)
	c.Resume()
	check(2)
	if !c.Unread() || c.Quiet() {
		t.Error("a byte that nobody has read is not seen")
	}
	if n, err := c.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("read: %d, %v", n, err)
	}
	if c.Unread() || !c.Quiet() {
		t.Error("a byte is seen that was read")
	}
	c.Resume()
	check(2)
}

// TestUnreadBeforeItsEvent: a byte is seen as soon as it is there.
func TestUnreadBeforeItsEvent(t *testing.T) {
	l, _ := start(t)
	c, peer := add(t, l, &handler{})
	do(l, func(*Loop) { // no event is taken meanwhile
		if _, err := peer.Write([]byte{1}); err != nil || !c.Unread() {
			t.Errorf("not seen (%v)", err)
		}
	})
}

// acceptor accepts what comes, up to a number of connections each turn.
type acceptor struct {
	Conn
	atOnce int
	got    chan accepted
}

type accepted struct {
	fd   int
	from netip.AddrPort
	err  error
}

func (a *acceptor) Readable(*Loop) (again bool) {
	for range a.atOnce {
		fd, from, err := a.Accept()
		if fd < 0 && err == nil {
			return false
		}
		a.got <- accepted{fd, from, err}
		if err != nil {
			return false
		}
	}
	return true
}

func (*acceptor) Writable(*Loop) {}

// All who connect are accepted, those too that came before the loop watched the listener,
// with the addresses that they have.
func TestAccept(t *testing.T) {
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "s")} {
		l, stop := start(t)
		listener, err := net.Listen(network, address)
		must(t, err)
		defer listener.Close()
		var clients []net.Conn
		dial := func() {
			c, err := net.Dial(network, listener.Addr().String())
			must(t, err)
			clients = append(clients, c)
			t.Cleanup(func() { c.Close() })
		}
		for range 3 {
			dial()
		}
		fd, err := Dup(listener.(syscall.Conn))
		must(t, err)
		a := &acceptor{atOnce: 2, got: make(chan accepted, 100)}
		must(t, l.Add(&a.Conn, fd, a))
		turns(l)
		dial()
		dial()
		for i, client := range clients {
			got := <-a.got
			must(t, got.err)
			peer := os.NewFile(uintptr(got.fd), "accepted")
			defer peer.Close()
			conn, err := net.FileConn(peer)
			must(t, err)
			defer conn.Close()
			want := netip.AddrPort{}
			if tcp, ok := client.LocalAddr().(*net.TCPAddr); ok {
				want = tcp.AddrPort()
			}
			if got.from != want {
				t.Errorf("%s: connection %d comes from %v, want %v", network, i, got.from, want)
			}
			var b [1]byte
			_, err = client.Write([]byte{byte(i)})
			must(t, err)
			if _, err := io.ReadFull(conn, b[:]); err != nil || b[0] != byte(i) {
				t.Errorf("%s: connection %d carries %d, %v", network, i, b[0], err)
			}
		}
		must(t, a.Close())
		if got := <-a.got; !errors.Is(got.err, ErrClosed) {
			t.Errorf("%s: after the end %v", network, got.err)
		}
		stop()
	}
}

// What was released belongs to whoever has the descriptor: the loop is told nothing, and
// Close closes nothing.
func TestRelease(t *testing.T) {
	l, _ := start(t)
	told := make(chan struct{}, 10)
	h := &handler{readable: func(*Loop) bool { told <- struct{}{}; return false }}
	c, peer := add(t, l, h)
	fd, err := c.Release()
	must(t, err)
	must(t, c.Close())
	_, err = peer.Write([]byte("x"))
	must(t, err)
	turns(l)
	if len(told) > 0 || l.Conns() != 0 {
		t.Errorf("told %d times of a connection that it does not have, which has %d", len(told), l.Conns())
	}
	var b [1]byte
	if n, err := unix.Read(fd, b[:]); n != 1 || err != nil || b[0] != 'x' {
		t.Errorf("read %d %q, %v", n, b, err)
	}
	must(t, unix.Close(fd))
	if _, err := c.Release(); !errors.Is(err, ErrClosed) {
		t.Errorf("released twice: %v", err)
	}
}
