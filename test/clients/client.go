package clients

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// connectTimeout is what docs/operations.md asks of clients.
	connectTimeout = 3 * time.Second
	// reconnectPause keeps a refused connection from becoming a loop.
	reconnectPause = 50 * time.Millisecond
	// answerTimeout is when a client gives a statement and its connection up; longer than
	// hold.timeout.
	answerTimeout = 40 * time.Second
	// idsEach is the room for the rows of each client.
	idsEach = 1_000_000
)

// What all kinds of clients say, in the words of each driver. log has no unique
// index, so that a row that is written twice is there twice.
const (
	schema = `CREATE TABLE IF NOT EXISTS items (id bigint PRIMARY KEY, v bigint NOT NULL);
CREATE TABLE IF NOT EXISTS log (id bigint NOT NULL, part int NOT NULL, client text NOT NULL);
CREATE INDEX IF NOT EXISTS log_id ON log (id);
CREATE TABLE IF NOT EXISTS tallies (client text PRIMARY KEY, n bigint NOT NULL);
INSERT INTO items SELECT n, n * 7 FROM generate_series(1, 1000) n ON CONFLICT DO NOTHING`

	sqlRead   = "SELECT v FROM items WHERE id = $1"
	sqlInsert = "INSERT INTO log (id, part, client) VALUES ($1, $2, $3)"
	sqlTally  = "INSERT INTO tallies (client, n) VALUES ($1, 1) ON CONFLICT (client) DO UPDATE SET n = tallies.n + 1"
	sqlNotify = "SELECT pg_notify('clients', $1)"

	itemCount  = 1000
	itemFactor = 7
)

// share is the part of all clients that one program runs.
type share struct {
	Kind         string  `json:"kind"`
	First        int     `json:"first"` // number of the first client
	Reads        int     `json:"reads"`
	Writes       int     `json:"writes"`
	Transactions int     `json:"transactions"`
	Listeners    int     `json:"listeners"`
	Notifiers    int     `json:"-"`    // of pgx only
	Pace         float64 `json:"pace"` // seconds from the end of a repetition to the start of the next one
}

// each calls f for every client of the share.
func (s share) each(f func(behaviour string, number int)) {
	number := s.First
	for _, b := range []struct {
		behaviour string
		count     int
	}{{opRead, s.Reads}, {opWrite, s.Writes}, {opTransaction, s.Transactions}, {opListen, s.Listeners}, {opNotify, s.Notifiers}} {
		for range b.count {
			f(b.behaviour, number)
			number++
		}
	}
}

func clientName(kind, behaviour string, number int) string {
	return fmt.Sprintf("%s-%s-%d", kind, behaviour, number)
}

// names of the clients that do something by themselves.
func (s share) names() []string {
	var all []string
	s.each(func(behaviour string, number int) {
		if behaviour != opListen {
			all = append(all, clientName(s.Kind, behaviour, number))
		}
	})
	return all
}

// connection is what the Go clients need of pgx and of psql.
type connection interface {
	exec(ctx context.Context, sql string, args ...any) error
	value(ctx context.Context, sql string, args ...any) (int64, error)
	closed() bool
	close()
}

// sqlError is an error that the server, or who speaks for it, has sent.
type sqlError struct{ state, text string }

func (e *sqlError) Error() string { return e.state + " " + e.text }

// stateOf returns the SQLSTATE of an error, "" where it has none.
func stateOf(err error) string {
	if e, ok := errors.AsType[*sqlError](err); ok {
		return e.state
	}
	return ""
}

// client is one of pgx or psql that does not listen.
type client struct {
	name      string
	behaviour string
	pace      time.Duration
	connect   func(context.Context) (connection, error)
	report    func(Event)

	conn connection
	next int64 // the id to try
}

