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
	var b [1]byte
	quiet := false
	peek := func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN || err == unix.EWOULDBLOCK
		return true
	}
	return func() bool {
		quiet = false
		return rc.Read(peek) == nil && quiet
	}
}
