package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// seen is the outcome of one look.
type seen struct {
	began time.Time
	ended time.Time
	pid   int // of the postmaster; 0 none
	Server
	files    Files
	filesErr error
	layout   layout // of a server that has told; else zero
	quiet    bool   // a standby with an empty primary_conninfo and without a walreceiver
	err      error  // why not all could be seen; nil else
}

// look looks at the local server. It returns within agent.timeout or a little more
// even when the server, or its disk, does not answer.
func (a *Agent) look(ctx context.Context) seen {
	s := seen{began: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	s.DiskSlow = a.disk.slow(a.cfg.Timeout)
	done := make(chan seen, 1)
	if a.stuck.CompareAndSwap(false, true) { // else the one before has not come back: one is enough
		go func() {
			out := a.lookAtFiles(ctx, s)
			a.stuck.Store(false)
			done <- out
		}()
	}
	select {
	case s = <-done:
	case <-time.After(2 * a.cfg.Timeout):
		// A read of the data directory does not return; that goroutine ends when it does.
		s.State, s.DiskSlow, s.err = cluster.ServerHung, true, errors.New("its data directory cannot be read")
	}
	s.ended = time.Now()
	return s
}

func (a *Agent) lookAtFiles(ctx context.Context, s seen) seen {
	dir := a.dataDir()
	s.Signal = exists(filepath.Join(dir, "standby.signal"))
	s.Backup = exists(filepath.Join(dir, "backup_label"))
	s.files, s.filesErr = a.files.read(dir)
	s.pid = postmaster(dir)
	switch {
	case s.pid != 0:
		a.ask(ctx, &s)
	case len(processesIn(dir)) > 0:
		// The children of a postmaster that was killed: what they do still counts.
		s.State, s.err = cluster.ServerHung, errors.New("its postmaster is gone, other processes are not")
	case !exists(filepath.Join(dir, "PG_VERSION")):
		s.State = cluster.ServerMissing
	default:
		s.State = cluster.ServerStopped
		s.err = a.lookAtControl(ctx, dir, &s)
	}
	s.err = errors.Join(s.err, s.filesErr)
	return s
}

// lookAtControl reads the files of a server that does not run.
func (a *Agent) lookAtControl(ctx context.Context, dir string, s *seen) error {
	c, err := a.readControl(ctx)
	if err != nil {
		return err
	}
	s.Clean, s.Produced, s.SystemID, s.Rewindable = c.clean(), c.produced(), c.systemID, c.rewindable
	if s.End, s.Timeline, err = c.end(dir); err != nil {
		s.Clean = false // as after a crash: a rewind finds out
		s.End, s.Timeline = c.checkpoint, c.timeline
	}
	s.History = readHistory(dir, s.Timeline)
	s.Recorded = readHistory(dir, a.deps.State().Timeline)
	return err
}

// lookQuery is answered in the order of its statements: that there is no
// walreceiver is seen before the positions are, so that they do not grow any more. A
// walreceiver whose source lacks the log streams, too, for some milliseconds.
const lookQuery = `SELECT
	current_setting('data_directory'), current_setting('config_file'), current_setting('hba_file'), current_setting('ident_file'),
	current_setting('server_version_num'), pg_size_bytes(current_setting('wal_segment_size')),
	current_setting('primary_conninfo'), current_setting('primary_slot_name'),
	current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on',
	(SELECT system_identifier FROM pg_control_system()),
	EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
	(SELECT status FROM pg_stat_wal_receiver JOIN pg_stat_activity USING (pid) WHERE backend_start < clock_timestamp() - interval '200 ms'),
	(SELECT received_tli FROM pg_stat_wal_receiver),
	(SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE backend_type = 'startup');
SELECT
	CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END,
	CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,
	pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(),
	(SELECT timeline_id FROM pg_control_checkpoint()), (SELECT min_recovery_end_timeline FROM pg_control_recovery());
` + slotQuery

// ask asks the running server about itself.
func (a *Agent) ask(ctx context.Context, s *seen) {
	results, err := a.askOnce(ctx)
	if err != nil {
		s.State, s.err = stateOf(err), err
		return
	}
	r := reader{row: textRows(results[0])[0]}
	s.layout.DataDirectory, s.layout.ConfigFile = r.text(), r.text()
	s.layout.HBAFile, s.layout.IdentFile = r.text(), r.text()
	s.layout.Version, s.layout.Segment = int(r.number()), r.number()
	conninfo, slot := r.text(), r.text()
	s.Rewindable = r.text() == "t"
	id, err := strconv.ParseInt(r.text(), 10, 64) // a bigint in the catalog, unsigned in pg_control
	if err != nil {
		s.State, s.err = cluster.ServerUnknown, fmt.Errorf("read system identifier: %w", err)
		return
	}
	s.SystemID = uint64(id)
	s.Receiver = r.text() == "t"
	status, received := r.text(), uint32(r.number())
	waits := r.text()

	if resolved, err := filepath.EvalSymlinks(s.layout.DataDirectory); err != nil || resolved != a.dataDir() {
		s.State, s.err = cluster.ServerUnknown, fmt.Errorf("agent.connect reaches a server whose data directory is %s", s.layout.DataDirectory)
		return
	}

	r.row = textRows(results[1])[0]
	flushed, walFile := r.lsn(), r.text()
	receivedTo, replayed := r.lsn(), r.lsn()
	control := max(uint32(r.number()), uint32(r.number()))
	dir := a.dataDir()
	if walFile != "" {
		s.State, s.End = cluster.ServerPrimary, flushed
		tli, err := strconv.ParseUint(walFile[:8], 16, 32)
		if err != nil {
			r.fail(err)
		}
		s.Timeline = uint32(tli)
	} else {
		s.State, s.End = cluster.ServerStandby, max(receivedTo, replayed)
		s.Follows = a.follows(conninfo, slot)
		s.Streaming = status == "streaming"
		s.quiet = conninfo == "" && !s.Receiver
		// A walreceiver is asked for when all log that is there was read: without one
		// so far, the startup process says whether it is (it waits for more, or for an
		// operator).
		s.Replays = receivedTo == 0 && !waitsForLog[waits]
		if s.Timeline = received; received == 0 {
			s.Timeline = max(timelineAt(dir, s.End, s.layout.Segment), control)
		}
	}
	s.History = readHistory(dir, s.Timeline)
	s.Recorded = readHistory(dir, a.deps.State().Timeline)
	s.Slots = a.parseSlots(textRows(results[2]))
	if r.err != nil {
		s.State, s.err = cluster.ServerUnknown, fmt.Errorf("read what the server says: %w", r.err)
	}
}

// waitsForLog are the wait events of a startup process that has read all there is
// (PostgreSQL manual, "Wait Events").
var waitsForLog = map[string]bool{
	"RecoveryRetrieveRetryInterval": true, // asks its sources in turn
	"RecoveryWalStream":             true, // a walreceiver is to bring more
	"RecoveryWalAll":                true, // the name of that before version 13
	"RecoveryPause":                 true, // pg_wal_replay_pause()
}

func (a *Agent) askOnce(ctx context.Context) ([]*pgconn.Result, error) {
	conn, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	results, err := conn.Exec(ctx, lookQuery).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("ask the local server: %w", err)
	}
	if len(results) != 3 || len(results[0].Rows) != 1 || len(results[1].Rows) != 1 {
		return nil, errors.New("ask the local server: unexpected shape of the answer")
	}
	return results, nil
}

