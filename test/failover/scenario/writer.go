package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pace is the time between two rows: 20 a second.
	pace = 50 * time.Millisecond
	// connectTimeout is what docs/operations.md asks of clients.
	connectTimeout = 2 * time.Second
	// statementTimeout is when the client gives a statement up and connects anew. The
	// kernel of a frozen host still accepts what is sent to it, so nothing else tells.
	statementTimeout = 2 * time.Second
	// reconnectPause keeps a refused connection from becoming a loop.
	reconnectPause = 20 * time.Millisecond
)

// Outcome is what a client knows about a row.
type Outcome uint8

// The outcomes.
const (
	OutcomeUnset Outcome = iota
	Acked                // the server has said that it is committed
	Failed               // an error says that it is not
	Unknown              // the answer was lost, or says that nobody knows (08007)
)

// Row is one that the writer has tried to write.
type Row struct {
	ID      int64
	Sent    time.Time
	Done    time.Time
	Outcome Outcome
	Server  string // address/timeline of the one that acknowledged it
	Err     error  // nil: acknowledged
}

// Writer writes numbered rows, one after the other, as an application does: on one
// connection as long as it lasts, and at once on a new one.
type Writer struct {
	config func() *pgx.ConnConfig
	name   string
	every  time.Duration
	giveUp time.Duration // of a statement

	mu struct {
		sync.Mutex
		rows     []Row
		sessions int // connections made, the first included
		refused  []string
		changed  chan struct{} // closed at the next row or connection
	}
}

// table holds the rows of all writers.
const table = `CREATE TABLE IF NOT EXISTS rows (writer text, id bigint, at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (writer, id))`

// insert returns the server that ran it and its timeline, so that an account can
// tell who acknowledged a row that is missing.
const insert = `INSERT INTO rows (writer, id) VALUES ($1, $2)
RETURNING host(inet_server_addr()) || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`

// NewWriter returns a writer of rows under a name of its own.
func NewWriter(name string, every time.Duration, config func() *pgx.ConnConfig) *Writer {
	w := &Writer{config: config, name: name, every: every, giveUp: statementTimeout}
	w.mu.changed = make(chan struct{})
	return w
}

// Run writes until ctx ends. A row that is under way then is finished.
func (w *Writer) Run(ctx context.Context) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	var conn *pgx.Conn
	defer func() { hangUp(conn) }()
	for id := int64(1); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if conn == nil {
			if conn = w.connect(ctx); conn == nil {
				continue
			}
		}
		w.write(conn, id)
		id++
		if conn.IsClosed() {
			conn = nil
		}
	}
}

// hangUp ends a session without waiting for who does not answer.
func hangUp(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // its rows have been accounted for
}

// connect tries until it is connected or ctx ends.
func (w *Writer) connect(ctx context.Context) *pgx.Conn {
	for ctx.Err() == nil {
		conn, err := pgx.ConnectConfig(ctx, w.config())
		if err == nil {
			w.note(func() { w.mu.sessions++ })
			return conn
		}
		if ctx.Err() == nil {
			w.note(func() {
				w.mu.refused = append(w.mu.refused, time.Now().Format(stamp+" ")+err.Error())
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnectPause):
		}
	}
	return nil
}

// write writes one row and notes what came of it.
func (w *Writer) write(conn *pgx.Conn, id int64) {
	ctx, cancel := context.WithTimeout(context.Background(), w.giveUp)
	defer cancel()
	row := Row{ID: id, Sent: time.Now()}
	row.Err = conn.QueryRow(ctx, insert, w.name, id).Scan(&row.Server)
	row.Done = time.Now()
	row.Outcome = outcome(row.Err)
	w.note(func() { w.mu.rows = append(w.mu.rows, row) })
}

// outcome sorts an answer: an error from the server says that the row is not
// written, but for the ones that say that nobody knows. A connection that breaks says
// nothing, unless nothing was sent.
func outcome(err error) Outcome {
	if err == nil {
		return Acked
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "08007", "40003", "08006", "08003": // outcome unknown, or a connection that was lost on the way
			return Unknown
		}
		return Failed
	}
	if pgconn.SafeToRetry(err) {
		return Failed
	}
	return Unknown
}

func (w *Writer) note(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.mu.changed)
	w.mu.changed = make(chan struct{})
}

// Await waits until the rows written so far fulfil a condition.
func (w *Writer) Await(ctx context.Context, what string, ok func([]Row) bool) error {
	for {
		w.mu.Lock()
		rows, changed := slices.Clip(w.mu.rows), w.mu.changed
		w.mu.Unlock()
		if ok(rows) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; %s", what, ctx.Err(), w.describe())
		case <-changed:
		}
	}
}

// AwaitAcked waits until that many rows sent after an instant are acknowledged.
func (w *Writer) AwaitAcked(ctx context.Context, after time.Time, count int) error {
	return w.Await(ctx, fmt.Sprintf("%d rows are acknowledged", count), func(rows []Row) bool {
		n := 0
		for _, r := range slices.Backward(rows) {
			if !r.Sent.After(after) {
				break
			}
			if r.Outcome == Acked {
				n++
			}
		}
		return n >= count
	})
}

// describe says where the writer is, for an error.
func (w *Writer) describe() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "writer %s has %d rows and %d sessions", w.name, len(w.mu.rows), w.mu.sessions)
	if n := len(w.mu.rows); n > 0 {
		last := w.mu.rows[n-1]
		fmt.Fprintf(&b, ", the last row %d of %s: %v", last.ID, last.Done.Format(stamp), last.Err)
	}
	if n := len(w.mu.refused); n > 0 {
		fmt.Fprintf(&b, "; %d connections refused, the last: %s", n, w.mu.refused[n-1])
	}
	return b.String()
}

// Rows returns what was tried so far, and how many sessions that took.
func (w *Writer) Rows() (rows []Row, sessions int, refused []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.mu.rows), w.mu.sessions, slices.Clone(w.mu.refused)
}
