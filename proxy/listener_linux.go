package proxy

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dataWait is how long the kernel keeps a connection to itself whose client has not sent
// anything, in seconds. It counts in retransmissions, the first of which comes after a
// second.
const dataWait = 1

// awaitData has a listening socket give out connections when there is something to read
// (tcp(7), TCP_DEFER_ACCEPT): it is the client who begins, and to wait for its first packet
// after accept costs a turn of the scheduler.
func awaitData(rc syscall.RawConn) error {
	return control(rc, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, dataWait)
	})
}

// sendAtOnce has a listening socket give out connections that do not wait for more to send
// (tcp(7), TCP_NODELAY), as package net does it for each.
func sendAtOnce(rc syscall.RawConn) error {
	return control(rc, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	})
}

// passOn sets the keepalive of a listening socket, which the connections that come later
// inherit (tcp(7), "Socket options").
func passOn(rc syscall.RawConn, k KeepaliveConfig) error {
	return control(rc, func(fd int) error { return keepAlive(fd, k) })
}

// keepAlive sets the keepalive of a socket.
func keepAlive(fd int, k KeepaliveConfig) error {
	if k.Idle <= 0 {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	}
	for _, o := range []struct{ level, option, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(k.Idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(k.Interval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Count},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return err
		}
	}
	return nil
}

// control calls f with the socket.
func control(rc syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
