package session

import (
	"maps"
	"slices"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// In transaction mode a server connection may lack statements of the session, or have
// them from another one. Most of that is put right inside of the batch (ensure). Not so
//
//  1. statements of SQL PREPARE, since a simple query would end the batch: all of them,
//     for what it names may still be on its way,
//  2. statements whose result the client was told of, where this connection was not
//     seen to give the same: to find out takes an answer.

// lacking is a statement that a server must have before a batch begins.
type lacking struct {
	name   string // that the session has for it
	st     *statement
	verify bool // rule 2
}

// makeReady sees to that; false: what is in flight must be answered first.
func (c *Core) makeReady(slot Slot) bool {
	s := c.server[slot]
	if !c.pooled() || c.batch.begun || c.batch.verified || c.heldCopy() {
		return true
	}
	if s.renaming() {
		return false // only then it is known which statements its names stand for
	}
	c.ownSequences(slot)
	all := c.lacking(slot)
	switch {
	case len(all) > 0 && s.live > 0:
		return false
	case s.restoring > 0: // the settings first
		return true
	}
	c.batch.verified = true
	if s.tx == pgwire.TxFailed {
		return true // nothing can be made
	}
	for _, l := range all {
		if l.verify {
			c.verify(slot, l.st)
		} else {
			c.ensureSQL(slot, l.name, l.st)
		}
	}
	return true
}

// ownSequences sees to it that currval and lastval give the session's own values, or none.
func (c *Core) ownSequences(slot Slot) {
	s := c.server[slot]
	if c.batch.lastValue {
		c.statements.sequences.Store(true)
	}
	// Inside of a transaction it could come before what must be its first statement.
	before := s.tx == pgwire.TxIdle && s.live == 0 && (c.batch.write || c.batch.begin) && c.statements.sequences.Load()
	if slot != Primary || !s.foreign || s.tx == pgwire.TxFailed || !(c.batch.lastValue && !s.written) && !before {
		return
	}
	s.foreign = false
	c.inject(slot, pgwire.AppendQuery(nil, "DISCARD SEQUENCES"), expect{kind: pgwire.Query})
	s.unnamed = 0
}

// lacking returns what the held messages need that the server has not.
func (c *Core) lacking(slot Slot) (all []lacking) {
	s := c.server[slot]
	bySQL := func(name string, st *statement) {
		if st == nil && s.version(name) != 0 || st != nil && s.version(name) != st.version {
			all = append(all, lacking{name: name, st: st})
		}
	}
	if c.names.sqls > 0 && c.held[0].typ != pgwire.Query {
		for _, name := range slices.Sorted(maps.Keys(c.names.known)) {
			if st := c.names.known[name]; st.sql != nil {
				bySQL(name, st)
			}
		}
	}
	for i := range c.held {
		m := &c.held[i]
		v := m.verdict
		if m.typ != pgwire.Query && m.st != nil {
			v = m.st.verdict
		}
		switch {
		case v != nil && v.Effects&byName != 0 && v.Name == "": // the text does not tell which
			for _, name := range slices.Sorted(maps.Keys(c.names.known)) {
				bySQL(name, c.names.known[name])
			}
		case v != nil && v.Effects&byName != 0:
			if m.typ != pgwire.Query { // which looks after itself
				bySQL(v.Name, c.names.lookupAt([]byte(v.Name), m.seq))
			}
		case s.tx == pgwire.TxInTransaction && v != nil && v.Effects&(lb.EffectSetLocal|lb.EffectIsolation) != 0:
			return all // it may have to come first in its transaction
		case m.st != nil && m.st.shared != nil && m.st.row != 0 && !m.st.void && s.names[m.st.shared.name].row != m.st.row &&
			(s.tx == pgwire.TxIdle || s.tx == pgwire.TxInTransaction && slot == Primary):
			all = append(all, lacking{st: m.st, verify: true})
		}
	}
	return all
}

// verify makes a statement anew and has the server say what its result is. Inside of a
// read-only transaction on a standby the Describe behind makeStatement does so.
func (c *Core) verify(slot Slot, st *statement) {
	s := c.server[slot]
	name := st.shared.name
	if s.names[name].row == st.row {
		return // the batch uses it twice
	}
	c.closeStatement(slot, name)
	c.makeRoom(slot)
	c.injectParse(slot, name, st, st.shared.parse, true)
	s.use(name, st.row) // what it is otherwise is found out now
	c.inject(slot, pgwire.AppendDescribe(nil, 'S', name), expect{kind: pgwire.Describe, st: st, name: name, verify: true})
	c.inject(slot, pgwire.AppendSync(nil), expect{kind: pgwire.Sync, verify: true})
	s.restoring++
}

// failTransaction has the server's transaction fail, as it would if the server had raised
// the error that the client gets.
func (c *Core) failTransaction(slot Slot) {
	s := c.server[slot]
	c.inject(slot, pgwire.AppendQuery(nil, "cached plan must not change result type"), expect{kind: pgwire.Query, verify: true})
	s.unnamed = 0
	s.restoring++
}
