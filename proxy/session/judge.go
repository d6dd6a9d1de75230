package session

import "github.com/pgproxy/pgproxy/internal/pgwire"

// judge is an open question to the driver: the primary has ended the connection by
// 57P01. When an administrator did so to this one (pg_terminate_backend), the client
// is told as PostgreSQL would; when the server stops it is a server that is lost.
type judge struct {
	open   bool
	raw    []byte // the ErrorResponse
	from   Attachment
	closed bool // the connection has ended meanwhile
}

// Judging reports that the driver is to find out what a 57P01 of the primary means,
// and call Judged. Until then nothing goes there. It tells of the connection what is
// known: Backend and Server.
func (c *Core) Judging() (from Attachment, open bool) { return c.rare.judge.from, c.rare.judge.open }

// Judged tells that an administrator ended the session's connection, or that its server
// stops.
func (c *Core) Judged(administrator bool) {
	j := c.rare.judge
	if !j.open {
		return
	}
	c.rare.judge = judge{}
	switch {
	case c.closed:
	case administrator:
		c.noteWrite()
		c.env.Failed(Primary, true)
		c.End(j.raw)
	case j.closed:
		c.ServerClosed(Primary)
	}
}

// primaryEnds handles an ErrorResponse of the primary behind which it closes the
// connection; true: the client gets it.
func (c *Core) primaryEnds(severity, code string, body []byte) bool {
	switch {
	case severity == "PANIC", code == "57P02", code == "57P03": // its end follows
		return false
	case code == "57P01":
		p := c.server[Primary]
		c.rarely().judge = judge{open: true, raw: pgwire.AppendMessage(nil, pgwire.ErrorResponse, body), from: Attachment{Backend: p.backend, Server: p.known()}}
		return false
	}
	c.noteWrite()
	c.env.Failed(Primary, true)
	c.closed = true
	return true
}

// stopping reports a NoticeResponse of a server that is about to end the connection
// because it stops or because another of its processes has crashed.
func stopping(body []byte) bool {
	switch string(pgwire.ErrorField(body, 'C')) {
	case "57P01", "57P02":
		return !cancelledWait(body)
	}
	return false
}
