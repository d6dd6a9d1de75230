package proxy

import (
	"bufio"
	"fmt"
	"net"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// monitorConn authenticates the monitor beneath a driver, which sends the startup packet
// and learns that it is let in: pgconn would derive the keys of SCRAM, 4096 rounds, for
// each connection, and every probe is one. The driver owns it.
type monitorConn struct {
	net.Conn
	in    *bufio.Reader
	login *auth.Login // nil: AuthenticationOk has come
	buf   []byte      // of readMessage
	due   []byte      // a message that the driver has not read yet
}

func newMonitorConn(conn *dialed, login *auth.Login) *monitorConn {
	return &monitorConn{Conn: conn.Conn, in: bufio.NewReaderSize(conn.Conn, 1024), login: login}
}

// Read gives the driver all that the server says but its requests to authenticate.
func (c *monitorConn) Read(b []byte) (int, error) {
	for c.login != nil && len(c.due) == 0 {
		if err := c.authenticate(); err != nil {
			return 0, err
		}
	}
	if len(c.due) > 0 {
		n := copy(b, c.due)
		c.due = c.due[n:]
		return n, nil
	}
	return c.in.Read(b)
}

// authenticate takes one message of the server before AuthenticationOk, or that one.
func (c *monitorConn) authenticate() error {
	typ, body, err := readMessage(c.in, &c.buf, maxLoginMessage)
	if err != nil {
		return err
	}
	if typ == pgwire.Authentication {
		send, done, err := c.login.Next(body)
		if err != nil {
			return err
		}
		if len(send) > 0 {
			if _, err := c.Write(send); err != nil {
				return fmt.Errorf("send authentication: %w", err)
			}
		}
		if !done {
			return nil
		}
		c.login = nil
	}
	c.due = pgwire.AppendMessage(nil, typ, body)
	return nil
}
