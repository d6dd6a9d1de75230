package session

import (
	"bytes"
	"slices"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// listens are the LISTEN and UNLISTEN statements of the session, so that it can listen
// again on the next primary. What was notified meanwhile is lost, and the client does
// not know: that is the operator's choice (Env.ListensAgain).
type listens struct {
	texts     [][]byte // each once, in the order of their last success
	unsettled [][]byte // those of the open transaction
	unsure    bool     // there are some of which the texts do not tell
	again     bool     // the next primary is to get them at once
}

// maxListens bounds the bytes of the texts.
const maxListens = 16 << 10

// kept returns the pin of what the next connection will have again.
func (l *listens) kept() pin {
	if l.again {
		return pinListen
	}
	return 0
}

// note takes a statement that was successful, by its command tag.
func (l *listens) note(v *lb.Verdict, tag, sql []byte) {
	switch string(tag) {
	case "LISTEN", "UNLISTEN":
		if v == nil || v.Statements != 1 || len(sql) == 0 {
			l.unsure = true
			return
		}
		l.unsettled = append(l.unsettled, bytes.Clone(sql))
	case "ROLLBACK":
		switch {
		case len(l.unsettled) == 0:
		case v != nil && v.Effects&(lb.EffectEnd|lb.EffectSavepoint) == lb.EffectEnd:
			l.unsettled = nil
		default:
			l.unsure = true
		}
	case "COMMIT":
		l.settle(true)
	case "DISCARD ALL":
		*l = listens{}
	}
}

// noteListen does so, if it is of interest.
func (c *Core) noteListen(e *expect, tag []byte) {
	switch string(tag) {
	case "LISTEN", "UNLISTEN":
		c.rarely().listens.note(e.verdict, tag, e.sqlText())
	case "ROLLBACK", "COMMIT", "DISCARD ALL":
		if c.rare != noRare {
			c.rare.listens.note(e.verdict, tag, nil)
		}
	}
}

// settle is called at the end of a transaction.
func (l *listens) settle(committed bool) {
	if len(l.unsettled) == 0 {
		return
	}
	if committed {
		size := 0
		for _, sql := range l.unsettled {
			l.texts = slices.DeleteFunc(l.texts, func(t []byte) bool { return bytes.Equal(t, sql) })
			l.texts = append(l.texts, sql)
		}
		for _, sql := range l.texts {
			size += len(sql)
		}
		l.unsure = l.unsure || size > maxListens
	}
	l.unsettled = nil
}

// deafened ends a session that listens, when its connection is lost: a notification
// that is lost must not be silent. It reports whether it did.
func (c *Core) deafened(owed bool, tx byte) bool {
	if c.pins&pinListen == 0 {
		return false
	}
	l := &c.rarely().listens
	if c.env.ListensAgain() && !l.unsure {
		l.again = true
		return false
	}
	code, text := "57P01", "the connection to the primary was lost, and with it notifications of the session"
	switch {
	case owed:
		code, text = "08007", text+", the outcome of the statement is unknown"
	case tx != pgwire.TxIdle:
		code, text = "40001", text+", try again"
	}
	c.End(pgwire.AppendError(nil, "FATAL", code, "pgproxy: "+text, "", ""))
	return true
}

// listenAgain asks for a primary although the client asks for nothing.
func (c *Core) listenAgain() {
	if c.rare.listens.again && c.attaching == None && !c.server[Primary].ready && !c.closed {
		c.attaching = Primary
	}
}

// emitListens brings a new connection to the primary to what the session listens for.
func (c *Core) emitListens() {
	if !c.rare.listens.again {
		return
	}
	c.rare.listens.again = false
	for _, sql := range c.rare.listens.texts {
		c.inject(Primary, pgwire.AppendQuery(nil, string(sql)), expect{kind: pgwire.Query})
	}
	c.server[Primary].unnamed = 0
	c.server[Primary].dirty = true
}

// cannotListen ends a session that waits for nothing but to listen again; true: it did.
func (c *Core) cannotListen() bool {
	if !c.rare.listens.again || len(c.held) > 0 || c.sent.pending {
		return false
	}
	c.End(pgwire.AppendError(nil, "FATAL", "57P01", "pgproxy: the connection to the primary was lost, and with it notifications of the session", "", ""))
	return true
}