// stateOf says what the failure of a session with a live postmaster means.
func stateOf(err error) cluster.ServerState {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pg.Code == "57P03" { // starting up, shutting down, or not yet consistent
			return cluster.ServerStarting
		}
		return cluster.ServerUnknown // alive; it does not let us in
	}
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return cluster.ServerHung
	}
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return cluster.ServerStarting // its socket is not there yet
	}
	return cluster.ServerStarting // it ends sessions: on its way up or down
}

// follows names the backend that a primary_conninfo is of.
func (a *Agent) follows(conninfo, slot string) string {
	if conninfo == "" {
		return ""
	}
	state := a.deps.State()
	for i := range state.Backends {
		if b := &state.Backends[i]; b.Name != a.deps.Backend && conninfo == a.conninfo(b) && slot == a.slotOn(b) {
			return b.Name
		}
	}
	return Elsewhere
}

// slotOn is the slot that this server uses on b: only an agent there makes it, and
// only where pgproxy manages the servers.
func (a *Agent) slotOn(b *cluster.Backend) string {
	if b.Agent == "" || !a.deps.Managed {
		return ""
	}
	return slotName(a.deps.Backend)
}

// reader takes the columns of a row in turn and keeps the first error.
type reader struct {
	row []string
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) text() string {
	if len(r.row) == 0 {
		r.fail(errors.New("a column is missing"))
		return ""
	}
	v := r.row[0]
	r.row = r.row[1:]
	return v
}

// number is 0 for NULL.
func (r *reader) number() uint64 {
	v := r.text()
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		r.fail(err)
	}
	return n
}

// lsn is 0 for NULL.
func (r *reader) lsn() cluster.LSN {
	v := r.text()
	if v == "" {
		return 0
	}
	l, err := cluster.ParseLSN(v)
	if err != nil {
		r.fail(err)
	}
	return l
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
