package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// link is a connection that is logged in on a backend. Between two uses the pool
// owns it; a serverConn is the right to use it.
type link struct {
	net.Conn          // plain or *tls.Conn; nothing is buffered beside it
	raw      net.Conn // the TCP or Unix connection itself
	sock     *socket  // both, where an event loop watches it; nil: blocking

	id       uint64 // unique in the process
	backend  string
	address  string
	user     string
	database string
	appName  string // the application_name of whoever opened it
	key      poolKey
	gen      uint64  // of the backend's pool when it was opened
	tenure   *tenure // of the primary that it is to; nil: to a standby

	pid      uint32
	secret   []byte // the server's own cancel key
	protocol uint32
	params   []pgwire.Parameter // reported at login, in order of arrival
	notices  []byte             // whole NoticeResponses of the login

	// server stands for one run of the server between two restarts: its start time in
	// microseconds since 1970; 0: not known.
	server uint64
	// carried is what earlier sessions have left in it that the next one may meet.
	carried *session.Carried

	created time.Time
	jitter  float64 // by what part of it pool.lifetime is shorter for this one
	// check is what quietCheck returned.
	check func() bool

	// Guarded by pools.mu:
	group     *group
	state     linkState
	loan      *serverConn // sole; nil: it is not lent
	sole      serverConn  // of each loan, one after the other
	idleSince time.Time
	uses      uint64 // loans so far

	// changed are the reported settings that differ from params. Whoever reads the
	// connection writes it.
	changed map[string]string
}

// watch has an event loop watch the connection from now on.
func (l *link) watch(by *eventLoop) error {
	k, err := newSocket(by.Loop, l.Conn, l.tenure, nil)
	if err != nil {
		return fmt.Errorf("hand a connection to an event loop: %w", err)
	}
	l.Conn, l.raw, l.sock, l.check = k, k, k, k.Quiet
	return nil
}

// quiet tells whether an idle link is open and its server has said nothing.
func (l *link) quiet() bool { return l.check() }

// noteParameter takes a ParameterStatus that came after the login.
func (l *link) noteParameter(name, value string) {
	for _, p := range l.params {
		if p.Name == name && p.Value == value {
			delete(l.changed, name)
			return
		}
	}
	if l.changed == nil {
		l.changed = make(map[string]string)
	}
	l.changed[name] = value
}

// terminate closes a connection that nobody else uses, with Terminate first so that
// the server does not report a lost client.
func (l *link) terminate() {
	_ = l.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = l.Write(pgwire.AppendEmpty(nil, pgwire.Terminate))
	_ = l.Close()
}

// serverConn is one loan of a link. Its holder reads and writes it, hands every
// ParameterStatus to noteParameter, and ends the loan by pools.release or Close,
// after which it must not touch it.
type serverConn struct {
	*link
	fresh bool // nobody used the connection before
	// tx is the transaction status of the last ReadyForQuery, which the holder keeps
	// up to date until the release.
	tx byte

	pool *backendPool
	mu   struct {
		sync.Mutex
		ended   bool
		cancels int           // CancelRequests for it under way
		struck  bool          // there was one
		lost    bool          // one of them may reach the server at any time
		quiet   chan struct{} // made by end when there were some, closed when they are done
	}
}

// begin begins a loan. Nobody knows the one before any more: whoever had begun to cancel
// it has ended that, or the link would not be idle.
func (sc *serverConn) begin(l *link, pool *backendPool, fresh bool) {
	sc.link, sc.pool, sc.fresh, sc.tx = l, pool, fresh, pgwire.TxIdle
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.mu.ended, sc.mu.struck, sc.mu.lost, sc.mu.quiet = false, false, false, nil
}

// beginCancel keeps the connection from being lent to somebody else until
// endCancel; false: the loan has ended.
func (sc *serverConn) beginCancel() bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.mu.ended {
		return false
	}
	sc.mu.cancels++
	sc.mu.struck = true
	return true
}

// endCancel ends what beginCancel began. lost: the server may get the request later, so
// nobody else is to get the connection.
func (sc *serverConn) endCancel(lost bool) {
	sc.mu.Lock()
	sc.mu.cancels--
	sc.mu.lost = sc.mu.lost || lost
	quiet := sc.mu.quiet
	done := sc.mu.cancels == 0 && quiet != nil
	unfit := done && sc.mu.lost
	sc.mu.Unlock()
	if unfit {
		_ = sc.Conn.Close()
	}
	if done {
		close(quiet)
	}
}

// end ends the loan; ok is false when it had ended before. quiet is not nil when there
// were cancels, and closed when they are done. Then the connection still has to take the
// signal, or is closed.
func (sc *serverConn) end() (quiet <-chan struct{}, ok bool) {
	sc.mu.Lock()
	if sc.mu.ended {
		sc.mu.Unlock()
		return nil, false
	}
	sc.mu.ended = true
	unfit := sc.mu.lost && sc.mu.cancels == 0
	if sc.mu.struck {
		made := make(chan struct{})
		sc.mu.quiet, quiet = made, made
		if sc.mu.cancels == 0 {
			close(made)
		}
	}
	sc.mu.Unlock()
	if unfit {
		_ = sc.Conn.Close()
	}
	return quiet, true
}

// Close closes the connection and ends the loan. It may be called more than once
// and by any goroutine.
func (sc *serverConn) Close() error {
	err := sc.Conn.Close()
	if _, ok := sc.end(); ok {
		sc.pool.closed(sc)
	}
	return err
}

// errTooLong tells that a message is larger than its reader takes.
var errTooLong = errors.New("more than")

// readMessage reads one message and nothing beyond it. body is valid until the
// next call with the same buffer. A body above limit bytes is
// errTooLong.
func readMessage(r io.Reader, buf *[]byte, limit int) (typ byte, body []byte, err error) {
	if cap(*buf) < pgwire.HeaderLen {
		*buf = make([]byte, 1024)
	}
	header := (*buf)[:pgwire.HeaderLen]
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	typ, n, _, err := pgwire.Header(header)
	if err != nil {
		return typ, nil, err
	}
	n -= pgwire.HeaderLen
	if n > limit {
		return typ, nil, fmt.Errorf("read message %q: %d bytes, %w %d", typ, n, errTooLong, limit)
	}
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	body = (*buf)[:n]
	if _, err := io.ReadFull(r, body); err != nil {
		return typ, nil, fmt.Errorf("read message %q: %w", typ, unexpectedEOF(err))
	}
	return typ, body, nil
}

// unexpectedEOF makes an end of the stream inside a message an error of its own.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// bound interrupts reads and writes of conn when ctx ends. release undoes it and
// returns ctx's error if it struck; then the connection is of no use any more.
func bound(ctx context.Context, conn net.Conn) (release func() error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		if !stop() {
			return context.Cause(ctx)
		}
		return nil
	}
}
