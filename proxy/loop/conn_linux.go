package loop

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a socket that a loop watches. Reading and writing never block. It may be used
// by several goroutines; what they read and write is in no order then.
type Conn struct {
	handler Handler

	mu struct {
		sync.Mutex
		loop     *Loop
		place    int32 // in the loop, with
		gen      uint32
		fd       int  // -1: closed
		waits    bool // in again of a loop
		readable bool // since the last event not all was read
		ended    bool // the peer has closed, or the socket has an error: no other event comes
		blocked  bool // a write did not take everything; EPOLLOUT is asked for
	}
}

// watched are the events of a connection: edge-triggered, and the peer's end of stream
// apart from its bytes.
const watched = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff

// Add has the loop watch a non-blocking stream socket, whose descriptor it owns from now
// on, also after an error. c is zero and gets the connection.
func (l *Loop) Add(c *Conn, fd int, h Handler) error {
	c.handler = h
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.fd = fd
	return c.join(l)
}

// join has a loop watch the connection; after an error it is closed. The lock is held.
func (c *Conn) join(l *Loop) error {
	c.mu.loop = l
	err := l.enter(c)
	if err == nil {
		ev := event(watched, c.mu.place, c.mu.gen)
		if err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, c.mu.fd, &ev); err == nil {
			return nil
		}
		l.leave(c.mu.place)
	}
	_ = unix.Close(c.mu.fd)
	c.mu.fd = -1
	return fmt.Errorf("add a connection to a loop: %w", err)
}

// On reports that it is that loop which watches the connection.
func (c *Conn) On(l *Loop) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.loop == l
}

// Move has another loop watch the connection, of which nothing is under way: what was
// written has been taken. After an error it is closed.
func (c *Conn) Move(to *Loop) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.fd < 0:
		return ErrClosed
	case c.mu.loop == to:
		return nil
	}
	_ = unix.EpollCtl(c.mu.loop.epoll, unix.EPOLL_CTL_DEL, c.mu.fd, nil) // fails only on a bad descriptor
	c.mu.loop.leave(c.mu.place)
	c.mu.blocked = false
	return c.join(to)
}

// Resume has the handler told again of what there is to read, after it had returned false.
func (c *Conn) Resume() {
	c.mu.Lock()
	l, pending := c.mu.loop, c.pending()
	c.mu.Unlock()
	if pending {
		l.Post(c)
	}
}

// Again has the next Read, or Resume, look at the socket although nothing is known to be
// there: who reads keeps something of what came.
func (c *Conn) Again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.readable = true
}

// Turn tells the handler of what there is to read.
func (c *Conn) Turn(l *Loop) {
	c.mu.Lock()
	pending := c.pending()
	c.mu.Unlock()
	if pending {
		c.tell(l)
	}
}

// pending reports that there may be something to read, or that the handler does not know
// yet that the connection is closed. The lock is held.
func (c *Conn) pending() bool { return c.mu.readable || c.mu.fd < 0 }

// tell calls the handler, and has it called in the next turn if it wants that.
func (c *Conn) tell(l *Loop) {
	if !c.handler.Readable(l) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.waits && c.pending() {
		c.mu.waits = true
		l.again = append(l.again, c)
	}
}

// turnAgain is the turn of a connection in again.
func (c *Conn) turnAgain(l *Loop) {
	c.mu.Lock()
	c.mu.waits = false
	c.mu.Unlock()
	c.Turn(l)
}

// notice takes an event.
func (c *Conn) notice(l *Loop, events uint32) {
	c.mu.Lock()
	if c.mu.fd < 0 {
		c.mu.Unlock()
		return
	}
	readable := events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	if readable {
		c.mu.readable = true
		c.mu.ended = c.mu.ended || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	}
	writable := c.mu.blocked && events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0
	if writable {
		c.unblock()
	}
	c.mu.Unlock()
	if writable {
		c.handler.Writable(l)
	}
	if readable {
		c.tell(l)
	}
}

// unblock asks for EPOLLOUT no more. The lock is held.
func (c *Conn) unblock() {
	c.mu.blocked = false
	ev := event(watched, c.mu.place, c.mu.gen)
	_ = unix.EpollCtl(c.mu.loop.epoll, unix.EPOLL_CTL_MOD, c.mu.fd, &ev) // fails only on a bad descriptor
}

// Read reads what is there; 0 and no error: nothing is. The error is io.EOF, ErrClosed or
// a syscall.Errno.
func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.fd < 0:
		return 0, ErrClosed
	case !c.mu.readable || len(b) == 0:
		return 0, nil
	}
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.mu.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			c.mu.readable = false
			return 0, nil
		case e != 0:
			return 0, e
		case n == 0:
			return 0, io.EOF
		}
		// Less than asked for: that was all (epoll(7), "Questions and answers").
		c.mu.readable = int(n) == len(b) || c.mu.ended
		return int(n), nil
	}
}

