package session

import (
	"bytes"
	"encoding/binary"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// Server feeds bytes that the server in that slot sent, and returns how many of
// them are done with; the driver gives the rest again, followed by more.
func (c *Core) Server(slot Slot, b []byte) int {
	s := c.server[slot]
	pos := 0
	for pos < len(b) && s.ready {
		if s.left > 0 {
			n := min(len(b)-pos, s.left)
			if !s.dropping {
				c.out[None].forward(pos, pos+n)
			}
			pos += n
			s.left -= n
			if s.left == 0 {
				c.endMid(slot)
			}
			continue
		}
		typ, n, ok, err := pgwire.Header(b[pos:])
		if !ok {
			return pos
		}
		if err != nil { // it cannot be understood any more, and is not the session's
			c.detach = append(c.detach, Detachment{Slot: slot})
			c.ServerClosed(slot)
			return len(b)
		}
		have := min(n, len(b)-pos)
		if have < n && (n <= maxWhole || have < errorLook) {
			return pos
		}
		forward := c.reply(slot, typ, b[pos+pgwire.HeaderLen:pos+have])
		if !s.ready {
			break
		}
		s.left, s.dropping = n-have, !forward
		if forward {
			if typ == pgwire.DataRow || typ == pgwire.CopyData {
				have += alike(b[pos+have:], typ) // reply would do the same with each of them
			}
			c.forwardReply(slot, b, pos, have)
			if s.left > 0 {
				c.mid = slot
			}
		}
		pos += have
	}
	if !s.ready { // the connection was given up, maybe over one of these messages
		return len(b)
	}
	return pos
}

// alike returns the size of whole messages of that type with which b begins: of all of
// them, or all but the last few bytes. It reads type and length at once, since a large
// result is little else.
func alike(b []byte, typ byte) (size int) {
	for size+8 <= len(b) {
		header := binary.BigEndian.Uint64(b[size : size+8])
		length := int(uint32(header >> 24))
		if byte(header>>56) != typ || length < 4 || length >= len(b)-size {
			break
		}
		size += 1 + length
	}
	return size
}

// forwardReply passes a server's bytes on, now or when the message of the other
// slot that is passing through has ended.
func (c *Core) forwardReply(slot Slot, b []byte, pos, n int) {
	if c.mid != None && c.mid != slot {
		r := c.rarely()
		r.deferred = append(r.deferred, b[pos:pos+n]...)
		return
	}
	c.out[None].forward(pos, pos+n)
}

func (c *Core) endMid(slot Slot) {
	if c.mid != slot {
		return
	}
	c.mid = None
	if len(c.rare.deferred) > 0 {
		c.out[None].write(c.rare.deferred)
		c.rare.deferred = c.rare.deferred[:0]
	}
}

// reply takes one message of a server, of whose body at least the start is
// there, and reports whether the client gets it.
func (c *Core) reply(slot Slot, typ byte, body []byte) bool {
	s := c.server[slot]
	e := s.next()
	mine := e != nil && e.inject
	switch typ {
	case pgwire.DataRow, pgwire.CopyData:
		switch {
		case mine && e.confirm:
			c.confirmRow(slot, body)
		case mine && e.pins:
			c.pinned(body)
		}
		if mine || e == nil && slot == Standby || c.sent.skip > 0 {
			return false
		}
		c.again.slot = None
		c.sent.rows = true
		if slot == Standby {
			c.readOnly.answered = c.readOnly.answered || c.inReadOnly()
		}
		return true
	case pgwire.ReadyForQuery:
		return c.readyForQuery(slot, body)
	case pgwire.ErrorResponse:
		return c.errorResponse(slot, e, body)
	case pgwire.NoticeResponse:
		s.unsure = s.unsure || slot == Primary && !mine && cancelledWait(body)
		return !mine && (slot == Primary && !stopping(body) || slot == Standby && e != nil)
	case pgwire.ParameterStatus:
		return c.parameterStatus(slot, body, mine)
	case pgwire.NotificationResponse:
		if slot == Primary {
			c.notified()
		}
		return slot == Primary && !c.notifyAsOwn(body)
	}
	if e == nil {
		return slot == Primary // nothing was asked: the client may know better
	}
	forward := !e.inject
	if typ == pgwire.CommandComplete && c.unsureAnswer(slot, e) {
		forward = false
	}
	if c.account(slot, s, e, typ, body) { // which may have moved what e points to
		s.pop()
	}
	if forward && slot == Primary && c.sent.skip > 0 {
		c.sent.skip--
		forward = false
	}
	if forward {
		c.sent.forwarded++
		c.again.slot = None
	}
	return forward
}

// account notes what an answer says and reports whether it is the last one of
// its message.
func (c *Core) account(slot Slot, s *server, e *expect, typ byte, body []byte) (ends bool) {
	switch typ {
	case pgwire.ParseComplete:
		c.names.confirm(e.op)
		if slot == Standby && !e.inject && e.name != "" && !c.pooled() {
			c.shadow(e.name, e.st)
		}
		return true
	case pgwire.BindComplete:
		return true
	case pgwire.CloseComplete:
		c.names.confirm(e.op)
		if slot == Standby && !e.inject && e.named && e.name != "" && !c.pooled() {
			c.shadow(e.name, nil)
		}
		return true
	case pgwire.RowDescription, pgwire.NoData:
		if e.kind == pgwire.Describe && e.st != nil {
			c.described(slot, e, body)
		}
		return e.kind == pgwire.Describe
	case pgwire.CommandComplete:
		tag := pgwire.CommandTag(body)
		if slot == Standby && !e.inject && c.inReadOnly() && (bytes.HasPrefix(tag, []byte("SELECT")) || bytes.HasPrefix(tag, []byte("COPY"))) {
			c.readOnly.answered = true
		}
		if !e.inject {
			c.completed(slot, e, tag)
		}
		return e.kind == pgwire.Execute
	case pgwire.EmptyQueryResponse, pgwire.PortalSuspended:
		return e.kind == pgwire.Execute
	case pgwire.CopyInResponse, pgwire.CopyBothResponse:
		s.beginCopyIn()
		if c.ending && s.copyIn {
			c.closed = true // the data do not come
		}
	}
	return false
}

// described compares what a server says about the result of a statement with what
// the client was told when another server had made it. A standby that says
// something else does not get the batch: the primary has the statement of before,
// and raises what PostgreSQL raises there.
func (c *Core) described(slot Slot, e *expect, body []byte) {
	row := hash(body)
	c.server[slot].use(e.name, row)
	switch {
	case e.verify:
		if e.st.row != row {
			c.batch.failure = theirError("0A000", "cached plan must not change result type")
		}
	case !e.inject:
		e.st.row = row
	case e.st.row == 0 || e.st.row == row || slot != Standby || c.server[Standby].live == 0:
	case c.standbyBound():
		c.leaveBatches(loss{text: "the result of a prepared statement has changed"})
	default:
		c.replay()
	}
}

// hash is FNV-1a; never 0.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, x := range b {
		h = (h ^ uint64(x)) * 1099511628211
	}
	return max(h, 1)
}

