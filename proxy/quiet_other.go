//go:build !unix

package proxy

import (
	"errors"
	"net"
	"os"
	"time"
)

// socketCheck returns a function that tells whether a socket is open and has nothing
// to read. Without a way to look, it waits for a moment.
func socketCheck(conn net.Conn) func() bool {
	return func() bool {
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return false
		}
		var b [1]byte
		n, err := conn.Read(b[:])
		return n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && conn.SetReadDeadline(time.Time{}) == nil
	}
}

// unread tells whether a socket may have input that nobody has read.
func unread(conn net.Conn) bool { return !quietSocket(conn) }
