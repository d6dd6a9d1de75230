//go:build unix

package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketCheck returns a function that tells whether a socket is open and has nothing
// to read, by one system call that takes nothing from it. One goroutine may call it at
// a time.
func socketCheck(conn net.Conn) func() bool {
	no := func() bool { return false }
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return no
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return no
	}
	quiet := false
	fds := make([]unix.PollFd, 1)
	look := func(fd uintptr) {
		fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n, err := unix.Poll(fds, 0)
		for err == unix.EINTR {
			n, err = unix.Poll(fds, 0)
		}
		quiet = n == 0 && err == nil
	}
	return func() bool {
		quiet = false
		return rc.Control(look) == nil && quiet
	}
}

// unread tells whether a socket has input that nobody has read.
func unread(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	there := 0
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		there, _, _ = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && there > 0
}