// Quiet reports that the connection is open and there is nothing to read.
func (c *Conn) Quiet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, e := c.peek()
	if e == unix.EAGAIN {
		c.mu.readable = false
	}
	return e == unix.EAGAIN
}

// peek looks whether a byte is there, and leaves it. The lock is held.
func (c *Conn) peek() (n int, e syscall.Errno) {
	if c.mu.fd < 0 {
		return 0, unix.EBADF
	}
	var b [1]byte
	for {
		r, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.mu.fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK, 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// Unread reports that something has come that was not read.
func (c *Conn) Unread() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, e := c.peek() // its event may not have been seen yet
	return e == 0 && n > 0
}

// Accept takes a connection of a listening socket, which is non-blocking; -1 and no error:
// there is none. from is zero for a Unix socket.
func (c *Conn) Accept() (fd int, from netip.AddrPort, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.fd < 0 {
		return -1, from, ErrClosed
	}
	for {
		// That of package unix asks for the protocol, too.
		fd, sa, err := syscall.Accept4(c.mu.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		switch {
		case err == nil:
			return fd, addrPort(sa), nil
		case errors.Is(err, unix.EAGAIN):
			c.mu.readable = false
			return -1, from, nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED):
			return -1, from, err
		}
	}
}

// addrPort returns the address of a TCP socket.
func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(a.ZoneId), 10))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// LocalAddr returns the address of a TCP socket on this side; zero: it is none, or closed.
func (c *Conn) LocalAddr() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	sa, err := syscall.Getsockname(c.mu.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// Release has the loop watch the connection no more and gives its descriptor away. What
// the handler returns and does has no effect any more.
func (c *Conn) Release() (fd int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fd = c.mu.fd; fd < 0 {
		return -1, ErrClosed
	}
	_ = unix.EpollCtl(c.mu.loop.epoll, unix.EPOLL_CTL_DEL, fd, nil) // fails only on a bad descriptor
	c.mu.loop.leave(c.mu.place)
	c.mu.fd = -1
	return fd, nil
}

// maxPieces is how many pieces one system call takes.
const maxPieces = 16

// Write writes the pieces one after the other, as far as the socket takes them. n less
// than their length without an error: the rest is to be written when Writable is called.
func (c *Conn) Write(pieces [][]byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(pieces) > 0 {
		switch {
		case c.mu.fd < 0:
			return n, ErrClosed
		case c.mu.blocked:
			return n, nil
		}
		some := pieces[:min(len(pieces), maxPieces)]
		pieces = pieces[len(some):]
		want, sent := 0, 0
		for _, p := range some {
			want += len(p)
		}
		for sent < want {
			k, e := writev(c.mu.fd, some, sent)
			switch {
			case e == unix.EINTR:
				continue
			case e == unix.EAGAIN:
				return n, c.block()
			case e != 0:
				return n, e
			}
			sent += k
			n += k
		}
	}
	return n, nil
}

// block asks to be told when the socket takes more. The lock is held.
func (c *Conn) block() error {
	ev := event(watched|unix.EPOLLOUT, c.mu.place, c.mu.gen)
	if err := unix.EpollCtl(c.mu.loop.epoll, unix.EPOLL_CTL_MOD, c.mu.fd, &ev); err != nil {
		return err
	}
	c.mu.blocked = true
	return nil
}

// writev writes the pieces without their first skip bytes.
func writev(fd int, pieces [][]byte, skip int) (int, syscall.Errno) {
	var vec [maxPieces]unix.Iovec
	k := 0
	for _, p := range pieces {
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		vec[k].Base = &p[skip]
		vec[k].SetLen(len(p) - skip)
		skip = 0
		k++
	}
	if k == 1 {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(vec[0].Base)), uintptr(vec[0].Len), unix.MSG_NOSIGNAL, 0, 0)
		return int(n), e
	}
	msg := unix.Msghdr{Iov: &vec[0]}
	msg.SetIovlen(k)
	n, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_NOSIGNAL)
	return int(n), e
}

// CloseWrite ends the stream to the peer.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.fd < 0 {
		return ErrClosed
	}
	return unix.Shutdown(c.mu.fd, unix.SHUT_WR)
}

// Control calls f with the descriptor, which stays open meanwhile.
func (c *Conn) Control(f func(fd uintptr)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.fd < 0 {
		return ErrClosed
	}
	f(uintptr(c.mu.fd))
	return nil
}

// Close closes the connection. It may be called more than once and by any goroutine. The
// handler is told.
func (c *Conn) Close() error {
	c.mu.Lock()
	fd := c.mu.fd
	if fd < 0 {
		c.mu.Unlock()
		return nil
	}
	c.mu.fd = -1
	err := unix.Close(fd)
	l := c.mu.loop
	l.leave(c.mu.place)
	c.mu.Unlock()
	l.Post(c)
	return err
}

// Dup returns a descriptor of its own for the socket of a connection, which may be closed
// then: the runtime's poller does not watch it.
func Dup(conn syscall.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return -1, cerr
	}
	return fd, err
}
