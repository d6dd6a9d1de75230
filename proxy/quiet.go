package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"
)

// quietCheck returns a function that tells whether an idle connection is open and its
// peer has sent nothing. It does not block, and consumes only what makes it answer no.
func quietCheck(conn, raw net.Conn) func() bool {
	quiet := socketCheck(raw)
	if _, ok := conn.(*tls.Conn); !ok {
		return quiet
	}
	return func() bool { return quietTLS(conn) && quiet() }
}

// quietSocket tells whether a socket is open and has nothing to read.
func quietSocket(conn net.Conn) bool { return socketCheck(conn)() }

// quietTLS tells whether TLS has nothing deciphered that nobody has read.
func quietTLS(conn net.Conn) bool {
	// What it has is given out even though the deadline has passed; then the deadline
	// strikes before any system call.
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return false
	}
	var b [1]byte
	if n, err := conn.Read(b[:]); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	return conn.SetReadDeadline(time.Time{}) == nil
}
