package health

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	primarySample = `SELECT pg_current_wal_insert_lsn(), pg_walfile_name(pg_current_wal_insert_lsn()),
		pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_block_size')`

	// From left to right: a position is in the history of a timeline that was
	// followed later, and what was read before "in recovery" was read in recovery.
	standbySample = `SELECT pg_last_wal_replay_lsn(), ` + standbyTimeline + `, pg_is_in_recovery()`
)

// errSoon is why a question is not asked: the connection could not be opened a
// moment ago.
var errSoon = errors.New("sample: too soon after a failed connection")

// asker keeps a connection to one backend and asks it for its position, as the
// primary or as a standby, whichever it is to the cluster at that moment. Its
// goroutine owns the fields below life.
type asker struct {
	s      *Sampler
	target Target
	name   string        // of target
	wake   chan struct{} // capacity 1: ask

	life uint64 // raised by forget; guarded by Sampler.mu

	conn     *pgconn.PgConn // nil: none
	opened   uint64         // life when conn was opened
	timeline uint32         // highest seen on conn, see facts.timeline
	started  time.Time      // of the last question
	failed   time.Time      // when conn could not be opened; zero: it could
}

// notify wakes the asker; while it is busy one more question follows, for its
// present one may have been sent too early.
func (a *asker) notify() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run asks when woken until ctx ends.
func (a *asker) run(ctx context.Context) {
	defer a.close()
	again := false
	for {
		if !again {
			a.idle(ctx)
		}
		if !a.pause(ctx, sampleGap) {
			return
		}
		select {
		case <-a.wake: // before the round gets its number: a later wake is another round
		default:
		}
		again = a.question(ctx)
	}
}

// question asks once and tells whether to ask again without being woken.
func (a *asker) question(ctx context.Context) bool {
	if a.opened != a.s.lifeOf(a) {
		a.close()
	}
	if !a.s.wanted() {
		return false // woken to forget
	}
	a.started = time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.s.timeout.Load()))
	defer cancel()
	primary, _ := a.s.primary()
	connected := a.conn != nil
	if err := a.ask(ctx, a.name == primary); err != nil {
		if errors.Is(err, errSoon) || errors.Is(ctx.Err(), context.Canceled) {
			return false
		}
		if a.conn == nil || a.conn.IsClosed() {
			a.broken()
		}
		if connected {
			a.s.poke(a.name) // else the prober knows already
		}
		return false
	}
	return a.name != primary && behind(a.s.Samples(), a.name)
}

func (a *asker) ask(ctx context.Context, primary bool) error {
	if err := a.open(ctx); err != nil {
		return err
	}
	if primary {
		return a.askPrimary(ctx)
	}
	return a.askStandby(ctx)
}

func (a *asker) askPrimary(ctx context.Context) error {
	round := a.s.round.Add(1) // before the query is sent: the promise of Mark
	r, err := a.query(ctx, primarySample)
	if err != nil {
		return err
	}
	lsn, timeline := r.lsn(), r.fileTimeline(r.text())
	lsn = trimHeader(lsn, r.uint(64), r.uint(64))
	if r.err != nil {
		return fmt.Errorf("sample primary: %w", r.err)
	}
	a.s.publishPrimary(a.name, round, timeline, lsn)
	return nil
}

func (a *asker) askStandby(ctx context.Context) error {
	r, err := a.query(ctx, standbySample)
	if err != nil {
		return err
	}
	lsn, timeline, recovery := r.lsn(), uint32(r.uint(32)), r.text()
	if r.err != nil {
		return fmt.Errorf("sample standby: %w", r.err)
	}
	if recovery != "t" {
		a.s.drop(a) // promoted: its positions mean something else now
		return nil
	}
	a.timeline = max(a.timeline, timeline)
	a.s.publishReplayed(a, a.opened, cluster.Replayed{Backend: a.name, Timeline: a.timeline, LSN: lsn})
	return nil
}

// query runs one of the prepared statements and returns its only row.
func (a *asker) query(ctx context.Context, sql string) (*row, error) {
	result := a.conn.ExecPrepared(ctx, statementName(sql), nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("sample: %w", result.Err)
	}
	if len(result.Rows) != 1 {
		return nil, fmt.Errorf("sample: %d rows", len(result.Rows))
	}
	return &row{values: result.Rows[0]}, nil
}

func statementName(sql string) string {
	if sql == primarySample {
		return "primary"
	}
	return "standby"
}

// open makes sure that there is a connection.
func (a *asker) open(ctx context.Context) error {
	if a.conn != nil {
		return nil
	}
	if !a.failed.IsZero() && time.Since(a.failed) < sampleWait {
		return errSoon
	}
	life := a.s.lifeOf(a) // before: what is forgotten while connecting closes it again
	conn, err := a.connect(ctx)
	if err != nil {
		a.failed = time.Now()
		return err
	}
	a.conn, a.opened, a.timeline, a.failed = conn, life, 0, time.Time{}
	return nil
}

func (a *asker) connect(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := connect(ctx, a.s.conn, a.name)
	if err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	for _, sql := range []string{primarySample, standbySample} {
		if _, err := conn.Prepare(ctx, statementName(sql), sql, nil); err != nil {
			disconnect(conn)
			return nil, fmt.Errorf("sample: %w", err)
		}
	}
	return conn, nil
}

// broken drops the connection and all that was learnt on it.
func (a *asker) broken() {
	a.close()
	a.s.drop(a)
}

func (a *asker) close() {
	if a.conn == nil {
		return
	}
	disconnect(a.conn)
	a.conn = nil
}

// idle returns when woken. It watches the connection meanwhile, so that the end
// of the server is known when it happens and not at the next question.
func (a *asker) idle(ctx context.Context) {
	if a.conn == nil {
		select {
		case <-ctx.Done():
		case <-a.wake:
		}
		return
	}
	watch, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for watch.Err() == nil && !a.conn.IsClosed() {
			// Returns for each notification, which nobody sends, or an error.
			_ = a.conn.WaitForNotification(watch)
		}
	}()
	select {
	case <-ctx.Done():
	case <-a.wake:
	case <-ended:
	}
	stop()
	<-ended
	if ctx.Err() == nil && a.conn.IsClosed() {
		a.broken()
		a.s.poke(a.name)
	}
}

// pause waits until that time since the last question and tells whether to go on.
func (a *asker) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(time.Until(a.started.Add(d)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