// beginCopyIn enters COPY FROM STDIN. The server ignores Sync and Flush until
// CopyDone or CopyFail (manual, "COPY Operations"), those that the client sent
// before it knew of the COPY too.
func (s *server) beginCopyIn() {
	s.copyIn = true
	kept := s.ring[:s.head+1]
	ignored := fate{}
	for _, e := range s.ring[s.head+1:] {
		switch {
		case e.kind == copyEnd && s.copyIn:
			s.copyIn = false
		case e.kind == pgwire.Sync && s.copyIn:
			s.unsynced = true
			ignored.join(e.fate)
			if !e.inject {
				s.live--
			}
		default:
			e.fate.join(ignored)
			kept = append(kept, e)
		}
	}
	s.handed.join(ignored)
	s.ring = kept
}

// completed applies the effects of a statement that was successful.
func (c *Core) completed(slot Slot, e *expect, tag []byte) {
	c.env.Completed(slot, tag)
	c.transactionEnded(slot, e.verdict, tag)
	c.noteListen(e, tag)
	s := c.server[slot]
	s.at = phaseAfter(s.at, e.verdict, tag)
	s.done++
	if e.kind == pgwire.Execute && e.verdict != nil && e.verdict.Effects != 0 {
		c.applyEffects(slot, e.verdict, e.st.sqlText())
	}
}

// readyForQuery ends a batch.
func (c *Core) readyForQuery(slot Slot, body []byte) bool {
	s := c.server[slot]
	e := s.next()
	if len(body) != 1 {
		return slot == Primary
	}
	s.tx, s.copyIn, s.unsynced = body[0], false, false
	s.at, s.done = phaseOf(s.tx), 0
	if e == nil { // of a Sync that the server was expected to ignore
		s.skipping = false
		return slot == Primary
	}
	done := s.pop()
	if s.unsure && !done.inject {
		s.unsure = false
		c.toClient(slot, unsureError())
	}
	if done.inject {
		if done.failed && done.named && done.kind == pgwire.Query { // PREPARE
			s.undo()
			s.setVersion(done.name, 0)
			s.redo()
		}
		if done.rollback {
			s.rollingBack = false
		}
		if done.restore || done.verify {
			s.restoring--
		}
		if done.verify && c.batch.failure != nil && s.tx == pgwire.TxInTransaction {
			c.failTransaction(slot)
		}
		if done.confirm {
			c.confirmAnswered(done.failed)
		}
		return false
	}
	c.sent.skip = 0
	if done.kind == pgwire.Query {
		c.names.confirm(done.op)
		if !done.failed && done.verdict != nil {
			c.applyEffects(slot, done.verdict, done.text)
		}
	}
	c.endBatch(slot, s.tx)
	return true
}

