package session

import (
	"bytes"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// failed is the state of a session whose transaction went with its server: PostgreSQL's
// failed transaction, without a server. Every statement is refused until one ends the
// transaction. The answers are those of postgres.c (exec_simple_query,
// exec_parse_message, exec_bind_message, exec_describe_..., exec_execute_message).
type failed struct {
	open bool
	// due is the error that tells that the transaction is gone, until the client has it.
	due []byte
	// portals are those of statements that end a transaction.
	portals map[string]*lb.Verdict
	// ended: the transaction has ended inside of a batch in the extended protocol, of
	// which a server has nothing yet.
	ended bool
}

// abortedError is what PostgreSQL says to a statement in a failed transaction.
func abortedError() []byte {
	return theirError("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

// theirError makes an ErrorResponse that PostgreSQL itself would give.
func theirError(code, text string) []byte {
	return pgwire.AppendError(nil, "ERROR", code, text, "", "")
}

// status is the transaction status that the client is told with an answer of our own.
func (c *Core) status() byte {
	if c.rare.failed.open {
		return pgwire.TxFailed
	}
	if slot := c.txSlot(); slot != None {
		return c.server[slot].tx
	}
	return pgwire.TxIdle
}

// refuseNext answers the next batch with an error, and nothing else of it is done.
func (c *Core) refuseNext(raw []byte) {
	c.rarely().refusal = raw
	c.lookAnew()
}

// standsIn reports that the next message is perhaps not for a server.
func (c *Core) standsIn() bool {
	return c.rare.failed.open || c.rare.failed.ended || c.rare.refusal != nil && !c.batch.open
}

// standIn answers a message of the client in the place of a server; false: it is for
// one. b is the message or the start of a large one of n bytes.
func (c *Core) standIn(typ byte, b []byte, n int) bool {
	switch {
	case c.rare.failed.open:
		if !c.answerFailed(typ, b) {
			return false
		}
	case c.rare.failed.ended && (typ == pgwire.Sync || typ == pgwire.Flush):
		if typ == pgwire.Sync {
			c.rare.failed.ended = false
			c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		}
	case c.rare.failed.ended:
		c.rare.failed.ended = false
		return false
	case typ == pgwire.Sync:
		c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
	case typ == pgwire.Flush:
	default:
		c.fail(typ, c.rare.refusal)
		c.rare.refusal = nil
	}
	c.heldLen += len(b)
	c.body.left, c.body.to = n-len(b), None
	return true
}

// fail answers a message with an error.
func (c *Core) fail(typ byte, raw []byte) {
	c.toClient(None, raw)
	if typ == pgwire.Query || typ == pgwire.FunctionCall {
		c.toClient(None, pgwire.AppendReadyForQuery(nil, c.status()))
		return
	}
	c.skipToSync = true
}

// refuse does so with what PostgreSQL says, but first of all the client must know that
// the transaction is gone.
func (c *Core) refuse(typ byte, raw []byte) {
	if c.rare.failed.due != nil {
		raw, c.rare.failed.due = c.rare.failed.due, nil
	}
	c.fail(typ, raw)
}

// answerFailed answers a message in a failed transaction; false: it has ended, and the
// message is for a server.
func (c *Core) answerFailed(typ byte, b []byte) bool {
	body := b[pgwire.HeaderLen:]
	switch typ {
	case pgwire.Query:
		return c.queryFailed(b)
	case pgwire.FunctionCall:
		c.refuse(typ, abortedError())
	case pgwire.Parse:
		c.parseFailed(b)
	case pgwire.Bind:
		portal, rest, _ := pgwire.CString(body)
		name, _, _ := pgwire.CString(rest)
		c.bindFailed(string(portal), name)
	case pgwire.Describe, pgwire.Close:
		if len(body) == 0 {
			c.refuse(typ, theirError("08P01", "invalid message format"))
			return true
		}
		name, _, _ := pgwire.CString(body[1:])
		if typ == pgwire.Describe {
			c.describeFailed(body[0], name)
			return true
		}
		if body[0] == 'S' {
			c.names.confirm(c.names.change(string(name), nil))
		} else {
			delete(c.rare.failed.portals, string(name))
		}
		c.toClient(None, pgwire.AppendEmpty(nil, pgwire.CloseComplete))
	case pgwire.Execute:
		portal, _, _ := pgwire.CString(body)
		c.executeFailed(portal)
	case pgwire.Sync:
		c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxFailed))
	}
	return true
}

// controlsFailed reports a statement that is not refused in a failed transaction.
func controlsFailed(v *lb.Verdict) bool {
	return v.Statements == 1 && (v.Effects&lb.EffectEnd != 0 ||
		v.Effects&lb.EffectSavepoint != 0 && (v.Savepoint == lb.SavepointRollback || v.Savepoint == lb.NoSavepoint))
}

func (c *Core) queryFailed(b []byte) bool {
	m := c.look(pgwire.Query, b)
	c.names.confirm(m.op)
	switch v := m.verdict; {
	case v.Statements == 0:
		c.toClient(None, pgwire.AppendEmpty(nil, pgwire.EmptyQueryResponse))
		c.toClient(None, pgwire.AppendReadyForQuery(nil, pgwire.TxFailed))
	case controlsFailed(v):
		if c.control(pgwire.Query, v) {
			c.toClient(None, pgwire.AppendReadyForQuery(nil, c.status()))
		}
	case v.Statements > 1 && c.rare.failed.due == nil && c.endsFirst(b):
		c.leaveFailed() // the server says that there is none, and runs the rest
		return false
	default:
		c.refuse(pgwire.Query, abortedError())
	}
	return true
}

// endsFirst reports that the first of several statements ends the transaction.
func (c *Core) endsFirst(b []byte) bool {
	sql, _, whole := pgwire.CString(b[pgwire.HeaderLen:])
	first, _, several := bytes.Cut(sql, []byte(";"))
	if !whole || !several {
		return false
	}
	v := c.env.Classify(first)
	return v.Statements == 1 && v.Effects&(lb.EffectEnd|lb.EffectChain) == lb.EffectEnd
}

// control runs a statement about the transaction; false: it was answered with an error.
func (c *Core) control(typ byte, v *lb.Verdict) bool {
	again := ownError("40001", "the transaction was lost with its server, try again")
	switch {
	case v.Effects&lb.EffectEnd == 0 || v.Effects&lb.EffectChain != 0: // there is nothing to go back to
		c.refuse(typ, again)
		return false
	case c.rare.failed.due != nil && !v.Rollback:
		raw := c.rare.failed.due
		c.leaveFailed()
		c.fail(typ, raw)
		return false
	}
	c.leaveFailed()
	c.toClient(None, pgwire.AppendCommandComplete(nil, "ROLLBACK"))
	return true
}

func (c *Core) leaveFailed() { c.rare.failed = failed{} }

func (c *Core) parseFailed(b []byte) {
	m := c.look(pgwire.Parse, b)
	var raw []byte
	switch {
	case m.st == nil:
		raw = theirError("08P01", "invalid message format")
	case m.st.verdict.Statements > 1:
		raw = theirError("42601", "cannot insert multiple commands into a prepared statement")
	case m.st.verdict.Statements == 1 && !controlsFailed(m.st.verdict):
		raw = abortedError()
	case m.name != "" && m.prev != nil:
		raw = theirError("42P05", `prepared statement "`+m.name+`" already exists`)
	default:
		c.names.confirm(m.op)
		c.toClient(None, pgwire.AppendEmpty(nil, pgwire.ParseComplete))
		return
	}
	if m.st != nil && m.name == "" { // it goes before the new one is looked at
		c.names.confirmNone(m.op)
	} else {
		c.names.cancel(m.op)
	}
	c.refuse(pgwire.Parse, raw)
}

// missing is the error for a statement that the session has not.
func missing(name []byte) []byte {
	if len(name) == 0 {
		return theirError("26000", "unnamed prepared statement does not exist")
	}
	return theirError("26000", `prepared statement "`+string(name)+`" does not exist`)
}

func (c *Core) bindFailed(portal string, name []byte) {
	switch st := c.names.lookup(name); {
	case st == nil:
		c.refuse(pgwire.Bind, missing(name))
	case !controlsFailed(st.verdict):
		c.refuse(pgwire.Bind, abortedError())
	default:
		if c.rare.failed.portals == nil {
			c.rare.failed.portals = make(map[string]*lb.Verdict)
		}
		c.rare.failed.portals[portal] = st.verdict
		c.toClient(None, pgwire.AppendEmpty(nil, pgwire.BindComplete))
	}
}

func (c *Core) describeFailed(kind byte, name []byte) {
	st := c.names.lookup(name)
	switch {
	case kind == 'S' && st == nil:
		c.refuse(pgwire.Describe, missing(name))
	case kind == 'S' && !controlsFailed(st.verdict):
		c.refuse(pgwire.Describe, abortedError())
	case kind != 'S' && c.rare.failed.portals[string(name)] == nil:
		c.refuse(pgwire.Describe, noPortal(name))
	default:
		c.describeEnd(kind == 'S')
	}
}

// describeEnd describes a statement that has neither parameters nor rows.
func (c *Core) describeEnd(statement bool) {
	if statement {
		c.toClient(None, pgwire.AppendMessage(nil, pgwire.ParameterDescription, []byte{0, 0}))
	}
	c.toClient(None, pgwire.AppendEmpty(nil, pgwire.NoData))
}

func noPortal(name []byte) []byte {
	return theirError("34000", `portal "`+string(name)+`" does not exist`)
}

func (c *Core) executeFailed(portal []byte) {
	v := c.rare.failed.portals[string(portal)]
	if v == nil {
		c.refuse(pgwire.Execute, noPortal(portal))
		return
	}
	if c.control(pgwire.Execute, v) {
		c.rare.failed.ended = true
	}
}
