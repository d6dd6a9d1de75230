package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// message is a client message that was looked at.
type message struct {
	typ     byte // 0: not a message
	off, n  int  // place and size
	have    int  // how much of it was there: all, or the start of a large one
	control bool // may run inside a read-only transaction on a standby

	verdict *lb.Verdict // of Query and Parse, and of the statement that Execute runs
	st      *statement  // Parse: the new one; Bind, Describe, Close, Execute: the one meant
	prev    *statement  // Parse: what its name stood for
	name    string      // Parse, Bind, Describe, Close of a statement: its name
	stmt    bool        // Describe, Close: of a statement, not of a portal
	seq     uint64      // of the last change of the namespace before it
	op      uint64      // Parse, Close, Query: what it does to the namespace
	text    []byte      // replaces the message on the way to the server
}

func (m *message) bytes(base []byte) []byte { return base[m.off : m.off+m.have] }

func (m *message) endsBatch() bool {
	return m.typ == pgwire.Query || m.typ == pgwire.Sync || m.typ == pgwire.FunctionCall
}

// begins reports that the message opens a transaction that is to be read-only.
func (m *message) begins() bool {
	const begin = lb.EffectBegin | lb.EffectReadOnly
	return m.typ != pgwire.Parse && m.verdict != nil && m.verdict.Effects&begin == begin && m.verdict.Statements == 1
}

// Client feeds bytes that the client sent, and returns how many of them are done
// with; the driver gives the rest again, followed by more. When it can make no
// progress until a server has answered or was attached (Paused), the driver
// should stop reading.
func (c *Core) Client(b []byte) int {
	pos := 0
	c.stalled = false
	for !c.closed && !c.ending {
		switch {
		case c.body.left > 0:
			n := min(len(b)-pos, c.body.left)
			if c.body.to != None {
				c.out[c.body.to].forward(pos, pos+n)
			}
			pos += n
			c.body.left -= n
			if c.body.left > 0 {
				return pos
			}
		case c.decided():
			if !c.dispatch(b, pos) {
				return pos
			}
			copied := c.copies()
			pos += c.heldLen
			c.drop()
			if copied {
				n := alike(b[pos:], pgwire.CopyData)
				c.out[Primary].forward(pos, pos+n)
				pos += n
			}
		default:
			if !c.lookOn(b[pos:]) {
				return pos
			}
			if len(c.held) == 0 { // it was for us alone
				pos += c.heldLen
				c.heldLen = 0
			}
		}
	}
	return len(b)
}

// copies reports that what was held and has been sent is a CopyData for the COPY under
// way, and that nothing else is done with those that follow it.
func (c *Core) copies() bool {
	return len(c.held) == 1 && c.held[0].typ == pgwire.CopyData && c.server[Primary].copyIn && c.again.slot == None
}

// decided reports that the held messages can go.
func (c *Core) decided() bool {
	return len(c.held) > 0 && (c.batch.ended || c.batch.slot != None)
}

// drop forgets the held messages.
func (c *Core) drop() {
	clear(c.held)
	c.held, c.heldLen = c.held[:0], 0
}

// Paused reports that the session waits for a server and takes nothing from its
// client meanwhile.
func (c *Core) Paused() bool {
	return c.attaching != None || c.sent.pending || c.stalled || c.decided()
}

// lookOn looks at the next message of b; false: it is not there yet.
func (c *Core) lookOn(b []byte) bool {
	at := c.heldLen
	typ, n, ok, err := pgwire.Header(b[at:])
	if !ok {
		return false
	}
	limit, known := pgwire.ClientLimit(typ)
	if err != nil || !known || n-pgwire.HeaderLen > limit {
		// The server knows what to say; nothing behind this can be understood.
		c.garbled = true
		c.hold(message{off: at, n: pgwire.MaxBody, have: len(b) - at})
		c.batch.write, c.batch.ended = true, true
		return true
	}
	have := min(n, len(b)-at)
	if have < n {
		bound := maxLook - c.heldLen
		if typ != pgwire.Query && typ != pgwire.Parse && (c.batch.slot == Primary || typ == pgwire.CopyData) {
			bound = maxWhole
		}
		if n <= bound || have < min(n, maxWhole) {
			return false
		}
	}
	switch typ {
	case pgwire.Terminate:
		c.terminate(b[at : at+have])
		return true
	case pgwire.CopyData, pgwire.CopyDone, pgwire.CopyFail:
		c.lookCopy(typ, at, n, have)
		return true
	}
	if c.skipToSync {
		c.skipOver(typ, n, have)
		return true
	}
	if c.standsIn() {
		if c.stalled = c.busy() != None || c.sent.pending; c.stalled {
			return false
		}
		if c.standIn(typ, b[at:at+have], n) {
			return true
		}
	}
	m := c.look(typ, b[at:at+have])
	m.off, m.n, m.have = at, n, have
	c.hold(m)
	c.consider(&c.held[len(c.held)-1])
	return true
}

