package session

import "github.com/pgproxy/pgproxy/internal/pgwire"

// again keeps the batch in flight, where it can be run once more on the same
// connection: outside of a transaction, sent as a whole, using shared statements. A
// server refuses those that were made before a table was changed ("cached plan must not
// change result type"); a session that made its own after that must not see the error.
// A client that was told of the result before gets the error, as from PostgreSQL: it would
// take the new one for the old one.
type again struct {
	kept
	slot  Slot // None: nothing is kept
	uses  bool // a shared statement
	ended bool // the batch was sent to its end
}

// keepAgain remembers the held messages, which start at b[pos:] and are sent now.
func (c *Core) keepAgain(slot Slot, b []byte, pos int) {
	a := &c.again
	if !c.batch.begun {
		a.clear()
		*a = again{kept: a.kept}
		if c.pooled() && slot == Primary && c.held[0].typ != pgwire.Query && c.server[slot].tx == pgwire.TxIdle && c.server[slot].live == 0 {
			a.slot = slot
		}
	}
	if a.slot == None || a.ended || len(a.buf)+c.heldLen > maxWhole {
		a.slot = None
		return
	}
	base := len(a.buf)
	a.buf = append(a.buf, b[pos:pos+c.heldLen]...)
	for _, m := range c.held {
		m.off += base
		a.messages = append(a.messages, m)
		a.uses = a.uses || m.typ == pgwire.Bind && m.st != nil && m.st.shared != nil
		a.ended = m.typ == pgwire.Sync
	}
}

// runAgain runs the batch once more after an error of one of its messages, if nothing of it
// has reached the client; the answers that the server gives up to its Sync are swallowed.
func (c *Core) runAgain(e *expect, body []byte) bool {
	a := &c.again
	s := c.server[Primary]
	if a.slot != Primary || !a.uses || !a.ended || string(pgwire.ErrorField(body, 'C')) != "0A000" || string(pgwire.ErrorField(body, 'R')) != "RevalidateCachedQuery" {
		return false
	}
	if e.st != nil && e.st.row != 0 {
		return false
	}
	a.slot = None
	c.dropOwed(s)
	s.swallow()
	for i := range a.messages {
		if st := a.messages[i].st; st != nil && st.shared != nil {
			c.closeStatement(Primary, st.shared.name)
		}
	}
	for i := range a.messages {
		m := &a.messages[i]
		c.send(Primary, m, m.bytes(a.buf), -1, false)
	}
	return true
}

// dropStale has a standby drop the shared statements of the batch that it refused for
// the same reason, behind that batch.
func (c *Core) dropStale(messages []message) {
	s := c.server[Standby]
	if !c.pooled() || !s.ready {
		return
	}
	dropped := false
	for i := range messages {
		if st := messages[i].st; st != nil && st.shared != nil && s.version(st.shared.name) != 0 {
			c.closeStatement(Standby, st.shared.name)
			dropped = true
		}
	}
	if dropped {
		c.inject(Standby, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
	}
}
