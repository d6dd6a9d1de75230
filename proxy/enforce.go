package proxy

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Between two looks at all sessions is at least a sweepShare of the shortest bound,
	// but no less than minSweep and no more than maxSweep. A limit strikes late by that.
	minSweep   = 100 * time.Millisecond
	maxSweep   = time.Second
	sweepShare = 10
	// cancelGrace is how long a statement may go on after it was cancelled.
	cancelGrace = 5 * time.Second
	never       = int64(math.MaxInt64)
)

// clock publishes since when a session does what it does, in monotonic's time. It is
// written under the session's lock and read by the sweep without.
type clock struct {
	since       atomic.Int64  // its state began; while it is active: the statement that is being answered
	transaction atomic.Int64  // it has been in a transaction block; 0: it is in none
	writes      atomic.Uint64 // begun and ended writes to the client: odd while one is under way

	answered  bool // a batch was answered since note was called,
	committed bool // a transaction was committed,
	told      bool // the client was answered without a server
}

// note is called when the state of the session may have changed.
func (c *clock) note(now int64, was, is sessionState, inTransaction bool) {
	if is != was || c.answered || c.told && is != stateActive {
		c.since.Store(now)
	}
	switch began := c.transaction.Load(); {
	case !inTransaction && began != 0:
		c.transaction.Store(0)
	case inTransaction && (began == 0 || c.committed): // also for AND CHAIN
		c.transaction.Store(now)
	}
	c.answered, c.committed, c.told = false, false, false
}

// watched is what the sweep knows of a session. Only the sweep uses it, but for ending.
type watched struct {
	limits *limits      // that entry is from
	entry  *LimitConfig // nil: nothing bounds the session
	ending atomic.Bool  // the session is being ended

	cancelled   int64 // doing.since of the statement that was cancelled; 0 none
	cancelledAt int64

	writes uint64 // clock.writes when the client was last looked at
	taken  uint64 // what it had taken
	moved  int64  // when it was last seen to take something; 0: nothing waits for it
}

// doing is what a session does, and since when.
type doing struct {
	state              sessionState
	since, transaction int64 // of clock
}

func (s *clientSession) doing() doing {
	return doing{s.state.Load(), s.clock.since.Load(), s.clock.transaction.Load()}
}

// breach is what a session does beyond a limit.
type breach struct {
	limit  limitKey      // "": nothing
	bound  time.Duration // its value
	cancel bool          // cancel the statement; else end the session
	doing  doing
}

// limitKey names a limit as the configuration does.
type limitKey string

// The limits that strike.
const (
	limitMaxClients        limitKey = "max_clients"
	limitQuery             limitKey = "query"
	limitTransaction       limitKey = "transaction"
	limitIdleInTransaction limitKey = "idle_in_transaction"
	limitIdle              limitKey = "idle"
	limitStalled           limitKey = "stalled"
)

// judge compares what a session does with its limits. next is when there may be a
// breach if it goes on doing so.
func (w *watched) judge(d doing, now int64) (b breach, next int64) {
	e := w.entry
	next = never
	bound := func(limit limitKey, began int64, bound time.Duration) {
		if end := began + int64(bound); began != 0 && bound > 0 && end < next {
			b, next = breach{limit: limit, bound: bound, doing: d}, end
		}
	}
	bound(limitTransaction, d.transaction, e.Transaction)
	switch d.state {
	case stateActive:
		bound(limitQuery, d.since, e.Query)
	case stateInTransaction:
		bound(limitIdleInTransaction, d.since, e.IdleInTransaction)
	case stateIdle:
		bound(limitIdle, d.since, e.Idle)
	case stateHeld: // hold.timeout and pool.wait are for that
	}
	switch {
	case next > now:
		return breach{}, next
	case d.state != stateActive:
		return b, now
	// A transaction that may be about to commit is not cut off either: then nobody
	// would know whether it has.
	case w.cancelled != d.since:
		b.cancel = true
		return b, now
	case now-w.cancelledAt < int64(cancelGrace):
		return breach{}, now // look again soon
	}
	return b, now
}

// stalled tells whether the client has taken nothing of what waits for it for too
// long, and when to look again. taken counts the bytes that it has taken.
func (w *watched) stalled(writes, taken uint64, now int64) (late bool, next int64) {
	bound := int64(w.entry.Stalled)
	if w.moved == 0 || writes != w.writes || taken != w.taken {
		w.writes, w.taken, w.moved = writes, taken, now
	}
	return now-w.moved >= bound, min(w.moved+bound, now+bound/stallLooks)
}

