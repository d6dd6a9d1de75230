package proxy

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// commitWaitTimeout bounds the question whether a server process waits for a
// synchronous standby: the client waits for the answer.
const commitWaitTimeout = time.Second

// commitWaitQuery tells what a process waits for, and whether the monitor may know.
const commitWaitQuery = `SELECT coalesce(wait_event, ''), coalesce(state <> 'disabled', false)
FROM pg_stat_activity WHERE pid = $1`

var errNotAllowedToSee = errors.New("the server does not say what the process waits for")

// commitWaits asks the primary whether a process waits for a synchronous standby to
// confirm its commit. PostgreSQL makes a commit that is cancelled then visible although
// no standby may have it: after a failover it would be gone. It is safe for concurrent
// use.
type commitWaits struct {
	cluster Cluster
	lookups *lookups

	// turn is held by who uses what follows.
	turn   chan struct{}
	conn   *lookupConn // kept open, for a server that is full takes no new one
	closed bool
}

func newCommitWaits(c Cluster, l *lookups) *commitWaits {
	return &commitWaits{cluster: c, lookups: l, turn: make(chan struct{}, 1)}
}

// forbidsCancel reports that the server of a loan must not be told to cancel what it
// does, which may be a commit. Without synchronous standbys it costs nothing. err is why
// the server was not asked or did not answer; then it is to be feared.
func (w *commitWaits) forbidsCancel(ctx context.Context, sc *serverConn) (forbidden bool, err error) {
	if sc.tenure == nil || w.cluster.State().Sync.Method == cluster.SyncNone {
		return false, nil
	}
	ctx, done := context.WithTimeout(ctx, commitWaitTimeout)
	defer done()
	waits, err := w.ask(ctx, sc)
	return waits || err != nil, err
}

func (w *commitWaits) ask(ctx context.Context, sc *serverConn) (waits bool, err error) {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if w.closed {
		return false, net.ErrClosed
	}
	rules := w.lookups.rules.Load()
	if w.conn == nil || w.conn.IsClosed() || w.conn.tenure != sc.tenure || w.conn.rules != rules {
		w.drop()
		b := cluster.Backend{Name: sc.backend, Address: sc.address}
		if w.conn, err = w.lookups.connect(ctx, b, sc.tenure, rules.monitor.Database, commitWaitTimeout); err != nil {
			return false, err
		}
	}
	var event string
	var visible bool
	err = w.conn.QueryRow(ctx, commitWaitQuery, int32(sc.pid)).Scan(&event, &visible)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil // it has ended
	case err != nil:
		return false, err
	case !visible:
		return false, errNotAllowedToSee
	}
	return event == "SyncRep", nil
}

// drop closes the connection; the turn is held.
func (w *commitWaits) drop() {
	if w.conn != nil {
		closeLookups([]*lookupConn{w.conn})
		w.conn = nil
	}
}

// close ends the connection; who asks afterwards gets no answer.
func (w *commitWaits) close() {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	w.drop()
	w.closed = true
}
