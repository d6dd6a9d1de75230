package proxy

import (
	"net"
	"net/netip"
	"sync"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// client is one client connection. The goroutine that serves it owns it; after its
// session has begun nothing here changes any more.
type client struct {
	// conn is the plain TCP or Unix connection or a *tls.Conn over it. All bytes that
	// were read from it have been used: nothing is buffered beside it.
	conn net.Conn
	// raw is the TCP or Unix connection itself, equal to conn without TLS.
	raw net.Conn
	// loop serves the session; nil: goroutines do. Then sock is conn and raw, once it has
	// been handed to the loop.
	loop   *eventLoop
	sock   *socket
	remote netip.AddrPort // invalid for a Unix socket
	local  bool           // a Unix socket

	user, database string // as PostgreSQL truncates them; database "" for physical replication
	// params are the startup parameters in the client's order, with repetitions,
	// without user, database, replication and the _pq_. options.
	params  []pgwire.Parameter
	appName string // the application_name among params
	// renames: a server connection that another application has opened will do, since
	// the session gives its own name to each that it gets (transaction mode).
	renames     bool
	protocol    uint32 // as negotiated
	replication pgwire.Replication
	cred        *auth.Credential
	// unsent is for the client, and goes out with what it is told next: nobody waits for
	// AuthenticationOk alone, nor for what comes just before it (PostgreSQL,
	// sendAuthRequest).
	unsent []byte

	keyed sync.Once
	key   poolKey // see poolKey
}

// names reports that application_name is what the startup parameter of that name says:
// options may say something else, and without it the role may.
func (c *client) names() bool {
	named := false
	for _, p := range c.params {
		if p.Name == "options" {
			return false
		}
		named = named || p.Name == "application_name"
	}
	return named
}

// tell sends what is unsent and b, in one piece.
func (c *client) tell(b []byte) error {
	if len(c.unsent) > 0 {
		b = append(c.unsent, b...)
		c.unsent = nil
	}
	_, err := c.conn.Write(b)
	return err
}

// flush sends what is unsent.
func (c *client) flush() error {
	if len(c.unsent) == 0 {
		return nil
	}
	return c.tell(nil)
}

// addr names the client in logs and in SHOW.
func (c *client) addr() string {
	if c.local {
		return "[local]"
	}
	return c.remote.String()
}

// protocol32 tells whether the client takes cancel keys of protocol 3.2.
func (c *client) protocol32() bool { return c.protocol >= pgwire.Version32 }