// enforce keeps the sessions to their limits until ctx ends.
func (sh *sessions) enforce(ctx context.Context) {
	var acts sync.WaitGroup
	defer acts.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sh.relimit:
		case <-timer.C:
		}
		l := sh.limits.Load()
		if l.shortest == 0 {
			timer.Stop()
			continue
		}
		timer.Reset(sh.sweep(l, func(s *clientSession, b breach) {
			acts.Go(func() { sh.act(ctx, s, b) })
		}))
	}
}

// sweep looks at all sessions, has act called for those that are beyond a limit, and
// returns when to do it again: who begins something meanwhile is not late before the
// shortest bound is over.
func (sh *sessions) sweep(l *limits, act func(*clientSession, breach)) time.Duration {
	now := monotonic()
	next := now + int64(l.shortest)
	type overdue struct {
		session *clientSession
		breach  breach
	}
	var late []overdue
	var writing []*clientSession
	sh.mu.Lock()
	for _, s := range sh.mu.byID {
		w := &s.watched
		if w.limits != l {
			w.limits, w.entry = l, l.of(s.client.user, s.client.database)
		}
		if w.entry == nil || w.ending.Load() {
			continue
		}
		b, at := w.judge(s.doing(), now)
		if b.limit != "" {
			late = append(late, overdue{s, b})
		}
		next = min(next, at)
		if w.entry.Stalled > 0 && s.clock.writes.Load()%2 == 1 {
			writing = append(writing, s)
		} else {
			w.moved = 0
		}
	}
	sh.mu.Unlock()
	for _, s := range writing {
		stalled, at := s.watched.stalled(s.clock.writes.Load(), takenBytes(s.client.raw), now)
		if stalled {
			late = append(late, overdue{s, breach{limit: limitStalled, bound: s.watched.entry.Stalled}})
		}
		next = min(next, at)
	}
	for _, o := range late {
		w := &o.session.watched
		switch {
		case w.ending.Load():
			continue // for another limit
		case o.breach.cancel:
			w.cancelled, w.cancelledAt = o.breach.doing.since, now
		default:
			w.ending.Store(true)
		}
		act(o.session, o.breach)
	}
	return max(time.Duration(next-now), min(max(minSweep, l.shortest/sweepShare), maxSweep))
}

// act cancels the statement of a session or ends it.
func (sh *sessions) act(ctx context.Context, s *clientSession, b breach) {
	var did bool
	var err error
	switch {
	case b.cancel:
		did, err = s.cancelOverdue(ctx, b.doing)
	case b.limit == limitStalled:
		did = true
		s.abort()
	default:
		refusal := b.refusal()
		did = s.end(refusal, func() bool { return s.doing() == b.doing })
	}
	if !did {
		s.watched.ending.Store(false) // it has gone on in the nick of time
		return
	}
	sh.metrics.limited(b.limit)
	sh.log.Info("a session is beyond its limit", "limit", string(b.limit), "bound", b.bound, "cancel", b.cancel,
		"session", s.id, "client", s.client.addr(), "user", s.client.user, "database", s.client.database, "error", err)
}

// cancelOverdue cancels the statement that a session was seen to run, unless it is
// over. Nothing else begins in the session until the server has been told, so that it
// cannot strike another statement, except one that was sent already.
func (s *clientSession) cancelOverdue(ctx context.Context, seen doing) (did bool, err error) {
	s.mu.Lock()
	if s.doing() != seen || s.mu.over {
		s.mu.Unlock()
		return false, nil
	}
	s.mu.cancelling = true
	s.mu.Unlock()
	err = s.shared.cancels.cancelFor(ctx, s)
	s.mu.Lock()
	s.mu.cancelling = false
	s.progressed()
	s.mu.Unlock()
	return true, err
}

// awaitCancel waits until no cancel for a limit is under way. The lock is held.
func (s *clientSession) awaitCancel() {
	for s.mu.cancelling && !s.mu.over {
		s.wait()
	}
}

// refusal is what the client is told whose session ends. The SQLSTATEs are those of
// PostgreSQL's own timeouts.
func (b *breach) refusal() *Refusal {
	code, what := codeIdleSession, "idle for longer than "
	switch b.limit {
	case limitQuery:
		code, what = codeQueryCanceled, "a statement ran for longer than "
	case limitTransaction:
		code, what = codeTransactionTimeout, "a transaction lasted longer than "
	case limitIdleInTransaction:
		code, what = codeIdleInTransaction, "idle in a transaction for longer than "
	case limitIdle, limitMaxClients, limitStalled:
	}
	what += b.bound.String()
	if b.doing.state == stateActive {
		what += ", and the server does not cancel it: its outcome is unknown"
	}
	return &Refusal{Code: code, Message: "pgproxy: terminating connection: " + what}
}
