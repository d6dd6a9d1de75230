package robustness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// wire is a client that can do what no driver does.
type wire struct {
	net.Conn
	t      *testing.T
	r      *bufio.Reader
	pid    uint32
	secret []byte
}

// message is one message of a server.
type message struct {
	typ  byte
	size int    // of its body
	head []byte // the start of its body
}

// headSize is how much of a message's body is kept.
const headSize = 1024

// wire opens a session through pgproxy and takes it from the driver.
func (r *rig) wire(t *testing.T) *wire {
	t.Helper()
	return openWire(t, r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser))
}

// standbyWire opens a session whose reads have come to the only standby. They begin
// on the primary where the standby does not show yet what the user wrote last.
func (r *rig) standbyWire(t *testing.T) *wire {
	t.Helper()
	name := fmt.Sprintf("reader %d", readers.Add(1))
	w := openWire(t, r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser)+" application_name='"+name+"'")
	await(t, func() error {
		w.value("/* pgproxy: standby */ SELECT count(*) FROM generate_series(1, 10)")
		n, err := r.cluster.Standbys()[0].QueryValue(t.Context(), "postgres",
			"SELECT count(*) FROM pg_stat_activity WHERE application_name = '"+name+"' AND query LIKE '%generate_series(1, 10)'")
		if err == nil && n != "1" {
			err = errors.New("the session reads from the primary")
		}
		return err
	})
	return w
}

// readers counts the sessions of standbyWire, for their names.
var readers atomic.Int64

func openWire(t *testing.T, dsn string) *wire {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	conn, err := pgconn.Connect(ctx, dsn)
	must(t, err)
	must(t, conn.SyncConn(ctx)) // pgx reads ahead where a write has taken long
	h, err := conn.Hijack()
	must(t, err)
	w := newWire(t, h.Conn)
	w.pid, w.secret = h.PID, h.SecretKey
	return w
}

func newWire(t *testing.T, conn net.Conn) *wire {
	t.Helper()
	must(t, conn.SetDeadline(time.Now().Add(2*hangTimeout)))
	t.Cleanup(func() { _ = conn.Close() })
	return &wire{Conn: conn, t: t, r: bufio.NewReaderSize(conn, 64<<10)}
}

// dialRaw connects to pgproxy and says nothing yet.
func (r *rig) dialRaw(t *testing.T) *wire {
	t.Helper()
	return dialRaw(t, r.proxy.Address())
}

func dialRaw(t *testing.T, address string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	must(t, err)
	return newWire(t, conn)
}

func (w *wire) send(b []byte) {
	w.t.Helper()
	_, err := w.Write(b)
	must(w.t, err)
}

func (w *wire) query(sql string) { w.t.Helper(); w.send(pgwire.AppendQuery(nil, sql)) }

// sendLarge sends a message whose body is head, n bytes of 'x', and tail.
func (w *wire) sendLarge(typ byte, head []byte, n int, tail []byte) {
	w.t.Helper()
	must(w.t, w.tryLarge(typ, head, n, tail))
}

func (w *wire) tryLarge(typ byte, head []byte, n int, tail []byte) error {
	b := binary.BigEndian.AppendUint32([]byte{typ}, uint32(4+len(head)+n+len(tail)))
	if _, err := w.Write(append(b, head...)); err != nil {
		return err
	}
	chunk := bytes.Repeat([]byte("x"), 256<<10)
	for n > 0 {
		k := min(n, len(chunk))
		if _, err := w.Write(chunk[:k]); err != nil {
			return err
		}
		n -= k
	}
	_, err := w.Write(tail)
	return err
}

// read reads one message and keeps the start of its body.
func (w *wire) read() (m message, err error) {
	var header [pgwire.HeaderLen]byte
	if _, err := io.ReadFull(w.r, header[:]); err != nil {
		return m, err
	}
	m.typ, m.size = header[0], int(binary.BigEndian.Uint32(header[1:]))-4
	m.head = make([]byte, min(m.size, headSize))
	if _, err := io.ReadFull(w.r, m.head); err != nil {
		return m, errors.Join(io.ErrUnexpectedEOF, err)
	}
	if _, err := w.r.Discard(m.size - len(m.head)); err != nil {
		return m, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return m, nil
}

// expect reads up to a message of that type, which it returns.
func (w *wire) expect(typ byte) message {
	w.t.Helper()
	for {
		m, err := w.read()
		if err != nil {
			w.t.Fatalf("wait for a message %q: %v", typ, err)
		}
		if m.typ == typ {
			return m
		}
		if m.typ == pgwire.ErrorResponse {
			w.t.Fatalf("wait for a message %q: %s %s", typ, m.code(), m.text())
		}
	}
}

// fails reads up to an error, whose SQLSTATE must be that.
func (w *wire) fails(code string) message {
	w.t.Helper()
	for {
		m, err := w.read()
		if err != nil {
			w.t.Fatalf("wait for SQLSTATE %s: %v", code, err)
		}
		if m.typ == pgwire.ErrorResponse {
			if m.code() != code {
				w.t.Fatalf("SQLSTATE %s (%s), want %s", m.code(), m.text(), code)
			}
			return m
		}
	}
}

// ends reads until the connection is closed and returns the last error that came
// before, if any.
func (w *wire) ends() (last message) {
	w.t.Helper()
	for {
		m, err := w.read()
		timeout, ok := errors.AsType[net.Error](err)
		switch {
		case ok && timeout.Timeout():
			w.t.Fatal("the connection was not closed")
		case err != nil:
			return last
		case m.typ == pgwire.ErrorResponse:
			last = m
		}
	}
}

// endsRaw reads bytes, not messages, until the connection is closed.
func (w *wire) endsRaw() []byte {
	w.t.Helper()
	b, err := io.ReadAll(w.r)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		w.t.Fatal("the connection was not closed")
	}
	return b
}

// value runs a query of one row and one column.
func (w *wire) value(sql string) string {
	w.t.Helper()
	w.query(sql)
	row := w.expect(pgwire.DataRow)
	w.expect(pgwire.ReadyForQuery)
	return string(row.head[6:])
}

func (w *wire) exec(sql string) {
	w.t.Helper()
	w.query(sql)
	w.expect(pgwire.ReadyForQuery)
}

// ready reads up to ReadyForQuery, errors or not.
func (w *wire) ready() {
	w.t.Helper()
	for {
		m, err := w.read()
		must(w.t, err)
		if m.typ == pgwire.ReadyForQuery {
			return
		}
	}
}

// reset closes the connection with RST.
func (w *wire) reset() {
	w.t.Helper()
	must(w.t, w.Conn.(*net.TCPConn).SetLinger(0))
	must(w.t, w.Close())
}

// halfClose ends what the client sends.
func (w *wire) halfClose() {
	w.t.Helper()
	must(w.t, w.Conn.(*net.TCPConn).CloseWrite())
}

// pgError returns what a server said, nil when err is something else.
func pgError(err error) *pgconn.PgError {
	e, _ := errors.AsType[*pgconn.PgError](err)
	return e
}

func (m message) code() string { return string(pgwire.ErrorField(m.head, 'C')) }
func (m message) text() string { return string(pgwire.ErrorField(m.head, 'M')) }
