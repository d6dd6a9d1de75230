package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	// settingWait bounds how long a reload may take to be seen.
	settingWait = 5 * time.Second
	// detachWait bounds how long a walreceiver may take to end.
	detachWait = 5 * time.Second
	// promoteWait bounds a promotion; then it has failed for good.
	promoteWait = time.Minute
	// checkpointWait bounds a checkpoint.
	checkpointWait = 10 * time.Minute
)

// detach cuts the standby off: no primary_conninfo, and its walreceiver seen gone.
func (a *Agent) detach(ctx context.Context) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if err := a.setUpstream(ctx, conn, "", ""); err != nil {
		return fmt.Errorf("detach standby: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, detachWait)
	defer cancel()
	err = pollUntil(bounded, func() (bool, error) {
		row, err := query(bounded, conn, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
		return err == nil && row[0] == "0", err
	})
	if err != nil {
		return fmt.Errorf("detach standby: wait for the end of its walreceiver: %w", err)
	}
	return nil
}

// follow points a running standby at source.
func (a *Agent) follow(ctx context.Context, source *cluster.Backend) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if err := a.setUpstream(ctx, conn, a.conninfo(source), a.slotOn(source)); err != nil {
		return fmt.Errorf("follow %s: %w", source.Name, err)
	}
	return nil
}

// setUpstream changes where a running standby gets its log from, and waits until the
// server has taken it over: a session takes a new setting over after the postmaster
// has, which has told the startup process by then.
func (a *Agent) setUpstream(ctx context.Context, conn *pgconn.PgConn, conninfo, slot string) error {
	// ALTER SYSTEM runs outside of a transaction only.
	for _, sql := range []string{
		"ALTER SYSTEM SET primary_slot_name = " + quoteLiteral(slot),
		"ALTER SYSTEM SET primary_conninfo = " + quoteLiteral(conninfo),
		"SELECT pg_reload_conf()",
	} {
		if _, err := queryRows(ctx, conn, sql); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settingWait)
	defer cancel()
	err := pollUntil(ctx, func() (bool, error) {
		row, err := query(ctx, conn, "SELECT current_setting('primary_conninfo'), current_setting('primary_slot_name')")
		return err == nil && row[0] == conninfo && row[1] == slot, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("primary_conninfo stays as it was: it is set in another place than postgresql.auto.conf")
	}
	return err
}

// promote makes the standby a primary and waits until it is one. It waits for no
// checkpoint; one is asked for when the promotion is done.
func (a *Agent) promote(ctx context.Context, t *task) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	// A paused replay would go on within a second only.
	if _, err := query(ctx, conn, "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume()::text END"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if err := a.skipRecorded(); err != nil {
		return err
	}
	if err := a.confirm(ctx, t); err != nil { // all that takes time is done
		return err
	}
	row, err := query(ctx, conn, "SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(false) END")
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if row[0] == "f" {
		return errors.New("promote: the server could not be told")
	}
	bounded, cancel := context.WithTimeout(ctx, promoteWait)
	defer cancel()
	err = pollUntil(bounded, func() (bool, error) {
		row, err := query(bounded, conn, "SELECT pg_is_in_recovery()")
		return err == nil && row[0] == "f", err
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil && bounded.Err() != nil:
		return final("it has not become a primary within %v", promoteWait)
	case err != nil:
		return fmt.Errorf("promote: %w", err)
	}
	a.askCheckpoint()
	return nil
}

// skipRecorded makes the number of the recorded timeline one that the server has
// seen. A candidate that never followed the last primary would take it a second time;
// PostgreSQL takes the first number without a history file (xlog.c, findNewestTimeLine).
func (a *Agent) skipRecorded() error {
	state := a.deps.State()
	if state.Timeline < 2 || len(state.History) == 0 {
		return nil
	}
	path := filepath.Join(a.dataDir(), "pg_wal", fmt.Sprintf("%08X.history", state.Timeline))
	if exists(path) {
		return nil
	}
	var text strings.Builder
	for _, f := range state.History {
		fmt.Fprintf(&text, "%d\t%s\tknown to the cluster\n", f.Timeline, f.End)
	}
	if err := writeFile(path, []byte(text.String())); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return nil
}

// checkpoint makes one and waits for it.
func (a *Agent) checkpoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointWait)
	defer cancel()
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if _, err := queryRows(ctx, conn, "CHECKPOINT"); err != nil {
		return fmt.Errorf("make checkpoint: %w", err)
	}
	return nil
}

// checkpointOn makes one on source, which pg_rewind goes by: without it source's
// control file still has the timeline of before its promotion, and pg_rewind says
// that no rewind is required (measured on 15). Where the replication role may not
// make one (before PostgreSQL 15), source's own agent does after its promotion.
func (a *Agent) checkpointOn(ctx context.Context, source *cluster.Backend, timeline uint32) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointWait)
	defer cancel()
	conn, err := a.connectTo(ctx, source, false)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	_, denied := queryRows(ctx, conn, "CHECKPOINT")
	if pg, ok := errors.AsType[*pgconn.PgError](denied); denied != nil && (!ok || pg.Code != "42501") {
		return fmt.Errorf("make checkpoint on %s: %w", source.Name, denied)
	}
	err = pollUntil(ctx, func() (bool, error) {
		row, err := query(ctx, conn, "SELECT timeline_id FROM pg_control_checkpoint()")
		if err != nil {
			return false, err
		}
		r := reader{row: row}
		return r.number() >= uint64(timeline), r.err
	})
	if err != nil {
		return fmt.Errorf("wait for a checkpoint on %s: %w", source.Name, err)
	}
	return nil
}

// logGone asks source for the log that a standby needs next, as its walreceiver
// would, and tells whether it was removed.
func (a *Agent) logGone(ctx context.Context, source *cluster.Backend, s seen) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	conn, err := a.connectTo(ctx, source, true)
	if err != nil {
		return false, err
	}
	defer hangUp(conn)
	from := s.End - s.End%cluster.LSN(max(1, s.layout.Segment))
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", from, s.Timeline)})
	if err := conn.Frontend().Flush(); err != nil {
		return false, fmt.Errorf("ask %s for log: %w", source.Name, err)
	}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
			return removed(pg.Code, pg.Message), nil
		}
		if err != nil {
			return false, fmt.Errorf("ask %s for log: %w", source.Name, err)
		}
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			return removed(m.Code, m.Message), nil
		case *pgproto3.CopyData:
			if len(m.Data) > 0 && m.Data[0] == 'w' {
				return false, nil // it has it
			}
		case *pgproto3.CopyDone, *pgproto3.ReadyForQuery:
			return false, nil
		}
	}
}

// removed tells whether a walsender's error is that of a file that is gone: the code
// is that of ENOENT.
func removed(code, message string) bool {
	return code == "58P01" || strings.Contains(message, "has already been removed")
}
