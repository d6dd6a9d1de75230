package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// consider takes one more message into the decision about the open batch.
func (c *Core) consider(m *message) {
	b := &c.batch
	if b.slot != None {
		c.switchBatch(m)
		return
	}
	if len(c.held) == 1 {
		b.control = true
	}
	read, neutral := c.canRead(m)
	b.write = b.write || !read
	b.loud = b.loud || !read && !silent(m)
	b.reads = b.reads || (read && !neutral)
	b.begin = b.begin || m.begins()
	b.control = b.control && (read || controls(m))
	switch m.typ {
	case pgwire.Query, pgwire.Bind, pgwire.Execute, pgwire.FunctionCall:
		b.execute = true
	}
	if v := m.verdict; v != nil && v.Statements == 1 && v.Effects&lb.EffectLastValue != 0 && !b.lastValue {
		b.lastValue = !b.write || len(c.held) == 1 // else what was written before it is meant
	}
	if v := m.verdict; v != nil && v.Hint != lb.ToAny && b.hint != lb.ToPrimary {
		b.hint = v.Hint
	}
	if m.verdict != nil && m.verdict.Show != "" {
		b.show = true
	}
	if m.typ == pgwire.Flush && b.execute {
		b.write = true // its portals may be asked for more behind a write
	}
	if m.have < m.n || c.heldLen >= maxLook && !m.endsBatch() {
		b.write, b.loud, b.ended, b.large = true, true, true, true
	}
	decided := b.write && (b.loud || !c.seen.shown) && !c.readOnly.open
	b.ended = b.ended || decided || m.endsBatch() || m.typ == pgwire.Flush
}

// silent reports a write whose answer shows nothing of the data.
func silent(m *message) bool {
	switch {
	case m.typ == pgwire.Query:
		return m.verdict.Silent
	case m.typ == pgwire.Parse, m.typ == pgwire.Bind:
		return m.st != nil && m.st.verdict.Silent
	}
	return false
}

// canRead reports whether a message alone may go to a standby, and whether that
// says nothing about its batch.
func (c *Core) canRead(m *message) (read, neutral bool) {
	switch m.typ {
	case pgwire.Query:
		return c.readQuery(m.verdict), false
	case pgwire.Parse, pgwire.Bind:
		if m.st == nil || m.st.sql != nil || m.st.parse == nil {
			return false, false
		}
		return m.st.verdict.Read || m.st.show != "" || beginsReadOnly(m.st.verdict), false
	case pgwire.Describe, pgwire.Close:
		if m.stmt && m.st != nil && m.typ == pgwire.Describe {
			return m.st.verdict.Read && m.st.parse != nil || m.st.show != "", false
		}
		return true, true
	case pgwire.Execute, pgwire.Sync, pgwire.Flush:
		return true, true
	}
	return false, false
}

func (c *Core) readQuery(v *lb.Verdict) bool {
	if v.Read || v.Show != "" || beginsReadOnly(v) {
		return true
	}
	if v.Effects == lb.EffectExecute && v.Inner {
		st := c.names.lookup([]byte(v.Name))
		return st != nil && (st.sql != nil && st.verdict.Inner || st.sql == nil && st.parse != nil && st.verdict.Read)
	}
	return false
}

// beginsReadOnly reports BEGIN READ ONLY, also of REPEATABLE READ: a standby has
// snapshots, too.
func beginsReadOnly(v *lb.Verdict) bool {
	return v.Statements == 1 && v.Effects&^lb.EffectIsolation == lb.EffectBegin|lb.EffectReadOnly
}

// controls reports that a message may run inside a read-only transaction on a
// standby although it is no read.
func controls(m *message) bool {
	v := m.verdict
	if m.st != nil {
		v = m.st.verdict
	}
	const allowed = lb.EffectEnd | lb.EffectChain | lb.EffectSavepoint | lb.EffectSetLocal | lb.EffectMeaning | lb.EffectUnpin
	return v != nil && v.Statements == 1 && v.Effects != 0 && v.Effects&^allowed == 0
}

// switchBatch handles a message of a batch that is already under way: after
// Flush on a standby a statement may follow that is not a read.
func (c *Core) switchBatch(m *message) {
	s := c.server[Standby]
	if c.batch.slot != Standby || !s.ready || s.skipping || c.readOnly.open {
		return
	}
	if m.typ == pgwire.Sync || m.typ == pgwire.Flush {
		return
	}
	if read, _ := c.canRead(m); read && m.have == m.n && len(c.sent.buf)+c.heldLen <= maxLook {
		return
	}
	c.inject(Standby, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
	c.batch.slot, c.batch.ended, c.batch.moved, c.batch.part = Primary, true, true, true
}

// route decides where the batch goes; wait: only when what is in flight has been
// answered.
func (c *Core) route() (slot Slot, wait bool) {
	b := &c.batch
	if c.sent.pending {
		return None, true
	}
	p, s := c.server[Primary], c.server[Standby]
	large := b.large || len(c.sent.buf)+c.heldLen > maxLook
	inReadOnly := c.readOnly.open && (b.control && !large || c.readOnly.answered || s.tx == pgwire.TxFailed)
	switch c.busy() {
	case Primary:
		return Primary, false
	case Standby:
		if large || c.sent.partial {
			return None, true
		}
		if c.readOnly.open && b.control || !c.readOnly.open && !b.write && s.ready && c.pins&pinReads == 0 && b.hint != lb.ToPrimary {
			return Standby, false
		}
		return None, true
	case None:
	}
	switch {
	case p.ready && (p.tx != pgwire.TxIdle || p.unsynced || c.sent.moved()):
		return Primary, false
	case inReadOnly:
		return Standby, false
	case c.readOnly.open:
		if c.unconfirmed() {
			return None, true
		}
		c.replay() // the transaction moves to the primary before it has answered a query
		return Primary, c.sent.pending
	case b.write, c.pins&pinReads != 0, b.hint == lb.ToPrimary, b.givenUp && c.seen.stage != confirmWait:
		return Primary, c.unconfirmed()
	case b.show && (p.ready || !s.ready), !b.reads && !b.begin && p.ready:
		return Primary, false
	case b.show, !b.reads && !b.begin && s.ready:
		return Standby, false
	case c.seen.stage == confirmNone:
		slot, wait = c.chooseRead()
		return slot, wait || slot == Primary && c.unconfirmed()
	case c.seen.stage == confirmWait && s.ready && c.caughtUp(s.backend, s.run): // meanwhile
		c.seen.stage = confirmNone
		c.unblocked()
		return Standby, false
	}
	return Primary, c.unconfirmed()
}

// chooseRead picks the server for reads outside of a transaction; wait: when the
// next sample is there.
func (c *Core) chooseRead() (slot Slot, wait bool) {
	s := c.server[Standby]
	attached := ""
	switch {
	case s.ready:
		attached = s.backend
	case c.pooled():
		attached = c.floor.standby // to stay with it costs no wait
	}
	name := c.batch.standby
	if name == "" {
		name = c.env.Choose(attached, c.seen.shown, c.batch.hint)
	}
	if name == "" {
		return Primary, false
	}
	run := uint64(0)
	switch {
	case s.ready && name == s.backend:
		run = s.run
	case !s.ready && name == c.floor.standby:
		run = c.floor.stood // which dispatch looks at when the connection is there
	}
	if !c.caughtUp(name, run) {
		c.batch.standby = name
		return Primary, c.blocked()
	}
	c.unblocked()
	if !s.ready || name != s.backend {
		if s.ready {
			c.giveBack(Standby)
		}
		c.want = name
	}
	return Standby, false
}
