package session

import (
	"strings"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// What becomes of the batches in flight when their server is lost. PostgreSQL tells
// of an outcome only by its answer, so that without one:
//
//  1. Nothing of it was handed to a server: it is held and run on the next one.
//  2. All that is in flight begins outside of a transaction and keeps nothing outside
//     of the session (fate.go): it is run again, but for the oldest batch when the
//     client has a row of it, which is 40001.
//  3. Something handed over since may have committed a transaction: 08007 for all of
//     that transaction and for everything behind it.
//  4. Else the transaction is gone: 40001, and the session is in a failed transaction
//     (failed.go) until the client ends it.
//
// Rule 2 does not hold behind, or in front of, what falls under 3 or 4: a read that is
// run again must not see what came behind it. State of the session that was in the
// connection only is told of once, by the first of these errors, or by that of the
// next batch. Half a message that the client has of an answer ends the session, for
// nothing else can follow it.

// ServerClosed tells that the connection in that slot has ended.
func (c *Core) ServerClosed(slot Slot) {
	s := c.server[slot]
	if !s.ready {
		return
	}
	if slot == Primary && c.rare.judge.open {
		c.rare.judge.closed = true
		c.out[slot].discard()
		return
	}
	c.settleOldest(slot)
	if s.live > 0 || s.wrote || s.skipping || s.unsynced {
		c.answered(slot) // a part of it, or what was done all the same
	}
	if slot == Primary {
		c.noteWrite()
	}
	c.loseConfirm(slot)
	c.remove(slot)
	c.out[slot].discard()
	switch {
	case c.closed:
		return
	case s.left > 0 && !s.dropping, slot == Primary && c.garbled:
		c.closed = true
		return
	case slot == Standby && c.sent.pending:
		return // its batches wait for the primary already
	}
	open := s.unsynced || c.batch.open && c.batch.slot == slot && c.batch.begun
	if slot == Primary && c.deafened(s.live > 0 || open, s.tx) {
		return
	}
	l := loss{text: "the standby was lost while it answered"}
	if slot == Primary {
		l = loss{text: "the connection to the primary was lost", pins: c.pins & pinBound &^ c.rare.listens.kept()}
		c.pins &^= l.pins
	}
	c.leftBy(slot, s, open, l)
	c.listenAgain()
}

// settleOldest ends the oldest batch when only its ReadyForQuery is missing and what
// that would say is known: a statement that has been answered outside of a transaction
// was committed before.
func (c *Core) settleOldest(slot Slot) {
	s := c.server[slot]
	e := s.next()
	if e == nil || e.inject || e.failed || s.left > 0 || s.done != 1 || s.at != outside || e.fate.statements != 1 {
		return
	}
	switch e.fate.last {
	case deedNone, deedCommit, deedRollback:
	case deedWrite: // in the extended protocol it is committed by Sync
		if e.kind != pgwire.Query {
			return
		}
	default:
		return
	}
	if e.kind != pgwire.Query && e.kind != pgwire.Sync {
		return
	}
	if c.reply(slot, pgwire.ReadyForQuery, []byte{pgwire.TxIdle}) {
		c.toClient(slot, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
	}
}

// leftBy decides what becomes of what a server has left unfinished.
func (c *Core) leftBy(slot Slot, gone *server, open bool, l loss) {
	ro := slot == Standby && c.readOnly.open
	waiting := slot == Standby && c.batch.open && c.batch.slot == Standby ||
		slot == Primary && c.sent.moved()
	switch {
	case gone.live == 0 && !open && !ro && !waiting && (slot == Standby || gone.tx == pgwire.TxIdle):
		if l.pins != 0 {
			c.refuseNext(l.error("40001"))
		}
	case slot == Standby && c.sent.partial, slot == Standby && ro && c.standbyBound(),
		slot == Primary && (gone.tx != pgwire.TxIdle || l.pins != 0 || c.sent.partial),
		gone.at != outside && (c.sent.rows || c.sent.failed):
		c.abandon(slot, gone, open, l)
	case c.sent.rows || c.sent.failed:
		c.undoSettings()
		c.giveUpOldest(l.error("40001"))
	default:
		c.undoSettings()
		c.replay()
	}
}

// loss is what the errors about one lost server say.
type loss struct {
	text string
	pins pin // lost with it
}

// error is for a batch: 08007, or 40001.
func (l loss) error(code string) []byte {
	text := l.text
	if l.pins != 0 {
		text += ", and with it " + l.pins.String() + " of the session"
	}
	if code == "08007" {
		return ownError(code, text+", the outcome of the statement is unknown")
	}
	return ownError(code, text+", try again")
}

// String lists what a pinned session has in its connection.
func (p pin) String() string {
	var names []string
	for _, n := range []struct {
		pin  pin
		name string
	}{
		{pinTemporary, "temporary tables"},
		{pinLock, "advisory locks"},
		{pinCursor, "cursors"},
		{pinListen, "notifications"},
		{pinUnknown | pinDoubt, "state"},
	} {
		if p&n.pin != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, " and ")
}

// giveUpOldest answers the oldest batch, of which the client has rows, with an error,
// and runs those behind it again.
func (c *Core) giveUpOldest(raw []byte) {
	t := &c.sent
	if !t.failed {
		c.toClient(None, raw)
	}
	ended := false
	for t.done < len(t.messages) && !ended {
		m := &t.messages[t.done]
		c.names.cancel(m.op)
		ended = m.endsBatch()
		t.done++
	}
	t.rows, t.failed, t.forwarded, t.skip = false, false, 0, 0
	if !ended {
		c.skipHeld()
		t.trim(false)
		c.endIfDone()
		return
	}
	c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
	rest := append([]message(nil), t.messages[t.done:]...)
	t.messages, t.from, t.done = rest, 0, 0
	if len(rest) > 0 {
		c.replay()
		return
	}
	t.trim(false)
	c.endIfDone()
}

// flight is a batch that a lost server has not answered to its end.
type flight struct {
	owed   []expect
	fate   fate
	live   bool  // of the client, not of our own
	open   bool  // its end was not handed over
	failed bool  // the client has its error
	at     phase // with failed: where it came
}

// flights parts what a server owed into batches.
func flights(gone *server, open bool) (all []flight) {
	f := flight{}
	for i := gone.head; i < len(gone.ring); i++ {
		e := &gone.ring[i]
		f.owed = gone.ring[i-len(f.owed) : i+1]
		f.live = f.live || !e.inject && e.kind != copyEnd
		switch e.kind {
		case pgwire.Query, pgwire.FunctionCall, pgwire.Sync:
			f.fate, f.failed, f.open, f.at = e.fate, e.failed, f.live && e.inject, gone.at
			all = append(all, f)
			f = flight{}
		}
	}
	if f.live || open {
		f.live, f.open, f.fate, f.failed, f.at = true, true, gone.handed, gone.skipping, gone.at
		all = append(all, f)
	}
	return all
}

// next returns the phase behind the batch.
func (f *flight) next(p phase) phase {
	switch {
	case !f.failed:
		return f.fate.after(p)
	case f.at == outside:
		return outside
	}
	return doomed
}

// uncertain returns the first batch of those that may have been committed, with all of
// its transaction; the number of batches when there is none. Any of them may have failed,
// too, so that what is behind it was done in another phase.
func uncertain(all []flight, p phase) int {
	began, now := 0, only(p)
	for i := range all {
		f := &all[i]
		if now == only(outside) {
			began = i
		}
		switch {
		case f.failed:
			now = only(f.next(p))
		case f.live && f.fate.may(now):
			return began
		default:
			now = f.fate.perhaps(now)
		}
	}
	return len(all)
}

// abandon answers everything that a lost server has left unanswered (rules 3 and 4).
func (c *Core) abandon(slot Slot, gone *server, open bool, l loss) {
	c.forgetTransaction(slot)
	c.rarely()
	all := flights(gone, open)
	p := phaseOf(gone.tx)
	from := len(all)
	if slot == Primary { // a standby keeps nothing
		from = uncertain(all, p)
	}
	told := gone.at == doomed && l.pins == 0 // that the transaction is gone
	for i := range all {
		f := &all[i]
		here := p // where its error comes
		if i == 0 {
			here = gone.at
		}
		switch {
		case !f.live:
			p = f.next(p)
			continue
		case i >= from:
			if !f.failed {
				c.toClient(None, l.error("08007"))
			}
			if p, l.pins = f.next(p), 0; p != outside { // nothing of a transaction may run without its beginning
				p, told = doomed, true
			}
		case f.failed:
			p = f.next(p)
		case !f.open && p != outside && f.fate.ends(told):
			c.answerEnd(f)
			p, told = outside, false
			continue
		default:
			commit := f.fate.statements == 1 && f.fate.last == deedCommit
			if told && here != outside {
				c.toClient(None, abortedError())
				commit = false
			} else {
				c.toClient(None, l.error("40001"))
				told, l.pins = true, 0
			}
			if commit || here == outside && f.next(p) == outside {
				p, told = outside, false
			} else {
				p = doomed
			}
		}
		c.rare.failed.open = p != outside
		for _, e := range f.owed {
			c.names.cancel(e.op)
		}
		if f.open {
			c.skipHeld()
		} else {
			c.toClient(None, pgwire.AppendReadyForQuery(nil, c.status()))
		}
	}
	switch c.rare.failed.open = p != outside; {
	case c.rare.failed.open:
		c.lookAnew()
		if !told {
			c.rare.failed.due = l.error("40001")
		}
	case l.pins != 0:
		c.refuseNext(l.error("40001"))
	case slot == Standby && c.batch.slot == Standby:
		c.lookAnew()
	}
	c.endIfDone()
}

// answerEnd answers a batch in flight that ends a transaction which is gone.
func (c *Core) answerEnd(f *flight) {
	for _, e := range f.owed {
		if e.inject {
			continue
		}
		switch e.kind {
		case pgwire.Parse:
			c.toClient(None, pgwire.AppendEmpty(nil, pgwire.ParseComplete))
			c.names.confirm(e.op)
		case pgwire.Bind:
			c.toClient(None, pgwire.AppendEmpty(nil, pgwire.BindComplete))
		case pgwire.Describe:
			c.describeEnd(e.st != nil)
		case pgwire.Close:
			c.toClient(None, pgwire.AppendEmpty(nil, pgwire.CloseComplete))
			c.names.confirm(e.op)
		case pgwire.Execute:
			c.toClient(None, pgwire.AppendCommandComplete(nil, "ROLLBACK"))
		case pgwire.Query:
			c.names.confirm(e.op)
			c.toClient(None, pgwire.AppendCommandComplete(nil, "ROLLBACK"))
			c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		case pgwire.Sync:
			c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		}
	}
}

// forgetTransaction drops what was known of a transaction that is gone.
func (c *Core) forgetTransaction(slot Slot) {
	if c.body.left > 0 && c.body.to == slot {
		c.body.to = None
	}
	c.sent.begin(sent{})
	c.readOnly = readOnly{}
	c.names.forgetPortals()
	c.names.portal = nil
	c.undoSettings()
}

// undoSettings drops the settings of a transaction that is gone, or will be run again.
func (c *Core) undoSettings() {
	c.takeBack()
	c.settings.forget()
	c.settings.failed = false
	c.rare.listens.settle(false)
}

// lookAnew has what was looked at and not sent looked at again, since it means
// something else now.
func (c *Core) lookAnew() {
	for i := len(c.held) - 1; i >= 0; i-- {
		c.names.cancel(c.held[i].op)
	}
	if len(c.held) > 0 {
		c.drop()
		c.batch = batch{}
	}
}

// leaveBatches gives up the oldest batch of a standby, which has answered a part of it,
// as if the standby were lost; those behind it go to the primary.
func (c *Core) leaveBatches(l loss) {
	s := c.server[Standby]
	gone := *s
	gone.ring = append([]expect(nil), s.ring...)
	open := c.batch.open && c.batch.slot == Standby && c.batch.begun
	s.swallow()
	c.leaveStandby()
	if c.readOnly.open || c.sent.partial {
		c.abandon(Standby, &gone, open, l)
		return
	}
	c.giveUpOldest(l.error("40001"))
}
