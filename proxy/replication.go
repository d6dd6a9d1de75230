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
)

// halfClosed is how long the client of a replication connection may go on after
// its server has ended.
const halfClosed = 10 * time.Second

// serveReplication gives a replication client (pg_basebackup, pg_receivewal, a
// standby) a connection of its own to the primary and copies bytes both ways until
// both have ended.
func (s *Server) serveReplication(ctx context.Context, c *client) error {
	defer context.AfterFunc(ctx, func() { _ = c.raw.Close() })()
	sc, err := s.dedicated(ctx, c)
	if err != nil {
		c.tellLast(fatalResponse(err))
		return err
	}
	defer sc.Close()
	defer context.AfterFunc(ctx, func() { _ = sc.raw.Close() })()

	key := s.cancels.register(sc.pid, c.protocol32(), loanTarget{sc})
	defer s.cancels.unregister(key)
	out := sc.notices
	for _, p := range sc.params {
		out = pgwire.AppendParameterStatus(out, p.Name, p.Value)
	}
	out = pgwire.AppendBackendKeyData(out, sc.pid, key.secret())
	if err := c.tell(pgwire.AppendReadyForQuery(out, pgwire.TxIdle)); err != nil {
		return fmt.Errorf("send startup: %w", err)
	}

	var up sync.WaitGroup
	up.Go(func() {
		if _, err := io.Copy(sc.Conn, c.conn); errors.Is(err, errNoLease) {
			_ = sc.raw.Close() // what the server still has to say must not be forwarded
		}
		closeWrite(sc.Conn)
	})
	_, err = io.Copy(c.conn, sc.Conn)
	closeWrite(c.conn)
	_ = c.raw.SetReadDeadline(time.Now().Add(halfClosed))
	up.Wait()
	return err
}

// dedicated logs a replication client in on the primary.
func (s *Server) dedicated(ctx context.Context, c *client) (*serverConn, error) {
	state := s.deps.Cluster.State()
	b := state.Backend(state.Primary)
	if b == nil {
		return nil, &Refusal{Code: codeCannotConnectNow, Message: "pgproxy: there is no primary"}
	}
	return s.pools.acquire(ctx, *b, c)
}

// loanTarget makes one loan the target of cancel requests.
type loanTarget struct{ sc *serverConn }

func (t loanTarget) beginCancel() (loan *serverConn, mayCommit bool) {
	if !t.sc.beginCancel() {
		return nil, false
	}
	return t.sc, true
}

func (t loanTarget) cancelWaiting(context.Context) bool { return false }

// closeWrite ends the stream to a peer and leaves the other direction open.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}
