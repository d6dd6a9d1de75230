package session

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

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
	pinApart                     // a standby cannot be brought to its settings
	pinDoubt                     // pinUnknown, or not: the catalog must be read first

	pinReads = pinUnknown | pinTemporary | pinIsolation | pinApart | pinDoubt
	pinBound = pinUnknown | pinDoubt | pinTemporary | pinListen | pinLock | pinCursor
)

// foresee takes the effects of a statement that count whatever its outcome,
// when it is sent.
func (c *Core) foresee(slot Slot, v *lb.Verdict) {
	if v == nil || v.Effects == 0 {
		return
	}
	s := c.server[slot]
	if v.Effects&(lb.EffectMeaning|lb.EffectResetAll|lb.EffectDiscardAll|lb.EffectUnknownInSession|lb.EffectMayChangeState) != 0 {
		s.skewed = true
	}
	if v.Effects&(lb.EffectUnpin|lb.EffectTemp|lb.EffectListen|lb.EffectSessionLock|lb.EffectWithHold) != 0 {
		c.unpinDue = true
	}
	unknown := lb.EffectMayChangeState | lb.EffectUnknownInSession
	if c.pooled() {
		unknown |= lb.EffectLeftover
	}
	if v.Effects&unknown != 0 {
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
	if v.Effects&(lb.EffectMayChangeState|lb.EffectLeftover) != 0 {
		s.leftover = true
	}
	if v.Effects&lb.EffectCustom != 0 {
		c.noteCustom(s, v.Custom)
	}
	if v.Effects&lb.EffectDatabase != 0 {
		c.env.CloseIdle(slot)
	}
}

// largeObjects are the functions that libpq calls by FunctionCall (fe-lobj.c), by their
// OIDs in pg_proc.dat: they leave nothing in the session.
var largeObjects = []uint32{715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172}

// foreseeCall does so for a FunctionCall, which names any function there is.
func (c *Core) foreseeCall(slot Slot, b []byte) {
	body := b[pgwire.HeaderLen:]
	if len(body) < 4 || !slices.Contains(largeObjects, binary.BigEndian.Uint32(body)) {
		c.foresee(slot, unsafeCall)
	}
}

var unsafeCall = &lb.Verdict{Statements: 1, Effects: lb.EffectMayChangeState | lb.EffectLeftover}

// foreseeText does so for what only the text tells: what set_config sets.
func (c *Core) foreseeText(slot Slot, v *lb.Verdict, sql []byte) {
	if v != nil && v.Unknown && v.Effects&lb.EffectMayChangeState != 0 && len(sql) > 0 && len(c.rare.doubts) < maxDoubts {
		c.pins |= pinDoubt
		r := c.rarely()
		r.doubts = append(r.doubts, bytes.Clone(sql))
		known := *v
		known.Effects &^= lb.EffectMayChangeState | lb.EffectLeftover
		v = &known
	}
	c.foresee(slot, v)
	if v == nil {
		return
	}
	if v.Effects&(lb.EffectSet|lb.EffectSetLocal) != 0 && v.Effects&lb.EffectMeaning != 0 && mayNameTemp(sql) {
		c.pins |= pinTemporary
		c.unpinDue = true
	}
	if v.Effects&lb.EffectSetConfig == 0 {
		return
	}
	s := c.server[slot]
	changes, ok := c.setConfig(sql)
	if !ok {
		c.pins |= pinUnknown
		s.leftover, s.skewed = true, true
		return
	}
	for _, change := range changes {
		switch {
		case strings.Contains(change.Name, "."):
			c.noteCustom(s, []string{change.Name}) // no text depends on it when it is parsed
			continue
		case change.Name == "search_path" && mayNameTemp(sql):
			c.pins |= pinTemporary
			c.unpinDue = true
		}
		s.skewed = true
	}
}

// mayNameTemp reports a text that may put pg_temp into search_path: what is created
// then is temporary, and no statement says so.
func mayNameTemp(sql []byte) bool {
	return bytes.Contains(bytes.ToLower(sql), []byte("pg_temp")) || bytes.IndexByte(sql, '\\') >= 0 || bytes.Contains(bytes.ToLower(sql), []byte("u&"))
}

// maxDoubts bounds the texts that wait for the catalog.
const maxDoubts = 16

// resolveDoubts looks again at the statements that may have changed anything as far as
// was known when they ran.
func (c *Core) resolveDoubts() {
	for i, sql := range c.rare.doubts {
		v := c.env.Classify(sql)
		switch {
		case v.Unknown && v.Effects&lb.EffectMayChangeState != 0:
			c.rare.doubts = c.rare.doubts[i:]
			return
		case v.Effects&lb.EffectMayChangeState != 0:
			c.pins |= pinUnknown
			if p := c.server[Primary]; p.ready {
				p.leftover = true
			}
		}
	}
	c.rarely().doubts = nil
	c.pins &^= pinDoubt
}

// foreseeBehind does so once more for what was sent behind a statement that has ended
// the session's pins, or has told of them.
func (c *Core) foreseeBehind(slot Slot) {
	s := c.server[slot]
	for i := s.head; i < len(s.ring); i++ {
		e := &s.ring[i]
		sql := e.text
		if sql == nil {
			sql = e.st.sqlText()
		}
		c.foreseeText(slot, e.verdict, sql)
	}
}

// setConfig returns what the calls of set_config in a statement set; false: that cannot
// be told, or not be done again by the text alone.
func (c *Core) setConfig(sql []byte) ([]lb.ConfigChange, bool) {
	changes, ok := c.env.SetConfig(sql)
	for _, change := range changes {
		ok = ok && (change.Local || !bytes.Contains(sql, []byte("$")))
	}
	return changes, ok
}
