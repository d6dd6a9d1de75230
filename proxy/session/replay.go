package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// sent keeps what the client sent in the batches in flight on the standby, so
// that the primary can run them when the standby cannot.
type sent struct {
	kept
	slot Slot // where they are
	done int  // messages[:done] are answered
	from int  // those before it are over; from here they are inside a read-only transaction

	rows      bool // a row of the oldest unanswered batch was forwarded
	failed    bool // an error of it was
	forwarded int  // its other answers that were
	partial   bool // not everything is kept: there was too much

	pending bool // the batches wait for a connection to the primary
	skip    int  // answers of the primary that the client had from the standby already
}

// begin forgets what was kept and goes on with something else.
func (t *sent) begin(next sent) {
	next.kept = t.kept
	next.clear()
	*t = next
}

// keep remembers a message sent to the standby.
func (t *sent) keep(m *message, b []byte) {
	k := *m
	t.partial = t.partial || m.have < m.n || len(t.buf)+len(b) > maxLook
	if t.partial {
		if !m.endsBatch() && !m.begins() {
			return
		}
		b, k.have = nil, 0 // only what tells of the state stays
	}
	k.off = len(t.buf)
	t.buf = append(t.buf, b...)
	t.messages = append(t.messages, k)
}

// answered is called when the oldest unanswered batch is.
func (t *sent) answered() {
	for t.done < len(t.messages) {
		t.done++
		if t.messages[t.done-1].endsBatch() {
			break
		}
	}
	t.rows, t.failed, t.forwarded = false, false, 0
}

// moved reports a transaction that was opened on the standby and is on its way to the
// primary, which says so only with its first answer.
func (t *sent) moved() bool { return t.slot == Primary && t.from < t.done }

// trim forgets what is not needed any more.
func (t *sent) trim(keepAnswered bool) {
	if keepAnswered {
		return
	}
	t.from = t.done // not to be repeated, also while there is more behind it
	if t.done == len(t.messages) {
		next := *t
		next.from, next.done, next.partial = 0, 0, false
		t.begin(next)
	}
}

// readOnly is the state of a transaction opened by BEGIN READ ONLY on the standby.
type readOnly struct {
	open     bool // BEGIN was sent
	answered bool // it has answered a query: it cannot move to the primary any more
}

func (r *readOnly) replayable() bool { return r.open && !r.answered }

// readOnlyInFlight reports that a BEGIN READ ONLY is among the unanswered messages.
func (c *Core) readOnlyInFlight() bool {
	for i := c.sent.done; i < len(c.sent.messages); i++ {
		if c.sent.messages[i].begins() {
			return true
		}
	}
	return false
}

// inReadOnly reports that the standby's answers are those of a read-only
// transaction, and not of a batch before its BEGIN.
func (c *Core) inReadOnly() bool {
	if !c.readOnly.open || c.server[Standby].tx != pgwire.TxIdle {
		return c.readOnly.open
	}
	for i := c.sent.done; i < len(c.sent.messages); i++ {
		if m := &c.sent.messages[i]; m.begins() || m.endsBatch() {
			return m.begins()
		}
	}
	return false
}

// standbyBound reports that what is in flight on the standby cannot be given to the
// primary any more.
func (c *Core) standbyBound() bool {
	t := &c.sent
	return t.rows || t.failed || t.partial || c.readOnly.open && (c.readOnly.answered || c.server[Standby].tx == pgwire.TxFailed)
}

// standbyError decides what becomes of an error of the standby; true: the
// client does not see it.
func (c *Core) standbyError(e *expect, code string, body []byte) bool {
	s := c.server[Standby]
	// The result of a prepared statement has changed: no fault of the standby.
	planChanged := string(pgwire.ErrorField(body, 'R')) == "RevalidateCachedQuery"
	bound := c.standbyBound()
	if e.inject {
		if s.live == 0 {
			return false
		}
		if e.journal { // it cannot be brought to the session's settings
			c.pins |= pinApart
			s.leftover = true
		}
		if bound {
			return false
		}
		c.dropOwed(s)
		c.replay()
		return true
	}
	if code == "57014" || s.tx == pgwire.TxFailed {
		return false // cancelled by the client or by its own timeout
	}
	if !bound {
		switch code {
		case "25006", "0A000", "55000", "XX000":
			if !planChanged {
				c.distrust()
			}
		}
		c.dropOwed(s)
		stale := c.sent.messages[c.sent.done:]
		c.replay()
		if planChanged {
			c.dropStale(stale)
		}
		return true
	}
	if !recoveryError(code) || planChanged {
		return false // a row was sent, and the primary would fail alike
	}
	if c.readOnly.open && string(pgwire.ErrorField(body, 'R')) == "PreventCommandIfReadOnly" {
		return false // so it would in a read-only transaction of the primary
	}
	c.substitute(ownError("40001", "a standby could not finish the statement ("+code+"), try again"))
	c.env.Failed(Standby, false)
	c.skipAfterOwnError()
	return true
}

// recoveryError reports errors that come from being a standby, or from its loss.
func recoveryError(code string) bool {
	switch code {
	case "25006", "0A000", "55000", "XX000", "40001", "40P01":
		return true
	}
	return len(code) == 5 && (code[:2] == "57" || code[:2] == "58" || code[:2] == "53" || code[:2] == "XX")
}