func newClient(s share, behaviour string, number int, connect func(context.Context) (connection, error), report func(Event)) *client {
	return &client{
		name: clientName(s.Kind, behaviour, number), behaviour: behaviour, pace: time.Duration(s.Pace * float64(time.Second)),
		connect: connect, report: report, next: int64(number)*idsEach + 1,
	}
}

// run repeats the behaviour until ctx ends. What is under way then is finished.
func (c *client) run(ctx context.Context) {
	pause := time.NewTimer(rand.N(c.pace)) // so that not all begin together
	defer pause.Stop()
	defer func() {
		if c.conn != nil {
			c.conn.close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		answering, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		pause.Reset(c.step(answering))
		cancel()
	}
}

// step connects or repeats the behaviour, and returns the time to the next step.
func (c *client) step(ctx context.Context) time.Duration {
	if c.conn == nil {
		started := time.Now()
		conn, err := c.connect(ctx)
		c.tell(opConnect, 0, started, err)
		if err != nil {
			return reconnectPause
		}
		c.conn = conn
		return 0
	}
	switch c.behaviour {
	case opRead:
		c.read(ctx)
	case opWrite:
		c.one(ctx, sqlInsert, c.next, 1, c.name)
	case opNotify:
		c.one(ctx, sqlNotify, fmt.Sprint(c.next))
	case opTransaction:
		c.transaction(ctx)
	default:
		panic("BUG: no behaviour " + c.behaviour)
	}
	if c.conn.closed() {
		c.conn.close()
		c.conn = nil
		return reconnectPause
	}
	return c.pace
}

// tell reports something that has just ended.
func (c *client) tell(op string, id int64, started time.Time, err error) {
	now := time.Now()
	e := Event{At: unix(now), Seconds: now.Sub(started).Seconds(), Client: c.name, Op: op, ID: id, Failed: err != nil}
	if err != nil {
		e.Text, e.Dropped = err.Error(), c.conn != nil && c.conn.closed()
		if refusal, ok := errors.AsType[*sqlError](err); ok {
			e.State, e.Text = refusal.state, refusal.text
		}
	}
	c.report(e)
}

func (c *client) read(ctx context.Context) {
	id := rand.Int64N(itemCount) + 1
	started := time.Now()
	v, err := c.conn.value(ctx, sqlRead, id)
	if err == nil && v != id*itemFactor {
		err = fmt.Errorf("item %d is %d", id, v)
	}
	c.tell(opRead, id, started, err)
}

// one is an autocommit statement with the next id.
func (c *client) one(ctx context.Context, sql string, args ...any) {
	started := time.Now()
	err := c.conn.exec(ctx, sql, args...)
	c.tell(c.behaviour, c.next, started, err)
	c.after(err)
}

// after chooses the next id: that of what is to be tried again is the same.
func (c *client) after(err error) {
	if stateOf(err) != lostState {
		c.next++
	}
}

func (c *client) transaction(ctx context.Context) {
	started := time.Now()
	err := c.attempt(ctx)
	c.tell(opTransaction, c.next, started, err)
	c.after(err)
	if err == nil || c.conn.closed() {
		return
	}
	started = time.Now()
	c.tell(opRollback, c.next, started, c.conn.exec(ctx, "ROLLBACK"))
}

func (c *client) attempt(ctx context.Context) error {
	for _, s := range []struct {
		sql  string
		args []any
	}{
		{sql: "BEGIN"},
		{sqlInsert, []any{c.next, 1, c.name}},
		{sqlTally, []any{c.name}},
	} {
		if err := c.conn.exec(ctx, s.sql, s.args...); err != nil {
			return err
		}
	}
	id := c.next%itemCount + 1
	if v, err := c.conn.value(ctx, sqlRead, id); err != nil {
		return err
	} else if v != id*itemFactor {
		return fmt.Errorf("item %d is %d", id, v)
	}
	if err := c.conn.exec(ctx, sqlInsert, c.next, 2, c.name); err != nil {
		return err
	}
	return c.conn.exec(ctx, "COMMIT")
}