// terminate handles Terminate. A server that reads a COPY takes it for a part of
// that, and says so.
func (c *Core) terminate(raw []byte) {
	for slot := Primary; slot <= Standby; slot++ {
		if s := c.server[slot]; s.copyIn {
			s.out.write(raw)
			c.ending = true
			return
		}
	}
	c.ClientGone()
}

func (c *Core) hold(m message) {
	c.borrow()
	if len(c.held) == 0 {
		c.looked = c.names.surprises
	}
	c.held = append(c.held, m)
	c.heldLen += m.have
	c.batch.open = true
}

// lookCopy handles the messages of COPY FROM STDIN. Outside of one a server
// ignores them, so they are thrown away when the primary does nothing: a standby
// reads no COPY.
func (c *Core) lookCopy(typ byte, at, n, have int) {
	if c.batch.slot == None && len(c.held) == 0 && c.busy() != Primary || c.batch.slot == Standby || c.skipToSync {
		c.heldLen += have
		c.body.left, c.body.to = n-have, None
		return
	}
	m := message{typ: typ, off: at, n: n, have: have, control: true}
	open := c.batch.open
	c.hold(m)
	c.batch.open = open // they belong to the statement that reads them
	if c.batch.slot == None {
		c.batch.write, c.batch.ended = true, true
	}
}

// skipOver ignores what follows an error of our own, up to Sync.
func (c *Core) skipOver(typ byte, n, have int) {
	c.heldLen += have
	c.body.left, c.body.to = n-have, None
	if typ == pgwire.Sync {
		c.skipToSync = false
		c.toClient(None, pgwire.AppendReadyForQuery(nil, c.status()))
	}
}

// look finds out what a message means for the session; b may be the start of a
// large one. A message that cannot be understood is left to the server.
func (c *Core) look(typ byte, b []byte) message {
	m := message{typ: typ, seq: c.names.seq}
	body := b[pgwire.HeaderLen:]
	switch typ {
	case pgwire.Query:
		c.lookQuery(&m, body)
	case pgwire.Parse:
		c.lookParse(&m, b)
	case pgwire.Bind:
		portal, rest, ok := pgwire.CString(body)
		if !ok {
			break
		}
		name, _, ok := pgwire.CString(rest)
		if !ok {
			break
		}
		m.st = c.names.lookup(name)
		m.name = c.nameOf(m.st, name)
		c.names.bindPortal(portal, m.st)
	case pgwire.Describe, pgwire.Close:
		if len(body) < 2 || body[0] != 'S' {
			break
		}
		name, _, ok := pgwire.CString(body[1:])
		if !ok {
			break
		}
		m.stmt = true
		m.st = c.names.lookup(name)
		m.name = c.nameOf(m.st, name)
		if typ == pgwire.Close {
			m.op = c.names.change(m.name, nil)
		}
	case pgwire.Execute:
		if portal, _, ok := pgwire.CString(body); ok {
			m.st = c.names.ofPortal(portal)
			if m.st != nil {
				m.verdict = m.st.executed()
			}
		}
	}
	return m
}