// distrust tells of the statements of the batch that failed.
func (c *Core) distrust() {
	var last *statement
	for i := c.sent.done; i < len(c.sent.messages); i++ {
		m := &c.sent.messages[i]
		switch {
		case m.typ == pgwire.Query:
			if sql, _, ok := pgwire.CString(m.bytes(c.sent.buf)[pgwire.HeaderLen:]); ok {
				c.env.Distrust(sql)
			}
		case m.st != nil && m.st != last:
			c.env.Distrust(m.st.sqlText())
			last = m.st
		}
		if m.endsBatch() {
			return
		}
	}
}

// substitute gives the client an error of our own in the place of the standby's.
func (c *Core) substitute(raw []byte) { c.toClient(Standby, raw) }

// skipAfterOwnError treats the standby's current message as failed.
func (c *Core) skipAfterOwnError() {
	s := c.server[Standby]
	e := s.next()
	c.settings.failed = true
	e.failed, c.sent.failed = true, true
	if e.kind != pgwire.Query && e.kind != pgwire.Sync {
		c.skipOwed(s)
		c.stopMove()
	}
}

// stopMove is called after an error of the standby that the client gets: a batch
// that was to go on on the primary does not.
func (c *Core) stopMove() {
	if c.batch.moved {
		c.sent.answered()
		c.sent.trim(false)
		c.skipHeld()
	}
}

// replay gives all unanswered batches of the standby to the primary. What the
// standby still answers is swallowed.
func (c *Core) replay() {
	s := c.server[Standby]
	if s.ready && (c.busy() == Standby || c.batch.slot == Standby || c.readOnly.open) {
		s.swallow()
		c.leaveStandby()
	}
	if c.batch.slot == Standby {
		c.batch.slot = Primary
	}
	c.sent.pending = true
	if c.server[Primary].ready {
		c.emitReplay()
	} else {
		c.attaching = Primary
	}
}

// dropOwed takes the answers up to Sync from the ring as skipOwed does, but
// leaves the namespace to the primary's answers.
func (c *Core) dropOwed(s *server) {
	if e := s.next(); e.kind == pgwire.Query {
		return
	}
	s.undo()
	for e := s.next(); e != nil && e.kind != pgwire.Sync; e = s.next() {
		s.pop()
	}
	s.redo()
}

// leaveStandby ends what is open on the standby: the batch, the transaction.
func (c *Core) leaveStandby() {
	s := c.server[Standby]
	if c.batch.open && c.batch.slot == Standby {
		c.inject(Standby, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
	}
	if c.readOnly.open {
		c.inject(Standby, pgwire.AppendQuery(nil, "ROLLBACK"), expect{kind: pgwire.Query, rollback: true})
		s.rollingBack = true
	}
}

// emitReplay sends the batches to the primary. They are kept until it has answered
// them, for it may be lost, too.
func (c *Core) emitReplay() {
	t := &c.sent
	c.readOnly = readOnly{}
	t.pending, t.rows, t.failed, t.skip, t.slot = false, false, false, t.forwarded, Primary
	c.applySettings(Primary)
	c.sendNames()
	fresh := true
	for i := t.from; i < len(t.messages); i++ {
		m := &t.messages[i]
		if fresh {
			c.applySettings(Primary)
		}
		fresh = m.endsBatch()
		if (m.typ == pgwire.Bind || m.stmt) && m.st != nil && m.st.void { // its Parse was before what is repeated
			m.st = c.names.lookupAt([]byte(m.name), m.seq)
		}
		c.send(Primary, m, m.bytes(t.buf), -1, i < t.done)
	}
	if c.server[Primary].live == 0 {
		t.skip = 0
	}
}

// keepRead remembers a message sent to the primary, so that another one can do the
// same if it is lost (rule 2 of ServerClosed).
func (c *Core) keepRead(m *message, b []byte) {
	t := &c.sent
	switch {
	case t.partial:
	case c.server[Primary].tx != pgwire.TxIdle || len(t.buf)+len(b) > maxLook || c.batch.part || !c.repeatable(m):
		t.begin(sent{partial: true, skip: t.skip, slot: Primary})
	default:
		t.slot = Primary
		t.keep(m, b)
	}
}

// readAnswered is called when the primary has answered a batch.
func (c *Core) readAnswered() {
	switch t := &c.sent; {
	case c.server[Primary].live == 0 && !(c.batch.open && c.batch.given):
		t.done = len(t.messages)
		t.rows, t.failed, t.forwarded, t.partial = false, false, 0, false
		t.trim(false)
	case !t.partial:
		t.answered()
		t.trim(false)
	}
}

// failReplay answers the unanswered batches with an error, because there is no
// primary for them.
func (c *Core) failReplay(raw []byte) {
	t := &c.sent
	messages, done := t.messages, t.done
	*t = sent{}
	c.readOnly = readOnly{}
	failed := false
	for i := done; i < len(messages); i++ {
		m := &messages[i]
		c.names.cancel(m.op)
		if !failed {
			c.toClient(None, raw)
			failed = true
		}
		if m.endsBatch() {
			c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
			failed = false
		}
	}
	if failed { // the batch is still open
		c.skipHeld()
	}
	c.endIfDone()
}
