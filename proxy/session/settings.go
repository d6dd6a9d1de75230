package session

import (
	"bytes"
	"slices"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// pin is a set of reasons why the session's reads stay on the primary, or why it
// cannot go on without its present connection to it.
type pin uint8

const (
	pinUnknown   pin = 1 << iota // something changed the session in a way that cannot be repeated
	pinTemporary                 // it has temporary relations, which hide others
	pinIsolation                 // its transactions are not READ COMMITTED by default, or not read-write
	pinListen                    // LISTEN,
	pinLock                      // session locks,
	pinCursor                    // and WITH HOLD cursors: no reasons against reads elsewhere

	pinReads = pinUnknown | pinTemporary | pinIsolation
	pinBound = pinUnknown | pinTemporary | pinListen | pinLock | pinCursor
)

// journal is the list of statements that bring a server to the session's
// settings. Each server remembers how far it has come (server.applied).
type journal struct {
	entries []setting
	seq     int // position after the last entry
	// unsettled are those of the open transaction; they count when it commits.
	unsettled []setting
	savepoint bool // the open transaction has savepoints: what is undone is not known
	failed    bool // an error has come since the batch began
}

// setting is one statement of the journal.
type setting struct {
	seq int
	// kind is EffectSet, EffectResetAll, EffectDiscardAll or EffectDeallocate (ALL).
	kind lb.Effect
	name string // folded name of the setting, of EffectSet
	sql  []byte
}

// hides reports that an earlier entry has no effect any more.
func (e *setting) hides(earlier *setting) bool {
	switch e.kind {
	case lb.EffectDiscardAll:
		return true
	case lb.EffectResetAll: // leaves the role, the prepared statements, and what DISCARD ALL did beside
		return earlier.kind == lb.EffectResetAll ||
			earlier.kind == lb.EffectSet && earlier.name != "role" && earlier.name != "session_authorization"
	case lb.EffectDeallocate:
		return earlier.kind == lb.EffectDeallocate
	}
	return earlier.kind == lb.EffectSet && earlier.name == e.name
}

// maxJournal bounds the bytes of the journal; a session with more is pinned.
const maxJournal = 16 << 10

// add puts an entry behind those there are; the earlier ones that it hides go.
func (j *journal) add(e setting) {
	j.seq++
	e.seq = j.seq
	j.entries = slices.DeleteFunc(j.entries, func(earlier setting) bool { return e.hides(&earlier) })
	j.entries = append(j.entries, e)
}

func (j *journal) size() int {
	n := 0
	for i := range j.entries {
		n += len(j.entries[i].sql)
	}
	return n
}

// transactionEnded takes the end of a transaction from a command tag. A batch may
// hold several, and with AND CHAIN no ReadyForQuery tells of it.
func (c *Core) transactionEnded(slot Slot, v *lb.Verdict, tag []byte) {
	j := &c.journal
	switch string(tag) {
	case "SAVEPOINT":
		j.savepoint = true
	case "COMMIT":
		c.settle(slot)
	case "ROLLBACK": // or ROLLBACK TO, which has the same tag
		switch {
		case v != nil && v.Effects&(lb.EffectEnd|lb.EffectSavepoint) == lb.EffectEnd:
			j.unsettled, j.savepoint = j.unsettled[:0], false
		case v != nil && v.Effects&lb.EffectEnd == 0:
		case len(j.unsettled) > 0:
			c.pins |= pinUnknown
		}
	}
}

// settle takes the settings of a transaction or batch that is over, and was not
// rolled back, into the journal; those of one that failed go.
func (c *Core) settle(slot Slot) {
	j := &c.journal
	if len(j.unsettled) > 0 && !j.failed {
		if j.savepoint {
			c.pins |= pinUnknown
		}
		s := &c.server[slot]
		same := s.applied == j.seq
		for _, e := range j.unsettled {
			j.add(e)
		}
		if same {
			s.applied = j.seq
		}
		if j.size() > maxJournal {
			c.pins |= pinUnknown
		}
	}
	j.unsettled = j.unsettled[:0]
	j.savepoint = false
}

// applySettings brings a server to the session's settings, before a batch.
func (c *Core) applySettings(slot Slot) {
	s := &c.server[slot]
	if s.applied == c.journal.seq {
		return
	}
	for i := range c.journal.entries {
		e := &c.journal.entries[i]
		if e.seq <= s.applied {
			continue
		}
		c.inject(slot, pgwire.AppendQuery(nil, string(e.sql)), expect{kind: pgwire.Query, journal: true, restore: slot == Primary})
		if slot == Primary {
			s.restoring++
		}
		s.unnamed = 0
		if e.kind == lb.EffectDiscardAll || e.kind == lb.EffectDeallocate {
			clear(s.names)
		}
	}
	s.applied = c.journal.seq
	s.dirty = true
}

// foresee takes the effects of a statement that count whatever its outcome,
// when it is sent.
func (c *Core) foresee(slot Slot, v *lb.Verdict) {
	if v == nil || v.Effects == 0 {
		return
	}
	s := &c.server[slot]
	const unknown = lb.EffectMayChangeState | lb.EffectUnknownInSession | lb.EffectSetConfig
	if v.Effects&unknown != 0 || v.Settings != nil {
		c.pins |= pinUnknown
	}
	if v.Effects&lb.EffectTemp != 0 {
		c.pins |= pinTemporary
	}
	if v.Effects&lb.EffectListen != 0 {
		c.pins |= pinListen
	}
	if v.Effects&lb.EffectSessionLock != 0 {
		c.pins |= pinLock
	}
	if v.Effects&lb.EffectWithHold != 0 {
		c.pins |= pinCursor
	}
	if v.Effects&(lb.EffectMayChangeState|lb.EffectLeftover|lb.EffectCustom|lb.EffectSetConfig) != 0 {
		s.leftover = true
	}
	if v.Effects&lb.EffectDatabase != 0 {
		c.env.CloseIdle(slot)
	}
}

// applyEffects takes the effects of a statement that was successful.
func (c *Core) applyEffects(slot Slot, v *lb.Verdict, sql []byte) {
	if v.Effects == 0 {
		return
	}
	s := &c.server[slot]
	switch {
	case v.Effects&lb.EffectUnknownInSession != 0 || v.Settings != nil:
	case v.Effects&lb.EffectDiscardAll != 0:
		c.pins = 0
		for i := s.head; i < len(s.ring); i++ { // what was sent behind it counts
			c.foresee(slot, s.ring[i].verdict)
		}
		c.names.clear()
		s.deallocated("")
		c.journal.unsettled = append(c.journal.unsettled, setting{kind: lb.EffectDiscardAll, sql: bytes.Clone(sql)})
	case v.Effects&lb.EffectResetAll != 0:
		c.pins &^= pinIsolation
		c.journal.unsettled = append(c.journal.unsettled, setting{kind: lb.EffectResetAll, sql: bytes.Clone(sql)})
	case v.Effects&lb.EffectSet != 0:
		c.set(v.Setting, sql)
	case v.Effects&lb.EffectPrepare != 0:
		st := &statement{name: v.Name, version: c.names.nextVersion(), verdict: v, sql: bytes.Clone(sql)}
		c.names.bySQL(v.Name, st)
		s.undo()
		s.setVersion(v.Name, st.version)
		s.redo()
	case v.Effects&lb.EffectDeallocate != 0 && v.Name != "":
		c.names.bySQL(v.Name, nil)
		s.deallocated(v.Name)
	case v.Effects&lb.EffectDeallocate != 0:
		c.names.clear()
		s.deallocated("")
		c.journal.unsettled = append(c.journal.unsettled, setting{kind: lb.EffectDeallocate, sql: bytes.Clone(sql)})
	}
	if v.Effects&lb.EffectDDL != 0 {
		c.env.CatalogChanged()
	}
}

// set notes a SET or RESET of one setting.
func (c *Core) set(name string, sql []byte) {
	switch name {
	case "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable",
		"transaction_isolation", "transaction_read_only", "transaction_deferrable":
		c.pins |= pinIsolation
	}
	c.journal.unsettled = append(c.journal.unsettled, setting{kind: lb.EffectSet, name: name, sql: bytes.Clone(sql)})
}