// lookAgain finds out anew what the held messages mean, after something became of
// the namespace that was not foreseen when they were looked at: what was in flight
// before them has failed, or was an SQL PREPARE or DEALLOCATE. base is the input
// that they are in.
func (c *Core) lookAgain(base []byte) {
	c.looked = c.names.surprises
	c.batch.write = true // what was taken for a read may be another statement
	for i := range c.held {
		m := &c.held[i]
		switch {
		case m.typ == pgwire.Parse && m.st != nil:
			m.prev = c.names.lookupAt([]byte(m.name), m.seq)
		case m.typ == pgwire.Bind:
			m.st = c.names.lookupAt([]byte(m.name), m.seq)
			if portal, _, ok := pgwire.CString(m.bytes(base)[pgwire.HeaderLen:]); ok {
				c.names.bindPortal(portal, m.st)
			}
		case m.stmt:
			m.st = c.names.lookupAt([]byte(m.name), m.seq)
		case m.typ == pgwire.Execute:
			if portal, _, ok := pgwire.CString(m.bytes(base)[pgwire.HeaderLen:]); ok {
				m.st, m.verdict = c.names.ofPortal(portal), nil
				if m.st != nil {
					m.verdict = m.st.executed()
				}
			}
		}
	}
}

func (c *Core) nameOf(st *statement, name []byte) string {
	if st != nil {
		return st.name
	}
	return string(name)
}

// unsafeText is the verdict on a text of which only the start was looked at.
var unsafeText = &lb.Verdict{Statements: 2, Effects: lb.EffectMayChangeState | lb.EffectUnknownInSession}

func (c *Core) lookQuery(m *message, body []byte) {
	sql, _, whole := pgwire.CString(body)
	if whole {
		m.verdict = c.env.Classify(sql)
	} else {
		m.verdict = unsafeText
	}
	if c.names.lookup(nil) != nil {
		m.op = c.names.change("", nil) // a simple query drops the unnamed statement
	}
	if m.verdict.Show != "" {
		m.text = pgwire.AppendQuery(nil, c.env.Show(m.verdict.Show))
	}
}

func (c *Core) lookParse(m *message, b []byte) {
	name, rest, ok := pgwire.CString(b[pgwire.HeaderLen:])
	if !ok {
		return
	}
	st := c.newStatement(name)
	if sql, _, whole := pgwire.CString(rest); whole {
		st.verdict = c.env.Classify(sql)
		if _, n, _, _ := pgwire.Header(b); n == len(b) {
			c.keepParse(st, b)
		}
	}
	if len(st.parse) == 0 { // but for a buffer
		st.parse = nil
	}
	m.st, m.verdict, m.name = st, st.verdict, st.name
	m.prev = c.names.lookup(name)
	m.op = c.names.change(st.name, st)
	if st.verdict.Show != "" && st.parse != nil {
		st.show = st.verdict.Show
		c.renewShow(st)
		m.text = st.parse
	}
}

// newStatement returns a statement of that name. An unnamed one takes the place of one
// that is nobody's any more.
func (c *Core) newStatement(name []byte) (st *statement) {
	n := &c.names
	if old := n.old; len(name) > 0 || old == nil || old == n.portal || len(n.portals) > 0 || len(n.ops) > 0 ||
		len(c.held) > 0 || len(c.sent.messages) > 0 || c.server[Primary].pending() > 0 || c.server[Standby].pending() > 0 {
		st = &statement{name: string(name)}
	} else {
		n.old = nil
		*old = statement{parse: old.parse[:0]}
		if cap(old.parse) > maxSpare {
			old.parse = nil
		}
		st = old
	}
	st.version, st.verdict = n.nextVersion(), unsafeText
	return st
}

// keepParse keeps what makes the statement on another server.
func (c *Core) keepParse(st *statement, b []byte) {
	if st.name != "" && !c.names.room(len(b)) {
		return
	}
	if c.pooled() && st.name != "" && st.verdict.Show == "" {
		if st.shared = c.statements.of(b, c.settings.withoutName()); st.shared != nil {
			st.parse, st.version = st.shared.parse, st.shared.version
			return
		}
	}
	st.parse = append(st.parse, b...)
}

// renewShow puts the present rows into a statement that stands for a SHOW
// command of pgproxy's own.
func (c *Core) renewShow(st *statement) {
	st.parse = pgwire.AppendParse(nil, st.name, c.env.Show(st.show), nil)
	st.version = c.names.nextVersion()
}
