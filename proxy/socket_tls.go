package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"github.com/pgproxy/pgproxy/proxy/loop"
)

// carrier is what TLS is above: a connection that blocks, for the handshake, and then, where
// an event loop watches it, a socket that does not. crypto/tls keeps what it has read of a
// record when a read fails for now, but gives up after a write that fails or is short:
// what the socket does not take of a record waits here.
type carrier struct {
	net.Conn
	sock    *socket // nil: Conn is used
	records *[]byte // gather what is written; nil: it is sent at once
	rest    []byte  // of what was sent
}

// carrierOf returns what is below a connection with TLS; nil: it has none.
func carrierOf(conn net.Conn) *carrier {
	if secured, ok := conn.(*tls.Conn); ok {
		return secured.NetConn().(*carrier)
	}
	return nil
}

// errNothing is the answer of a carrier that has nothing to read now: to crypto/tls an
// error that passes.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// Read reads what is there.
func (c *carrier) Read(b []byte) (int, error) {
	if c.sock == nil {
		return c.Conn.Read(b)
	}
	n, err := c.sock.conn.Read(b)
	if n == 0 && err == nil && len(b) > 0 {
		err = errNothing
	}
	return n, err
}

// Write takes all, but for an error.
func (c *carrier) Write(b []byte) (int, error) {
	if c.sock == nil {
		return c.Conn.Write(b)
	}
	if c.records != nil {
		*c.records = append(*c.records, b...)
		return len(b), nil
	}
	return len(b), c.send(b)
}

// send writes what the socket takes; the rest waits.
func (c *carrier) send(b []byte) error {
	n := 0
	if len(c.rest) == 0 {
		var err error
		if n, err = c.sock.putRaw([][]byte{b}); err != nil {
			return err
		}
	}
	c.rest = append(c.rest, b[n:]...)
	return nil
}

// flush writes what waits, as far as the socket takes it.
func (c *carrier) flush() error {
	if len(c.rest) == 0 {
		return nil
	}
	n, err := c.sock.putRaw([][]byte{c.rest})
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return err
}

// secure puts TLS above a socket, which nothing uses yet.
func (k *socket) secure(conn *tls.Conn, under *carrier) {
	k.tls, k.under = conn, under
	under.sock = k
}

// takeTLS is take with TLS: all that has come, or as much as there is room for.
func (k *socket) takeTLS(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var r int
		r, err = k.tls.Read(b[n:])
		n += r
	}
	if errors.Is(err, errNothing) {
		return n, nil
	}
	if n > 0 { // the rest, or the error again, in the next turn
		k.conn.Again()
		err = nil
	}
	return n, err
}

// maxRecord is what one record of TLS holds at most, in bytes.
const maxRecord = 16 << 10

// maxGathered is how much is encrypted for one system call at most, in bytes.
const maxGathered = loop.BufferLen

// gathered are buffers for the records of so much.
var gathered = sync.Pool{New: func() any {
	b := make([]byte, 0, maxGathered+maxGathered/maxRecord*100)
	return &b
}}

// putTLS is put with TLS: some of what it takes may still wait, see laden.
func (k *socket) putTLS(pieces [][]byte) (n int, err error) {
	if err := k.under.flush(); err != nil {
		return 0, err
	}
	if len(pieces) > 1 {
		pieces = [][]byte{bytes.Join(pieces, nil)}
	}
	for b := pieces[0]; len(b) > 0 && !k.laden(); {
		r, err := k.writeTLS(b[:min(len(b), maxGathered)])
		n += r
		if err != nil {
			return n, err
		}
		b = b[r:]
	}
	return n, nil
}

// writeTLS writes with one system call, where crypto/tls has one for each record.
func (k *socket) writeTLS(b []byte) (n int, err error) {
	if len(b) <= maxRecord {
		return k.tls.Write(b)
	}
	k.under.records = gathered.Get().(*[]byte)
	n, err = k.tls.Write(b)
	records := k.under.records
	k.under.records = nil
	if err == nil {
		err = k.under.send(*records)
	}
	*records = (*records)[:0]
	gathered.Put(records)
	return n, err
}

// laden reports that bytes which put has taken wait for the socket to take more: put, of
// nothing too, goes on with them.
func (k *socket) laden() bool { return k.under != nil && len(k.under.rest) > 0 }

// quietTLS is Quiet with TLS. What has come may be of TLS itself, as a session ticket.
func (k *socket) quietTLS() bool {
	k.conn.Again()
	var b [1]byte
	n, err := k.tls.Read(b[:])
	return n == 0 && errors.Is(err, errNothing)
}

// partTLS tells the peer the end of TLS, and takes in its own.
func (k *socket) partTLS() {
	_ = k.tls.CloseWrite() // a hint
	k.conn.Again()
	var b [1]byte
	_, _ = k.tls.Read(b[:])
}
