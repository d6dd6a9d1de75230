package proxy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// resetTimeout bounds the cleaning of a server connection after its release.
const resetTimeout = 5 * time.Second

// release ends a loan whose server waits for a query. leftClean: the session
// changed nothing that outlives it but what carried tells; otherwise the connection is
// cleaned in the background before anybody else gets it.
func (p *pools) release(sc *serverConn, leftClean bool) {
	quiet, ok := sc.end()
	if !ok {
		return
	}
	bp, l := sc.pool, sc.link
	dirty := !leftClean || sc.tx != pgwire.TxIdle || len(l.changed) > 0 && l.carried == nil
	if !dirty && quiet == nil {
		p.store(bp, l)
		return
	}
	p.mu.Lock()
	l.loan = nil
	if l.gen != bp.gen || p.mu.shutdown || l.key == "" {
		p.mu.Unlock()
		p.discard(bp, l)
		return
	}
	l.state = linkCleaning
	p.background.Add(1) // under the lock, so that shutdown waits for it
	p.mu.Unlock()
	go p.clean(bp, l, sc.tx, dirty, quiet)
}

// clean makes a link fit for somebody else and puts it among the idle ones, or closes
// it. quiet: closed when no cancel request is under way; nil: none is.
func (p *pools) clean(bp *backendPool, l *link, tx byte, dirty bool, quiet <-chan struct{}) {
	defer p.background.Done()
	if quiet != nil {
		// A cancel that arrives late must not hit the next holder. The server has sent
		// the signal before it closes the cancel's connection, and the query that follows
		// takes it.
		<-quiet
	}
	var err error
	if dirty {
		err = reset(l, tx)
	} else {
		err = absorb(l)
	}
	if err != nil {
		p.log.Debug("server connection not reused", "backend", l.backend, "error", err)
		p.discard(bp, l)
		return
	}
	p.store(bp, l)
}

// store puts a clean link among the idle ones, or closes it when there are enough.
func (p *pools) store(bp *backendPool, l *link) {
	_ = l.SetDeadline(time.Time{}) // fails only on a closed one, which quiet finds
	now := time.Now()
	p.mu.Lock()
	l.loan = nil
	if l.gen != bp.gen || p.mu.shutdown || l.key == "" || l.aged(now, p.mu.cfg.Lifetime) {
		p.mu.Unlock()
		p.discard(bp, l)
		return
	}
	l.idleSince = now
	if l.uses > 0 {
		l.group.used = now
	}
	out := bp.put(l)
	p.mu.Unlock()
	for _, l := range out {
		l.terminate()
	}
}

// expire takes out what has been idle for too long, but pool.min of what is in use, and
// what is too old, and forgets groups that nobody uses.
func (p *pools) expire() (out []*link) {
	cfg, now := &p.mu.cfg, time.Now()
	limit := now.Add(-cfg.Idle)
	for _, bp := range p.mu.byName {
		for key, g := range bp.groups {
			keep := 0
			if g.used.After(limit) {
				keep = cfg.Min
			}
			for len(g.idle) > keep && g.idle[0].idleSince.Before(limit) {
				bp.evict(g.idle[0], &out)
			}
			for _, l := range slices.Clone(g.idle) {
				if l.aged(now, cfg.Lifetime) {
					bp.evict(l, &out)
				}
			}
			if g.open == 0 && g.waiting.Len() == 0 && g.used.Before(limit) {
				delete(bp.groups, key)
			}
		}
	}
	return out
}

// aged reports that a link has lived for as long as it may.
func (l *link) aged(now time.Time, lifetime time.Duration) bool {
	return lifetime > 0 && now.Sub(l.created) > lifetime-time.Duration(l.jitter*float64(lifetime))
}

// reset brings a link whose server waits for a query back to the state after its
// login. What DISCARD ALL does not undo is the business of whoever released it.
func reset(l *link, tx byte) error {
	l.carried = nil
	var out []byte
	answers := 1
	if tx != pgwire.TxIdle {
		// Not always: outside a transaction it would write a warning to the server's log.
		out = pgwire.AppendQuery(out, "ROLLBACK")
		answers++
	}
	failed, err := roundTrip(l, pgwire.AppendQuery(out, "DISCARD ALL"), answers)
	switch {
	case err != nil:
		return fmt.Errorf("reset: %w", err)
	case failed != "":
		return fmt.Errorf("reset: server says %s", failed)
	case len(l.changed) > 0:
		return errors.New("reset: a reported setting differs from the one at login")
	}
	return nil
}

// absorb has the server take a signal that it has been sent: by an empty query, which
// may fail for it.
func absorb(l *link) error {
	if _, err := roundTrip(l, pgwire.AppendQuery(nil, ""), 1); err != nil {
		return fmt.Errorf("absorb a cancel request: %w", err)
	}
	return nil
}

// roundTrip sends queries and reads their answers. failed is the last error that the
// server has reported.
func roundTrip(l *link, queries []byte, answers int) (failed string, err error) {
	if err := l.SetDeadline(time.Now().Add(resetTimeout)); err != nil {
		return "", err
	}
	if _, err := l.Write(queries); err != nil {
		return "", err
	}
	var buf []byte
	for answers > 0 {
		typ, body, err := readMessage(l, &buf, maxLoginMessage)
		if err != nil {
			return "", err
		}
		switch typ {
		case pgwire.ErrorResponse:
			failed = string(pgwire.ErrorField(body, 'M'))
		case pgwire.ParameterStatus:
			if name, value, ok := pgwire.ReadParameterStatus(body); ok {
				l.noteParameter(string(name), string(value))
			}
		case pgwire.ReadyForQuery:
			if answers--; answers == 0 && (len(body) != 1 || body[0] != pgwire.TxIdle) {
				return "", errors.New("server is still in a transaction")
			}
		}
	}
	return failed, nil
}
