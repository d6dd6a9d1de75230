package wirescript

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Environment is the cluster behind the server under test.
type Environment interface {
	// Exec runs statements on the primary, as superuser in the database app.
	Exec(ctx context.Context, sql string) error
	// Await waits until the query returns true on some server.
	Await(ctx context.Context, query string) error
	// Catchup waits until every standby has replayed all that the primary has written.
	Catchup(ctx context.Context) error
}

// Runner runs scripts against one address.
type Runner struct {
	Address     string // host:port
	Password    func(user string) string
	Environment Environment
	// Between is called before each command, and between two messages of a block that
	// are then not sent in one piece, for what another client does in the meantime.
	// nil: nothing.
	Between func(context.Context) error
}

// run is one run of a script.
type run struct {
	*Runner
	transcript *Transcript
	conns      map[string]*conn
	current    string
}

// Run runs the script. The transcript is there also with an error, as far as the
// script came: an error is a script that cannot go on (nothing more from the
// server, or not what until waits for).
func (r *Runner) Run(ctx context.Context, s *Script) (_ *Transcript, err error) {
	x := &run{
		Runner:     r,
		transcript: &Transcript{script: s, pids: make(map[uint32]string)},
		conns:      make(map[string]*conn),
		current:    "a",
	}
	defer func() {
		// Also after an error, so that the next run finds the cluster as this one did.
		err = errors.Join(err, x.leave())
		for _, sql := range s.cleanup {
			if execErr := r.Environment.Exec(ctx, sql); execErr != nil {
				err = errors.Join(err, fmt.Errorf("clean up: %w", execErr))
			}
		}
	}()
	for _, sql := range s.setup {
		if err := r.Environment.Exec(ctx, sql); err != nil {
			return x.transcript, fmt.Errorf("set up: %w", err)
		}
	}
	if err := r.Environment.Catchup(ctx); err != nil {
		return x.transcript, err
	}
	for _, c := range s.commands {
		x.transcript.line = c.line
		if err := x.between(ctx); err != nil {
			return x.transcript, fmt.Errorf("%s: before line %d: %w", s.Name, c.line, err)
		}
		if err := x.command(ctx, c); err != nil {
			return x.transcript, fmt.Errorf("%s: line %d: %s: %w", s.Name, c.line, c.verb, err)
		}
	}
	return x.transcript, nil
}

func (r *run) between(ctx context.Context) error {
	if r.Between == nil {
		return nil
	}
	return r.Between(ctx)
}

func (r *run) command(ctx context.Context, c command) error {
	switch c.verb {
	case verbConn:
		r.current = c.arg
		return nil
	case verbOpen, verbStartup, verbStartupError:
		return r.open(ctx, c)
	case verbSQL:
		return r.Environment.Exec(ctx, strings.Join(c.block, "\n"))
	case verbAwait:
		ctx, cancel := context.WithTimeout(ctx, guard)
		defer cancel()
		return r.Environment.Await(ctx, strings.Join(c.block, "\n"))
	case verbCatchup:
		return r.Environment.Catchup(ctx)
	case verbCancel:
		return r.cancel(ctx, c.arg)
	default:
		conn, err := r.conn(r.current)
		if err != nil {
			return err
		}
		if c.verb == verbSend {
			return r.send(ctx, conn, c.block)
		}
		return r.onConn(conn, c)
	}
}

// onConn runs a command that works on the current connection.
func (r *run) onConn(conn *conn, c command) error {
	switch c.verb {
	case verbUntil:
		return r.until(conn, c.arg)
	case verbQuery:
		return r.query(conn, strings.Join(append(c.block, c.arg), "\n"), "ReadyForQuery")
	case verbQueryError:
		state, sql, _ := strings.Cut(c.arg, " ")
		return r.query(conn, sql, "ErrorResponse/"+state+" ReadyForQuery")
	case verbBytes:
		return r.bytes(conn, c.arg)
	case verbExpectClose:
		return r.expectClose(conn)
	case verbExpectRaw:
		return r.expectRawClose(conn)
	case verbClose:
		conn.close()
		return nil
	default:
		panic("BUG: command " + string(c.verb) + " was parsed but cannot run")
	}
}

func (r *run) conn(name string) (*conn, error) {
	c, ok := r.conns[name]
	if !ok {
		return nil, fmt.Errorf("connection %s was not opened", name)
	}
	return c, nil
}

func (r *run) pid(name string) (uint32, error) {
	c, err := r.conn(name)
	if err != nil {
		return 0, err
	}
	return c.pid, nil
}

// open makes the current connection anew.
func (r *run) open(ctx context.Context, cmd command) error {
	c := r.conns[r.current]
	if c == nil || c.closed || cmd.verb == verbOpen {
		if c != nil && !c.closed {
			return fmt.Errorf("connection %s is open", r.current)
		}
		var err error
		if c, err = dial(ctx, r.current, r.Address); err != nil {
			return err
		}
		r.conns[r.current] = c
	}
	switch cmd.verb {
	case verbStartup:
		return r.startup(c, cmd.arg, "")
	case verbStartupError:
		state, arg, _ := strings.Cut(cmd.arg, " ")
		return r.startup(c, arg, state)
	default: // open
		return nil
	}
}

