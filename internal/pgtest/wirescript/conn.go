package wirescript

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// guard bounds every wait for the server, to turn a hang into an error.
const guard = 20 * time.Second

// maxBody is PostgreSQL's own limit of a message (MaxAllocSize).
const maxBody = 1<<30 - 1

// conn is one connection to the server under test.
type conn struct {
	name   string
	net    net.Conn
	in     *bufio.Reader
	pid    uint32 // from BackendKeyData
	secret []byte
	writer *writer
	closed bool // by us, or seen closed by the server
}

func dial(ctx context.Context, name, address string) (*conn, error) {
	d := net.Dialer{Timeout: guard}
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &conn{name: name, net: nc, in: bufio.NewReaderSize(nc, 64<<10), writer: startWriter(nc)}, nil
}

// send queues bytes; it never blocks on the server.
func (c *conn) send(b []byte) { c.writer.queue(b) }

// read reads one message. io.EOF is the server's closing, in whichever way: how
// much it had not read decides between FIN and RST.
func (c *conn) read() (typ byte, body []byte, err error) {
	if err := c.net.SetReadDeadline(time.Now().Add(guard)); err != nil {
		return 0, nil, fmt.Errorf("set guard: %w", err)
	}
	var head [5]byte
	if n, err := io.ReadFull(c.in, head[:]); err != nil {
		if n > 0 {
			return 0, nil, fmt.Errorf("read message: the connection ended after %x", head[:n])
		}
		return 0, nil, readError(err)
	}
	n := int64(binary.BigEndian.Uint32(head[1:])) - 4
	if n < 0 || n > maxBody {
		return 0, nil, fmt.Errorf("read message: impossible header %x", head)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return 0, nil, fmt.Errorf("read body of %s: %w", messageName(head[0]), err)
	}
	return head[0], body, nil
}

// readBytes reads bytes that are no message.
func (c *conn) readBytes(n int) ([]byte, error) {
	if err := c.net.SetReadDeadline(time.Now().Add(guard)); err != nil {
		return nil, fmt.Errorf("set guard: %w", err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		return nil, readError(err)
	}
	return b, nil
}

func readError(err error) error {
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return fmt.Errorf("the server says nothing for %s: %w", guard, err)
	}
	return io.EOF
}

func (c *conn) close() {
	c.closed = true
	c.net.Close()
	c.writer.stop()
}

// writer writes a queue of any length in a goroutine of its own.
type writer struct {
	done chan struct{}
	mu   struct {
		sync.Mutex
		pending [][]byte
		stopped bool
	}
	wake *sync.Cond
}

func startWriter(w io.Writer) *writer {
	q := &writer{done: make(chan struct{})}
	q.wake = sync.NewCond(&q.mu)
	go q.run(w)
	return q
}

// run writes until stop, or until the server takes no more: then the rest is
// dropped, and reading shows what the server had to say.
func (q *writer) run(w io.Writer) {
	defer close(q.done)
	broken := false
	for {
		q.mu.Lock()
		for len(q.mu.pending) == 0 && !q.mu.stopped {
			q.wake.Wait()
		}
		bufs, stopped := q.mu.pending, q.mu.stopped
		q.mu.pending = nil
		q.mu.Unlock()
		if stopped {
			return
		}
		for _, b := range bufs {
			if broken {
				break
			}
			_, err := w.Write(b)
			broken = err != nil
		}
	}
}

func (q *writer) queue(b []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.pending = append(q.mu.pending, b)
	q.wake.Signal()
}

// stop ends the goroutine. The connection must be closed by then.
func (q *writer) stop() {
	q.mu.Lock()
	q.mu.stopped = true
	q.wake.Signal()
	q.mu.Unlock()
	<-q.done
}