// endBatch is called when the client's batch in that slot has been answered.
func (c *Core) endBatch(slot Slot, tx byte) {
	if tx == pgwire.TxIdle {
		if c.busy() == None && !c.batch.open { // else what was looked at has portals, too
			c.names.forgetPortals()
		}
		c.settleTold()
		c.rare.listens.settle(!c.settings.failed)
		c.settle(slot)
	}
	if s := c.server[slot]; tx == pgwire.TxIdle && s.live == 0 && !(c.batch.open && c.batch.begun) {
		s.skewed = false
	}
	c.settings.failed = false
	c.answered(slot)
	if slot == Primary {
		c.noteWrite()
		c.readAnswered()
	}
	if slot == Standby {
		c.sent.answered()
		if tx == pgwire.TxIdle {
			c.readOnly = readOnly{open: c.readOnlyInFlight()}
			c.sent.trim(false)
		}
		c.sent.trim(c.readOnly.replayable())
	}
	c.env.Answered(slot)
	c.endIfDone()
}

// noteWrite tells of a write on the primary that has been answered, or never will be
// because the connection is lost: it may have been done all the same.
func (c *Core) noteWrite() {
	if s := c.server[Primary]; s.wrote {
		c.env.Wrote()
		s.wrote = s.live > 0
	}
}

// errorResponse handles an error of a server.
func (c *Core) errorResponse(slot Slot, e *expect, body []byte) bool {
	s := c.server[slot]
	severity := pgwire.ErrorField(body, 'V')
	fatal := string(severity) == "FATAL" || string(severity) == "PANIC"
	code := string(pgwire.ErrorField(body, 'C'))
	if fatal {
		s.fatal = true
		if slot == Standby {
			return false // its end follows, ServerClosed deals with it
		}
		return c.primaryEnds(string(severity), code, body)
	}
	if e == nil {
		return slot == Primary
	}
	if slot == Standby && c.standbyError(e, code, body) || slot == Primary && !e.inject && c.runAgain(e, body) {
		return false
	}
	if slot == Primary && e.restore && code == "57014" && s.used && c.pooled() && s.live == 0 && s.tx == pgwire.TxIdle && !c.batch.begun {
		c.giveBack(Primary) // an earlier session's statement_timeout has struck: take another one
		return false
	}
	if slot == Primary && e.restore {
		// The session would go on with other settings, or with another role.
		c.toClient(None, pgwire.AppendError(nil, "FATAL", "57P01",
			"pgproxy: the session's settings cannot be restored on another connection", "", ""))
		c.closed = true
		return false
	}
	if e.verify && e.kind == pgwire.Parse && s.tx == pgwire.TxInTransaction { // it fails alike for the client
		c.batch.failure = pgwire.AppendMessage(nil, pgwire.ErrorResponse, body)
	}
	mine := e.inject
	e.failed = true
	if e.kind != pgwire.Query && e.kind != pgwire.FunctionCall && e.kind != pgwire.Sync {
		moved := slot == Standby && c.batch.moved && !mine
		c.skipOwed(s)
		next := s.next()
		s.skipping = next == nil
		if next != nil {
			next.failed = true
		}
		mine = next != nil && next.inject && !moved // else ours failed in the place of the client's message
		if moved && next != nil && next.inject {
			c.stopMove()
		}
	}
	if mine {
		return false
	}
	c.settings.failed = true
	c.sent.failed = true
	c.sent.skip = 0
	c.env.Failed(slot, false)
	return true
}

// skipOwed drops the answers that a server does not give after an error in the
// extended query protocol: all up to Sync (manual, "Extended Query").
func (c *Core) skipOwed(s *server) {
	first := s.head
	end := first
	for end < len(s.ring) && s.ring[end].kind != pgwire.Sync {
		end++
	}
	s.undo()
	if e := &s.ring[first]; e.kind == pgwire.Parse && e.named && e.name == "" {
		s.unnamed = 0 // the server drops the unnamed statement before it parses
		c.names.confirmNone(e.op)
	}
	for i := end - 1; i >= first; i-- {
		c.names.cancel(s.ring[i].op)
	}
	for range end - first {
		s.pop()
	}
	s.redo()
	s.copyIn = false
}

// parameterStatus passes a setting on. The client hears of its primary's only.
func (c *Core) parameterStatus(slot Slot, body []byte, mine bool) bool {
	forward := !mine && (slot == Primary || !c.server[Primary].ready)
	name, value, ok := pgwire.ReadParameterStatus(body)
	if !ok {
		return forward
	}
	c.env.Parameter(slot, name, value)
	if !mine && c.reportName(slot, name, value) {
		return false
	}
	if forward {
		c.tell(name, string(value))
	}
	return forward
}
