package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// A commit that waits for a synchronous standby can be cancelled. PostgreSQL then says
// so in a WARNING and calls the statement successful (syncrep.c, SyncRepWaitForLSN):
// the transaction is committed on the primary, and lost when the primary is lost before
// a standby has it. For the client the outcome is unknown.

// cancelledWait reports that warning.
func cancelledWait(body []byte) bool {
	return string(pgwire.ErrorField(body, 'R')) == "SyncRepWaitForLSN"
}

func unsureError() []byte {
	return ownError("08007", "the transaction was committed on the primary but perhaps not on a standby: its wait for one was cancelled")
}

// unsureAnswer puts that error in the place of the answer of a simple query of one
// statement; true: it did. Of several, or in the extended protocol, the statements
// behind the commit have answers of their own, and the error comes at their end
// (readyForQuery) as that of a deferred constraint does.
func (c *Core) unsureAnswer(slot Slot, e *expect) bool {
	s := c.server[slot]
	if !s.unsure || e.kind != pgwire.Query || e.inject || e.verdict == nil || e.verdict.Statements != 1 {
		return false
	}
	s.unsure = false
	c.toClient(slot, unsureError())
	c.env.Failed(slot, false)
	return true
}
