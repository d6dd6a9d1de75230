package session

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// Carried is what is known of a server connection that goes from one session to the next
// and is not reset in between.
type Carried server

// Share makes the session one that keeps a server connection for a transaction only:
// its settings and prepared statements follow it, and those of a server connection
// stay there for the next session. perServer is how many prepared statements a
// connection keeps. It is called before the first Attach.
func (c *Core) Share(t *Statements, perServer int) {
	c.statements, c.perServer = t, perServer
	c.names.blocks = t
}

// Name tells the application_name of the client, for connections that another one has
// opened. It is called before the first Attach.
func (c *Core) Name(name string) {
	c.appName, c.settings.name = name, setName(name)
	c.settings.entries = []setting{c.settings.nameEntry()}
	c.settings.rekey()
}

// pooled reports that the session gives its connections back after each transaction.
func (c *Core) pooled() bool { return c.statements != nil }

// Suits reports whether a connection can serve the session: a custom setting that one
// session has made is there for the next one, too, and cannot be removed.
func (c *Core) Suits(carried *Carried) bool {
	if carried == nil {
		return true
	}
	for _, name := range carried.custom {
		if !slices.Contains(c.settings.custom, name) {
			return false
		}
	}
	return true
}

// rest gives back what the session does not need until its next batch.
func (c *Core) rest() {
	if !c.pooled() || c.closed || c.ending || c.seen.stage != confirmNone {
		return
	}
	if c.pins&pinDoubt != 0 {
		c.resolveDoubts()
	}
	for slot := Primary; slot <= Standby; slot++ {
		if c.resting(slot) && !c.tidy(slot) {
			c.giveBack(slot)
		}
	}
}

// resting reports that nothing binds the session to the connection in that slot.
func (c *Core) resting(slot Slot) bool {
	s := c.server[slot]
	switch {
	case !s.quiet() || s.tx != pgwire.TxIdle || s.rollingBack || c.garbled:
		return false
	case c.batch.slot == slot && (c.batch.open || len(c.held) > 0), c.body.left > 0 && c.body.to == slot:
		return false
	case slot == Standby:
		// Who waits for the primary keeps no standby: those who have one may wait for it.
		return !c.readOnly.open || c.sent.pending
	}
	return c.names.unkept == 0 && (c.pins&pinBound == 0 || c.unpinDue)
}

// tidy removes what only this session may have there, or finds out whether something
// still is; true: the answer comes first.
func (c *Core) tidy(slot Slot) bool {
	s := c.server[slot]
	if slot == Primary && c.pins&pinBound != 0 {
		c.unpinDue = false
		if c.pins&(pinUnknown|pinDoubt) == 0 {
			c.inject(Primary, pgwire.AppendQuery(nil, askPins), expect{kind: pgwire.Query, pins: true})
			s.unnamed = 0
		}
		return true
	}
	if s.private == 0 {
		return false
	}
	for name, m := range s.names {
		if m.own(name) {
			c.closeStatement(slot, name)
		}
	}
	c.inject(slot, pgwire.AppendSync(nil), expect{kind: pgwire.Sync})
	return true
}

// askPins asks what binds the session to its connection to the primary, in the words
// of pinWords.
const askPins = "SELECT pg_catalog.concat_ws(' '" +
	", CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass" +
	" AND refobjid = pg_catalog.pg_my_temp_schema()) THEN 'temporary' END" +
	", CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) THEN 'listen' END" +
	", CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) THEN 'cursor' END" +
	", CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) THEN 'lock' END)"

// pinned takes the answer to askPins: a row of one column.
func (c *Core) pinned(body []byte) {
	if len(body) < 6 || int(int32(binary.BigEndian.Uint32(body[2:]))) != len(body)-6 {
		return
	}
	words := strings.Fields(string(body[6:]))
	for p, word := range pinWords {
		if !slices.Contains(words, word) {
			c.pins &^= p
		}
	}
	c.foreseeBehind(Primary)
	if c.pins&pinListen == 0 && c.rare != noRare {
		c.rare.listens = listens{}
	}
}

var pinWords = map[pin]string{pinTemporary: "temporary", pinListen: "listen", pinCursor: "cursor", pinLock: "lock"}

// exact is one use of a server connection.
type exact struct{ id, uses uint64 }

// follows reports that nobody else has used the connection of the session's last write.
func (c *Core) follows(loan exact) bool {
	return c.written.id != 0 && loan == exact{c.written.id, c.written.uses + 1}
}

// Exact returns which connection to the primary the core wants, for the values of
// sequences (currval, lastval) that the session's last write has left there: the one of
// that ID, if nobody has used it since it had had that many uses. ok is false when any
// will do.
func (c *Core) Exact() (id, uses uint64, ok bool) {
	return c.written.id, c.written.uses, c.exactly
}

// OwnPID makes the session one whose client was told a process id of pgproxy's own.
func (c *Core) OwnPID(pid uint32) { c.ownPID = pid }

// notifyAsOwn gives the client a notification of its own session with the process id
// that it knows; false: it is none.
func (c *Core) notifyAsOwn(body []byte) bool {
	if c.ownPID == 0 || len(body) < 4 || binary.BigEndian.Uint32(body) != c.server[Primary].pid {
		return false
	}
	own := binary.BigEndian.AppendUint32(nil, c.ownPID)
	c.toClient(Primary, pgwire.AppendMessage(nil, pgwire.NotificationResponse, append(own, body[4:]...)))
	return true
}

// reportName takes a ParameterStatus for the client; true: it is not forwarded, because a
// RESET has given the connection the application_name of whoever opened it. The next
// batch puts that right.
func (c *Core) reportName(slot Slot, name, value []byte) bool {
	opener := c.server[slot].opener
	if c.settings.name == "" || string(name) != applicationName || string(value) != opener || opener == c.appName {
		return false
	}
	c.reportOwnName(slot)
	return true
}

// reportOwnName tells the client its own application_name, if it was told another one.
func (c *Core) reportOwnName(slot Slot) {
	if c.tell([]byte(applicationName), c.appName) {
		c.toClient(slot, pgwire.AppendParameterStatus(nil, applicationName, c.appName))
	}
}