// send encodes a block of messages and queues them in one piece, where nothing is to
// happen between them.
func (r *run) send(ctx context.Context, c *conn, block []string) error {
	var out []byte
	for i, line := range block {
		if i > 0 && r.Between != nil {
			c.send(out)
			out = nil
			if err := r.between(ctx); err != nil {
				return err
			}
		}
		times := 1
		if rest, ok := strings.CutPrefix(line, "Repeat "); ok {
			n, msg, _ := strings.Cut(rest, " ")
			var err error
			if times, err = strconv.Atoi(n); err != nil {
				return fmt.Errorf("read the number of repetitions: %w", err)
			}
			line = msg
		}
		for i := range times {
			text, err := expand(line, i, r.pid)
			if err != nil {
				return err
			}
			b, err := r.encode(text)
			if err != nil {
				return err
			}
			out = append(out, b...)
		}
	}
	c.send(out)
	return nil
}

// encode encodes one message; Startup has the form of the command startup.
func (r *run) encode(text string) ([]byte, error) {
	if arg, ok := strings.CutPrefix(text, "Startup "); ok {
		o, err := parseStartup(arg, r.Password)
		return o.packet(), err
	}
	return encodeMessage(text)
}

// query sends a simple query and reads up to the names.
func (r *run) query(c *conn, sql, until string) error {
	sql, err := expand(strings.TrimSpace(sql), 0, r.pid)
	if err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(sql)+5))
	b = append(append(b, sql...), 0)
	c.send(b)
	return r.until(c, until)
}

// until reads up to each of the expected messages, one after the other.
func (r *run) until(c *conn, arg string) error {
	wanted, err := parseExpectations(arg)
	if err != nil {
		return err
	}
	for _, want := range wanted {
		for found := false; !found; {
			typ, body, err := c.read()
			if errors.Is(err, io.EOF) {
				r.transcript.closed(c)
				c.close()
				return fmt.Errorf("the server closed the connection before %s", want.name)
			}
			if err != nil {
				return err
			}
			r.received(c, typ, body)
			found = messageName(typ) == want.name
			if typ != 'E' {
				continue
			}
			switch got := sqlState(body); {
			case !found:
				r.problem("unexpected error: %s", quote(body))
			case want.state != "" && got != want.state:
				r.problem("error %s, want %s: %s", got, want.state, quote(body))
			}
		}
	}
	return nil
}

// received records a message, and learns the key of a cancel request from it.
func (r *run) received(c *conn, typ byte, body []byte) {
	r.transcript.events = append(r.transcript.events,
		event{line: r.transcript.line, conn: c.name, kind: eventMessage, typ: typ, body: body})
	if typ == 'K' && len(body) >= 4 {
		c.pid, c.secret = binary.BigEndian.Uint32(body), body[4:]
		r.transcript.pids[c.pid] = c.name
	}
}

func (r *run) problem(format string, args ...any) {
	r.transcript.Problems = append(r.transcript.Problems,
		fmt.Sprintf("%s: line %d: ", r.transcript.script.Name, r.transcript.line)+fmt.Sprintf(format, args...))
}

func (r *run) bytes(c *conn, arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return fmt.Errorf("read number: %w", err)
	}
	b, err := c.readBytes(n)
	if err != nil {
		return err
	}
	r.transcript.events = append(r.transcript.events,
		event{line: r.transcript.line, conn: c.name, kind: eventBytes, body: b})
	return nil
}

func (r *run) expectClose(c *conn) error {
	for {
		typ, body, err := c.read()
		if errors.Is(err, io.EOF) {
			r.transcript.closed(c)
			c.close()
			return nil
		}
		if err != nil {
			return err
		}
		r.received(c, typ, body)
	}
}

// expectRawClose reads what is no message, up to the end.
func (r *run) expectRawClose(c *conn) error {
	var all []byte
	for {
		b, err := c.readBytes(1)
		if errors.Is(err, io.EOF) {
			r.transcript.events = append(r.transcript.events,
				event{line: r.transcript.line, conn: c.name, kind: eventBytes, body: all})
			r.transcript.closed(c)
			c.close()
			return nil
		}
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
}

// cancel sends the request on a connection of its own and waits for its end.
func (r *run) cancel(ctx context.Context, name string) error {
	target, err := r.conn(name)
	if err != nil {
		return err
	}
	c, err := dial(ctx, "cancel", r.Address)
	if err != nil {
		return err
	}
	defer c.close()
	c.send(cancelPacket(target.pid, target.secret))
	if b, err := c.readBytes(1); !errors.Is(err, io.EOF) {
		return fmt.Errorf("cancel %s: the server answered %q: %w", name, b, err)
	}
	return nil
}

// leave ends every connection and waits until the server has ended the session,
// so that nothing of it is left for the next run.
func (r *run) leave() error {
	var errs []error
	for _, c := range r.conns {
		if c.closed {
			continue
		}
		c.send([]byte{'X', 0, 0, 0, 4})
		var err error
		for err == nil {
			_, _, err = c.read()
		}
		if !errors.Is(err, io.EOF) {
			errs = append(errs, fmt.Errorf("%s: connection %s after Terminate: %w", r.transcript.script.Name, c.name, err))
		}
		c.close()
	}
	return errors.Join(errs...)
}
