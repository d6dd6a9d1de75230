package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// takenBytes counts what the peer's kernel has taken of what was written to a TCP
// connection (tcp(7), TCP_INFO). For a Unix socket it is 0: there only the end of a
// write tells that the peer reads.
func takenBytes(conn net.Conn) (n uint64) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	_ = rc.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_acked
		}
	})
	return n
}
