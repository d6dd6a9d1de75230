package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"
)

// quietConn tells whether an idle connection is open and its peer has sent
// nothing. It does not block, and consumes only what makes it answer no.
func quietConn(conn, raw net.Conn) bool {
	if _, ok := conn.(*tls.Conn); ok {
		// What TLS has already deciphered is given out even though the deadline has
		// passed; then the deadline strikes before any system call.
		if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			return false
		}
		var b [1]byte
		if n, err := conn.Read(b[:]); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return false
		}
	}
	return quietSocket(raw)
}
