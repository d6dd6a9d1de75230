package session

import (
	"bytes"
	"maps"
	"slices"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// dispatch sends the held messages, which start at b[pos:]. It returns false
// when that must wait.
func (c *Core) dispatch(b []byte, pos int) bool {
	if c.attaching != None || c.sent.pending || c.rare.judge.open {
		return false
	}
	if c.looked != c.names.surprises {
		c.lookAgain(b[pos:])
	}
	if c.batch.slot == None {
		if c.heldCopy() {
			c.batch.slot = c.busy()
		} else {
			slot, wait := c.route()
			if wait {
				return false
			}
			c.batch.slot = slot
			c.env.Routed(slot)
		}
	}
	slot := c.batch.slot
	if busy := c.busy(); busy != None && busy != slot {
		return false // its answers come first
	}
	if c.batch.moved {
		c.batch.moved = false
		c.sent.begin(sent{skip: c.sent.skip, partial: c.busy() == Primary})
	}
	switch {
	case !c.server[slot].ready:
		c.attaching = slot
		c.exactly = slot == Primary && c.pooled() && c.batch.lastValue && c.written.id != 0
		return false
	case c.server[slot].fatal: // its end follows
		return false
	}
	if slot == Standby && c.pooled() && !c.standbyHolds() {
		return c.dispatch(b, pos) // the server was started again meanwhile: choose anew
	}
	if c.server[slot].live == 0 {
		c.applySettings(slot)
	}
	if !c.makeReady(slot) || c.server[slot].restoring > 0 {
		return false // with other settings, or another role, a write could be a different one
	}
	if c.batch.failure != nil {
		c.failBatch(c.batch.failure)
		return true
	}
	if slot == Primary && (c.yielding && !c.continues() || !c.restoreNames()) {
		return false
	}
	c.keepAgain(slot, b, pos)
	c.batch.given, c.batch.begun = c.batch.given || slot == Primary, true
	ends := false
	for i := range c.held {
		m := &c.held[i]
		if slot == Standby {
			c.sent.slot = Standby
			c.sent.keep(m, b[pos+m.off:pos+m.off+m.have])
			if m.begins() {
				c.readOnly.open = true
			}
			c.readOnly.answered = c.readOnly.answered || c.sent.partial && c.readOnly.open
		} else {
			c.keepRead(m, b[pos+m.off:pos+m.off+m.have])
		}
		c.send(slot, m, b[pos+m.off:pos+m.off+m.have], pos+m.off, false)
		if m.have < m.n {
			c.body.left, c.body.to = m.n-m.have, slot
		}
		ends = ends || m.endsBatch()
	}
	if ends || !c.batch.open {
		c.batch = batch{}
	}
	return true
}

// continues reports that the held messages belong to what runs on the primary
// already: a batch, a transaction, a COPY. Whether they are in a transaction is known
// when what is in flight has been answered.
func (c *Core) continues() bool {
	p := c.server[Primary]
	return c.batch.given || p.tx != pgwire.TxIdle || p.unsynced || p.copyIn || c.heldCopy()
}

// heldCopy reports that the held messages are data for the COPY under way.
func (c *Core) heldCopy() bool {
	switch c.held[0].typ {
	case pgwire.CopyData, pgwire.CopyDone, pgwire.CopyFail:
		return !c.batch.open && c.busy() != None
	}
	return false
}

// send sends one message to a server, after what brings the server's namespace
// to the session's. at is its place in the input, -1 when it is not there.
// inject: the client has had the answer.
func (c *Core) send(slot Slot, m *message, b []byte, at int, inject bool) {
	s := c.server[slot]
	e := expect{kind: m.typ, inject: inject}
	if !inject {
		e.op = m.op
	}
	cut := 0 // how much of the message something else was written for
	if s.skipping {
		if m.typ != pgwire.Sync {
			c.names.cancel(m.op)
			s.write(m.text, 0, b, at)
			return
		}
		s.skipping, e.failed = false, true
	}
	switch m.typ {
	case pgwire.Query, pgwire.Execute, pgwire.FunctionCall:
		s.handed.note(c.deedOf(m))
	}
	owes := true
	switch m.typ {
	case pgwire.Query:
		c.prepareQuery(slot, m, &e, b)
	case pgwire.FunctionCall:
		c.foreseeCall(slot, b)
		s.ran(nil)
	case pgwire.Parse:
		c.ensureNamed(slot, m)
		if made := c.prepareParse(slot, m, &e); made != nil {
			s.out.write(made)
			cut = len(b)
		}
	case pgwire.Bind:
		e.st = m.st
		if m.st != nil && m.st.show != "" && !c.parseInFlight(m.st) {
			c.renewShow(m.st)
		}
		if name := c.ensure(slot, m.name, m.st); name != m.name {
			var own []byte
			own, cut = bindTo(s.out.buffer(), b, m.n, name)
			s.out.written(own)
		}
	case pgwire.Describe:
		if m.stmt {
			e.st, e.name = m.st, c.ensure(slot, m.name, m.st)
			if e.name != m.name {
				s.out.written(pgwire.AppendDescribe(s.out.buffer(), 'S', e.name))
				cut = len(b)
			}
		}
	case pgwire.Close:
		if m.stmt {
			e.named, e.name, e.before = true, m.name, s.version(m.name)
			s.setVersion(m.name, 0)
		}
	case pgwire.Execute:
		e.verdict, e.st = m.verdict, m.st
		c.ensureNamed(slot, m)
		c.foreseeText(slot, m.verdict, m.st.sqlText())
		s.ran(m.verdict)
	case pgwire.Sync:
		owes = !s.copyIn
		s.unsynced = s.unsynced || s.copyIn
	case pgwire.CopyDone, pgwire.CopyFail:
		if s.copyIn {
			s.copyIn, owes = false, false
		}
		e.kind = copyEnd
	default:
		owes = false
	}
	s.write(m.text, cut, b, at)
	if owes && m.endsBatch() {
		e.fate, s.handed = s.handed, fate{}
	}
	if owes {
		s.push(e)
	}
}

// write puts out what is left of a message behind its first cut bytes, which were put out
// in another form; nothing of it was, and text is there: that in its place.
func (s *server) write(text []byte, cut int, b []byte, at int) {
	switch {
	case text != nil && cut == 0:
		s.out.write(text)
	case at >= 0:
		s.out.forward(at+cut, at+len(b))
	default:
		s.out.write(b[cut:])
	}
}

// parseInFlight reports that the Parse of the statement is still to be answered.
func (c *Core) parseInFlight(st *statement) bool {
	for _, o := range c.names.ops {
		if o.st == st {
			return true
		}
	}
	return false
}

// byName are the effects of statements that name a prepared statement.
const byName = lb.EffectPrepare | lb.EffectExecute | lb.EffectDeallocate

func (c *Core) prepareQuery(slot Slot, m *message, e *expect, b []byte) {
	s := c.server[slot]
	v := m.verdict
	e.verdict = v
	if needsText(v) {
		sql, _, _ := pgwire.CString(b[pgwire.HeaderLen:])
		e.text = bytes.Clone(sql)
	}
	c.foreseeText(slot, v, e.text)
	if v.Effects&byName != 0 && v.Statements == 1 && v.Name != "" {
		st := c.names.lookupAt([]byte(v.Name), m.seq)
		if v.Effects&lb.EffectExecute != 0 && st != nil && st.sql == nil && st.verdict.Effects != 0 {
			c.pins |= pinUnknown // the protocol prepares what SQL cannot: SET, BEGIN
		}
		c.ensureSQL(slot, v.Name, st)
	}
	s.ran(v)
	s.unnamed = 0
}

// needsText reports that what a statement does to the session is told by its text.
func needsText(v *lb.Verdict) bool {
	const effects = lb.EffectSetConfig | lb.EffectSet | lb.EffectMeaning | lb.EffectResetAll | lb.EffectDiscardAll | lb.EffectPrepare | lb.EffectDeallocate | lb.EffectListen | lb.EffectUnpin
	switch {
	case v.Unknown:
		return true
	case v.Statements == 1 && v.Effects&lb.EffectEnd != 0: // it may drop temporary tables, too
		return false
	}
	return v.Effects&effects != 0 && v.Effects&lb.EffectUnknownInSession == 0
}

// ran notes that a statement runs, which may be anything when v is nil.
func (s *server) ran(v *lb.Verdict) {
	if v == nil || !v.Read && v.Show == "" {
		s.wrote, s.written, s.dirty = true, true, true
	}
}

// prepareParse returns what is sent in the place of the message, nil: itself.
func (c *Core) prepareParse(slot Slot, m *message, e *expect) (text []byte) {
	s := c.server[slot]
	if m.st == nil {
		return nil
	}
	name := m.name
	switch {
	case m.st.shared != nil && m.prev == nil:
		// What is there may have been made before a table was changed.
		name, text = m.st.shared.name, m.st.shared.parse
		c.closeStatement(slot, name)
		c.makeRoom(slot)
	case name != "":
		c.ensureAs(slot, name, m.prev) // so that a name in use is refused, and a free one is not
		s.dirty = true
	}
	e.st, e.named, e.name, e.before, e.skewed = m.st, true, name, s.version(name), c.skews(slot, name, m.st)
	s.setVersion(name, m.st.version)
	if e.skewed {
		s.skew(name)
	}
	return text
}

// ensure makes the server's statement the one that the session means by that name, and
// returns its name on the server; st nil: there is none.
func (c *Core) ensure(slot Slot, name string, st *statement) string {
	if st == nil || st.shared == nil {
		c.ensureAs(slot, name, st)
		return name
	}
	s := c.server[slot]
	if s.version(st.shared.name) != st.version { // a client may have used that name by itself
		c.closeStatement(slot, st.shared.name)
		c.makeRoom(slot)
		c.makeStatement(slot, st.shared.name, st, st.shared.parse)
	}
	s.use(st.shared.name, 0)
	return st.shared.name
}

// ensureAs makes the server's statement of that name the one that the session means;
// st nil: none.
func (c *Core) ensureAs(slot Slot, name string, st *statement) {
	have := c.server[slot].version(name)
	switch {
	case st == nil:
		c.closeStatement(slot, name)
		return
	case have == st.version:
		return
	case st.parse == nil:
		if c.pooled() {
			c.closeStatement(slot, name) // what is there is another session's
		}
		return
	}
	if name != "" {
		c.closeStatement(slot, name)
	}
	parse := st.parse
	if st.shared != nil {
		parse = parseAs(parse, name)
	}
	c.makeStatement(slot, name, st, parse)
}

// closeStatement has the server drop the statement of that name, if it has one.
func (c *Core) closeStatement(slot Slot, name string) {
	s := c.server[slot]
	if have := s.version(name); have != 0 {
		c.inject(slot, pgwire.AppendClose(nil, 'S', name), expect{kind: pgwire.Close, named: true, name: name, before: have})
		s.setVersion(name, 0)
	}
}

// makeStatement prepares a statement that the session has already.
func (c *Core) makeStatement(slot Slot, name string, st *statement, parse []byte) {
	s := c.server[slot]
	c.injectParse(slot, name, st, parse, false)
	s.dirty = s.dirty || name != ""
	if st.row != 0 {
		c.inject(slot, pgwire.AppendDescribe(nil, 'S', name), expect{kind: pgwire.Describe, st: st, name: name})
	}
}

func (c *Core) injectParse(slot Slot, name string, st *statement, parse []byte, verify bool) {
	s := c.server[slot]
	skewed := c.skews(slot, name, st)
	c.inject(slot, parse, expect{kind: pgwire.Parse, st: st, named: true, name: name, before: s.version(name), skewed: skewed, verify: verify})
	s.setVersion(name, st.version)
	if skewed {
		s.skew(name)
	}
}

// skews reports that a statement that is made now under a shared name may mean something
// else than other sessions expect of that name.
func (c *Core) skews(slot Slot, name string, st *statement) bool {
	return st.shared != nil && name == st.shared.name && (c.server[slot].skewed || st.shared.settings != c.settings.withoutName())
}

// makeRoom lets a server drop the shared statement that was not used for longest when
// it has as many as it may.
func (c *Core) makeRoom(slot Slot) {
	s := c.server[slot]
	if len(s.names)-s.private >= c.perServer {
		c.closeStatement(slot, s.oldest())
	}
}

// shadow makes a statement on the primary that the client has made on the standby,
// so that the primary knows what its result was when it was made; st nil: drops it.
// It does so in a batch of its own, which no error of the client's can undo.
func (c *Core) shadow(name string, st *statement) {
	p := c.server[Primary]
	if !p.ready || st == nil && p.version(name) == 0 {
		return
	}
	c.applySettings(Primary)
	c.ensure(Primary, name, st)
	c.inject(Primary, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
}

// ensureNamed makes a statement of the protocol for one of SQL that names it.
func (c *Core) ensureNamed(slot Slot, m *message) {
	v := m.verdict
	if !c.pooled() || v == nil || v.Effects&byName == 0 || v.Name == "" {
		return
	}
	if st := c.names.lookupAt([]byte(v.Name), m.seq); st != nil && st.shared != nil {
		c.ensureAs(slot, v.Name, st)
	}
}

// ensureSQL does so before a simple query that names the statement.
func (c *Core) ensureSQL(slot Slot, name string, st *statement) {
	s := c.server[slot]
	if st == nil && s.version(name) == 0 || st != nil && s.version(name) == st.version {
		return
	}
	if st == nil || st.sql == nil {
		c.ensureAs(slot, name, st)
		c.inject(slot, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
		return
	}
	if s.version(name) != 0 {
		c.closeStatement(slot, name)
		c.inject(slot, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
	}
	c.inject(slot, pgwire.AppendQuery(nil, string(st.sql)), expect{kind: pgwire.Query, journal: true, st: st, named: true, name: name})
	s.setVersion(name, st.version)
	s.dirty = true
}

// maxRestored is how many statements are restored at once. A session with more gets
// each of them when it uses it, inside of its batches.
const maxRestored = 256

// restoreNames brings the statements of the session to a primary that is not its
// first: before its first batch, each in a batch of its own, so that no error undoes
// what later batches count on. false: first what is in flight must be answered, since
// an error there may undo statements.
func (c *Core) restoreNames() bool {
	p := c.server[Primary]
	switch {
	case !p.behind || c.batch.given || c.heldCopy():
		return true
	case p.live > 0:
		return false
	}
	c.sendNames()
	return true
}

// sendNames does so now, where nothing of the client's is in flight.
func (c *Core) sendNames() {
	p := c.server[Primary]
	if !p.behind || len(c.names.known) > maxRestored {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.names.known)) {
		pushed := len(p.ring)
		if st := c.names.known[name]; st.sql != nil {
			c.ensureSQL(Primary, name, st)
		} else if c.ensure(Primary, name, st); len(p.ring) > pushed {
			c.inject(Primary, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
		}
	}
	p.behind = false
}

// inject sends a message of our own whose answer the client does not see.
func (c *Core) inject(slot Slot, raw []byte, e expect) {
	s := c.server[slot]
	e.inject = true
	s.out.write(raw)
	s.push(e)
}

// failBatch answers the batch that waits for a connection with an error.
func (c *Core) failBatch(raw []byte) {
	c.toClient(None, raw)
	single := len(c.held) > 0 && c.held[0].typ != pgwire.Sync && c.held[0].endsBatch()
	c.skipHeld()
	if single {
		c.skipToSync = false
		c.toClient(None, pgwire.AppendReadyForQuery(nil, c.status()))
	}
	c.endIfDone()
}

// skipHeld has the rest of the open batch ignored, up to Sync, after an error.
func (c *Core) skipHeld() {
	c.skipToSync = true
	for i := range c.held {
		m := &c.held[i]
		c.names.cancel(m.op)
		if m.typ == pgwire.Sync {
			c.skipToSync = false
			c.toClient(None, pgwire.AppendReadyForQuery(nil, c.status()))
		}
		c.body.left += m.n - m.have
	}
	c.body.left += c.heldLen // Client passes over them
	c.body.to = None
	c.drop()
	c.batch = batch{}
}
