package session

import (
	"bytes"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// server is what the core knows about one server connection.
type server struct {
	out     Output
	ready   bool // attached
	used    bool // somebody had the connection before
	backend string
	run     uint64 // stands for one run of the server, or for this connection where that is not known
	began   uint64 // Attachment.Server
	pid     uint32
	opener  string // application_name with which it was opened
	loan    exact
	tx      byte // status of the last ReadyForQuery

	ring []expect // answers owed, oldest first from head
	head int
	live int // entries of ring that belong to the client

	names   map[string]made // the named statements it has, answers in flight counted as given
	private int             // how many of them the next session must not meet
	// skewed: a setting has changed, beyond those of its key, on which it may depend what a
	// statement means that is parsed now.
	skewed  bool
	uses    uint64 // counts the uses of named statements
	unnamed uint64 // version of the unnamed one, 0: none
	behind  bool   // of the primary: it lacks statements that the session had before

	// foreign: currval and lastval may give values of another session.
	foreign  bool
	settings string   // key of the settings that it has
	custom   []string // custom settings that it knows

	restoring int // answers owed to expect.restore and expect.verify

	left     int  // bytes to come of the message that is passing through
	dropping bool // they are thrown away
	skipping bool // it ignores what comes until Sync, of which there is none on the way
	unsynced bool // it has ignored a Sync: the transaction of a COPY is still open
	copyIn   bool // in COPY FROM STDIN: Sync and Flush are ignored by the server

	dirty       bool  // DISCARD ALL has something to do
	leftover    bool  // something is there that it does not remove
	fatal       bool  // an ErrorResponse FATAL or PANIC has come
	wrote       bool  // something not known to be a read is in flight
	written     bool  // or was
	unsure      bool  // a commit was not confirmed by a standby, and the client is to be told
	handed      fate  // of the batch of which the end was not handed over
	at          phase // by what has been answered since tx was
	done        int   // statements of the client that were since
	rollingBack bool  // a ROLLBACK of our own is in flight; its transaction counts as over
}

// expect is an answer owed by a server.
type expect struct {
	kind     byte // type of the client message; copyEnd
	inject   bool // sent by us: the answer is swallowed
	journal  bool // with inject: sets a setting
	restore  bool // with journal: on the primary; what the client sends waits for it
	verify   bool // with inject: makes a statement anew to see its result
	rollback bool // with inject: ends server.rollingBack
	confirm  bool // with inject: asks for what seen needs
	pins     bool // with inject: asks what pins the session
	failed   bool // of Query, or the Sync behind it: an error has come
	fate     fate // of what ends a batch

	verdict *lb.Verdict // of Query and Execute
	st      *statement  // of Parse, Execute, and Describe of a statement
	op      *op         // change of the namespace that the answer confirms
	named   bool        // of Parse, Close of a statement, and our own PREPARE:
	name    string      // its name on the server (of Describe of a statement, too),
	before  uint64      // and the version that the server had
	skewed  bool        // of Parse: made.skewed
	text    []byte      // of Query: a copy, where its effects need it
}

// made is a named statement that a server has.
type made struct {
	version uint64
	row     uint64 // hash of its RowDescription, 0: not known
	used    uint64 // server.uses when it was used last
	// skewed: it is shared, and was made under other settings than those that its name
	// stands for, so that it may mean something else.
	skewed bool
}

// unknownRun marks what stands for a connection and not for a run of a server.
const unknownRun = 1 << 63

// carry takes over what earlier sessions have left.
func (s *server) carry(k *Carried) {
	s.names, s.uses, s.settings, s.custom = k.names, k.uses, k.settings, k.custom
	s.foreign = k.written
}

// carried returns it for the next session.
func (s *server) carried() *Carried {
	return &Carried{names: s.names, uses: s.uses, settings: s.settings, custom: s.custom, written: s.foreign || s.written}
}

// renaming reports that something is in flight that makes or drops named statements: an
// error before it would leave them as they are.
func (s *server) renaming() bool {
	const renames = lb.EffectPrepare | lb.EffectDeallocate | lb.EffectDiscardAll | lb.EffectUnknownInSession
	for i := s.head; i < len(s.ring); i++ {
		if e := &s.ring[i]; e.named && e.name != "" || !e.inject && e.verdict != nil && e.verdict.Effects&renames != 0 {
			return true
		}
	}
	return false
}

// copyEnd marks CopyDone or CopyFail in the ring.
const copyEnd byte = 'c'

// sqlText is the text of the statement that was to be run, where it is kept.
func (e *expect) sqlText() []byte {
	if e.kind == pgwire.Query {
		return e.text
	}
	return e.st.sqlText()
}

func (s *server) pending() int { return len(s.ring) - s.head }

func (s *server) push(e expect) {
	if !e.inject && e.kind != copyEnd {
		s.live++
	}
	s.ring = append(s.ring, e)
}

// next returns the oldest answer owed, nil when there is none.
func (s *server) next() *expect {
	for s.head < len(s.ring) && s.ring[s.head].kind == copyEnd {
		s.pop()
	}
	if s.head == len(s.ring) {
		return nil
	}
	return &s.ring[s.head]
}

func (s *server) pop() expect {
	e := s.ring[s.head]
	s.ring[s.head] = expect{}
	s.head++
	switch {
	case s.head == len(s.ring):
		s.ring, s.head = s.ring[:0], 0
	case s.head >= 64 && 2*s.head >= len(s.ring): // a pipeline may never be empty
		n := copy(s.ring, s.ring[s.head:])
		clear(s.ring[n:])
		s.ring, s.head = s.ring[:n], 0
	}
	if !e.inject && e.kind != copyEnd {
		s.live--
	}
	return e
}

// swallow makes every answer still owed one that the client does not see.
func (s *server) swallow() {
	for i := s.head; i < len(s.ring); i++ {
		s.ring[i].inject = true
		s.ring[i].op = nil
	}
	s.live = 0
}

func (s *server) version(name string) uint64 {
	if name == "" {
		return s.unnamed
	}
	return s.names[name].version
}

func (s *server) setVersion(name string, v uint64) {
	switch {
	case name == "":
		s.unnamed = v
	default:
		m, had := s.names[name]
		switch {
		case had && m.version == v:
			return
		case v == 0 && had:
			delete(s.names, name)
			s.own(name, m, -1)
		case v != 0:
			if s.names == nil {
				s.names = make(map[string]made)
			}
			s.uses++
			if had {
				s.own(name, m, -1)
			}
			m = made{version: v, used: s.uses}
			s.names[name] = m
			s.own(name, m, 1)
		}
	}
}

// own counts the names of what the next session must not meet.
func (s *server) own(name string, m made, by int) {
	if m.own(name) {
		s.private += by
	}
}

func (m made) own(name string) bool { return m.skewed || !isShared(name) }

// skew marks a statement that was made under other settings than its name says.
func (s *server) skew(name string) {
	if m, ok := s.names[name]; ok && !m.skewed {
		s.own(name, m, -1)
		m.skewed = true
		s.names[name] = m
		s.own(name, m, 1)
	}
}

// use notes that a named statement is used, and with row what its result is.
func (s *server) use(name string, row uint64) {
	m, ok := s.names[name]
	if !ok {
		return
	}
	s.uses++
	m.used = s.uses
	if row != 0 {
		m.row = row
	}
	s.names[name] = m
}

// oldest returns the shared statement that was not used for longest.
func (s *server) oldest() (name string) {
	least := ^uint64(0)
	for n, m := range s.names {
		if m.used < least && !m.own(n) {
			name, least = n, m.used
		}
	}
	return name
}

// deallocated notes that the server has dropped a named statement, or all of them
// (""). What was sent behind that was counted as done already, and still is.
func (s *server) deallocated(name string) {
	s.undo()
	if name == "" {
		clear(s.names)
		s.private = 0
	} else {
		s.setVersion(name, 0)
	}
	s.redo()
}

// undo takes back what was counted of the statements in flight, so that the
// versions are those of what has been answered. redo counts them again.
func (s *server) undo() {
	for i := len(s.ring) - 1; i >= s.head; i-- {
		if e := &s.ring[i]; e.named {
			s.setVersion(e.name, e.before)
		}
	}
}

func (s *server) redo() {
	for i := s.head; i < len(s.ring); i++ {
		e := &s.ring[i]
		if e.kind == pgwire.Query {
			s.unnamed = 0
		}
		if !e.named {
			continue
		}
		e.before = s.version(e.name)
		if e.st != nil {
			s.setVersion(e.name, e.st.version)
		} else {
			s.setVersion(e.name, 0)
		}
		if e.skewed {
			s.skew(e.name)
		}
	}
}

// Server feeds bytes that the server in that slot sent, and returns how many of
// them are done with; the driver gives the rest again, followed by more.
func (c *Core) Server(slot Slot, b []byte) int {
	s := &c.server[slot]
	pos := 0
	for pos < len(b) {
		if s.left > 0 {
			n := min(len(b)-pos, s.left)
			if !s.dropping {
				c.client.forward(pos, pos+n)
			}
			pos += n
			s.left -= n
			if s.left == 0 {
				c.endMid(slot)
			}
			continue
		}
		typ, n, ok, err := pgwire.Header(b[pos:])
		if !ok {
			return pos
		}
		if err != nil { // it cannot be understood any more, and is not the session's
			c.detach = append(c.detach, Detachment{Slot: slot})
			c.ServerClosed(slot)
			return len(b)
		}
		have := min(n, len(b)-pos)
		if have < n && (n <= maxWhole || have < errorLook) {
			return pos
		}
		forward := c.reply(slot, typ, b[pos+pgwire.HeaderLen:pos+have])
		if !s.ready { // the connection was given up over this message
			return len(b)
		}
		if forward {
			c.forwardReply(slot, b, pos, have)
		}
		s.left, s.dropping = n-have, !forward
		if s.left > 0 && forward {
			c.mid = slot
		}
		pos += have
	}
	return pos
}

// forwardReply passes a server's bytes on, now or when the message of the other
// slot that is passing through has ended.
func (c *Core) forwardReply(slot Slot, b []byte, pos, n int) {
	if c.mid != None && c.mid != slot {
		c.deferred = append(c.deferred, b[pos:pos+n]...)
		return
	}
	c.client.forward(pos, pos+n)
}

func (c *Core) endMid(slot Slot) {
	if c.mid != slot {
		return
	}
	c.mid = None
	if len(c.deferred) > 0 {
		c.client.write(c.deferred)
		c.deferred = c.deferred[:0]
	}
}

// reply takes one message of a server, of whose body at least the start is
// there, and reports whether the client gets it.
func (c *Core) reply(slot Slot, typ byte, body []byte) bool {
	s := &c.server[slot]
	e := s.next()
	mine := e != nil && e.inject
	switch typ {
	case pgwire.DataRow, pgwire.CopyData:
		switch {
		case mine && e.confirm:
			c.seen.confirmRow(slot, body)
		case mine && e.pins:
			c.pinned(body)
		}
		if mine || e == nil && slot == Standby || c.sent.skip > 0 {
			return false
		}
		c.again.slot = None
		c.sent.rows = true
		if slot == Standby {
			c.readOnly.answered = c.readOnly.answered || c.inReadOnly()
		}
		return true
	case pgwire.ReadyForQuery:
		return c.readyForQuery(slot, body)
	case pgwire.ErrorResponse:
		return c.errorResponse(slot, e, body)
	case pgwire.NoticeResponse:
		s.unsure = s.unsure || slot == Primary && !mine && cancelledWait(body)
		return !mine && (slot == Primary && !stopping(body) || slot == Standby && e != nil)
	case pgwire.ParameterStatus:
		return c.parameterStatus(slot, body, mine)
	case pgwire.NotificationResponse:
		if slot == Primary {
			c.notified()
		}
		return slot == Primary && !c.notifyAsOwn(body)
	}
	if e == nil {
		return slot == Primary // nothing was asked: the client may know better
	}
	forward := !e.inject
	if typ == pgwire.CommandComplete && c.unsureAnswer(slot, e) {
		forward = false
	}
	if c.account(slot, s, e, typ, body) { // which may have moved what e points to
		s.pop()
	}
	if forward && slot == Primary && c.sent.skip > 0 {
		c.sent.skip--
		forward = false
	}
	if forward {
		c.sent.forwarded++
		c.again.slot = None
	}
	return forward
}

// account notes what an answer says and reports whether it is the last one of
// its message.
func (c *Core) account(slot Slot, s *server, e *expect, typ byte, body []byte) (ends bool) {
	switch typ {
	case pgwire.ParseComplete:
		c.names.confirm(e.op)
		if slot == Standby && !e.inject && e.name != "" && !c.pooled() {
			c.shadow(e.name, e.st)
		}
		return true
	case pgwire.BindComplete:
		return true
	case pgwire.CloseComplete:
		c.names.confirm(e.op)
		if slot == Standby && !e.inject && e.named && e.name != "" && !c.pooled() {
			c.shadow(e.name, nil)
		}
		return true
	case pgwire.RowDescription, pgwire.NoData:
		if e.kind == pgwire.Describe && e.st != nil {
			c.described(slot, e, body)
		}
		return e.kind == pgwire.Describe
	case pgwire.CommandComplete:
		tag := pgwire.CommandTag(body)
		if slot == Standby && !e.inject && c.inReadOnly() && (bytes.HasPrefix(tag, []byte("SELECT")) || bytes.HasPrefix(tag, []byte("COPY"))) {
			c.readOnly.answered = true
		}
		if !e.inject {
			c.completed(slot, e, tag)
		}
		return e.kind == pgwire.Execute
	case pgwire.EmptyQueryResponse, pgwire.PortalSuspended:
		return e.kind == pgwire.Execute
	case pgwire.CopyInResponse, pgwire.CopyBothResponse:
		s.beginCopyIn()
	}
	return false
}

// described compares what a server says about the result of a statement with what
// the client was told when another server had made it. A standby that says
// something else does not get the batch: the primary has the statement of before,
// and raises what PostgreSQL raises there.
func (c *Core) described(slot Slot, e *expect, body []byte) {
	row := hash(body)
	c.server[slot].use(e.name, row)
	switch {
	case e.verify:
		c.batch.changed = c.batch.changed || e.st.row != row
	case !e.inject:
		e.st.row = row
	case e.st.row == 0 || e.st.row == row || slot != Standby || c.server[Standby].live == 0:
	case c.standbyBound():
		c.leaveBatches(loss{text: "the result of a prepared statement has changed"})
	default:
		c.replay()
	}
}

// hash is FNV-1a; never 0.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, x := range b {
		h = (h ^ uint64(x)) * 1099511628211
	}
	return max(h, 1)
}

// beginCopyIn enters COPY FROM STDIN. The server ignores Sync and Flush until
// CopyDone or CopyFail (manual, "COPY Operations"), those that the client sent
// before it knew of the COPY too.
func (s *server) beginCopyIn() {
	s.copyIn = true
	kept := s.ring[:s.head+1]
	ignored := fate{}
	for _, e := range s.ring[s.head+1:] {
		switch {
		case e.kind == copyEnd && s.copyIn:
			s.copyIn = false
		case e.kind == pgwire.Sync && s.copyIn:
			s.unsynced = true
			ignored.join(e.fate)
			if !e.inject {
				s.live--
			}
		default:
			e.fate.join(ignored)
			kept = append(kept, e)
		}
	}
	s.handed.join(ignored)
	s.ring = kept
}

// completed applies the effects of a statement that was successful.
func (c *Core) completed(slot Slot, e *expect, tag []byte) {
	c.env.Completed(slot, tag)
	c.transactionEnded(slot, e.verdict, tag)
	c.listens.note(e.verdict, tag, e.sqlText())
	s := &c.server[slot]
	s.at = phaseAfter(s.at, e.verdict, tag)
	s.done++
	if e.kind == pgwire.Execute && e.verdict != nil {
		c.applyEffects(slot, e.verdict, e.st.sqlText())
	}
}

// readyForQuery ends a batch.
func (c *Core) readyForQuery(slot Slot, body []byte) bool {
	s := &c.server[slot]
	e := s.next()
	if len(body) != 1 {
		return slot == Primary
	}
	s.tx, s.copyIn, s.unsynced = body[0], false, false
	s.at, s.done = phaseOf(s.tx), 0
	if e == nil { // of a Sync that the server was expected to ignore
		s.skipping = false
		return slot == Primary
	}
	done := s.pop()
	if s.unsure && !done.inject {
		s.unsure = false
		c.toClient(slot, unsureError())
	}
	if done.inject {
		if done.failed && done.named && done.kind == pgwire.Query { // PREPARE
			s.undo()
			s.setVersion(done.name, 0)
			s.redo()
		}
		if done.rollback {
			s.rollingBack = false
		}
		if done.restore || done.verify {
			s.restoring--
		}
		if done.confirm {
			c.confirmAnswered(done.failed)
		}
		return false
	}
	c.sent.skip = 0
	if done.kind == pgwire.Query {
		c.names.confirm(done.op)
		if !done.failed && done.verdict != nil {
			c.applyEffects(slot, done.verdict, done.text)
		}
	}
	c.endBatch(slot, s.tx)
	return true
}

// endBatch is called when the client's batch in that slot has been answered.
func (c *Core) endBatch(slot Slot, tx byte) {
	if tx == pgwire.TxIdle {
		if c.busy() == None && !c.batch.open { // else what was looked at has portals, too
			c.names.forgetPortals()
		}
		c.told.before = nil
		c.listens.settle(!c.settings.failed)
		c.settle(slot)
	}
	if s := &c.server[slot]; tx == pgwire.TxIdle && s.live == 0 && !(c.batch.open && c.batch.begun) {
		s.skewed = false
	}
	c.settings.failed = false
	c.answered(slot)
	if slot == Primary {
		c.noteWrite()
		c.readAnswered()
	}
	if slot == Standby {
		c.sent.answered()
		if tx == pgwire.TxIdle {
			c.readOnly = readOnly{open: c.readOnlyInFlight()}
			c.sent.trim(false)
		}
		c.sent.trim(c.readOnly.replayable())
	}
	c.env.Answered(slot)
	c.endIfDone()
}

// noteWrite tells of a write on the primary that has been answered, or never will be
// because the connection is lost: it may have been done all the same.
func (c *Core) noteWrite() {
	if s := &c.server[Primary]; s.wrote {
		c.env.Wrote()
		s.wrote = s.live > 0
	}
}

// errorResponse handles an error of a server.
func (c *Core) errorResponse(slot Slot, e *expect, body []byte) bool {
	s := &c.server[slot]
	severity := pgwire.ErrorField(body, 'V')
	fatal := string(severity) == "FATAL" || string(severity) == "PANIC"
	code := string(pgwire.ErrorField(body, 'C'))
	if fatal {
		s.fatal = true
		if slot == Standby {
			return false // its end follows, ServerClosed deals with it
		}
		return c.primaryEnds(string(severity), code, body)
	}
	if e == nil {
		return slot == Primary
	}
	if slot == Standby && c.standbyError(e, code, body) || slot == Primary && !e.inject && c.runAgain(body) {
		return false
	}
	if slot == Primary && e.restore && code == "57014" && s.used && c.pooled() && s.live == 0 && s.tx == pgwire.TxIdle && !c.batch.begun {
		c.giveBack(Primary) // an earlier session's statement_timeout has struck: take another one
		return false
	}
	if slot == Primary && e.restore {
		// The session would go on with other settings, or with another role.
		c.toClient(None, pgwire.AppendError(nil, "FATAL", "57P01",
			"pgproxy: the session's settings cannot be restored on another connection", "", ""))
		c.closed = true
		return false
	}
	mine := e.inject
	e.failed = true
	if e.kind != pgwire.Query && e.kind != pgwire.FunctionCall && e.kind != pgwire.Sync {
		moved := slot == Standby && c.batch.moved && !mine
		c.skipOwed(s)
		next := s.next()
		s.skipping = next == nil
		if next != nil {
			next.failed = true
		}
		mine = next != nil && next.inject && !moved // else ours failed in the place of the client's message
		if moved && next != nil && next.inject {
			c.stopMove()
		}
	}
	if mine {
		return false
	}
	c.settings.failed = true
	c.sent.failed = true
	c.sent.skip = 0
	c.env.Failed(slot, false)
	return true
}

// skipOwed drops the answers that a server does not give after an error in the
// extended query protocol: all up to Sync (manual, "Extended Query").
func (c *Core) skipOwed(s *server) {
	first := s.head
	end := first
	for end < len(s.ring) && s.ring[end].kind != pgwire.Sync {
		end++
	}
	s.undo()
	if e := &s.ring[first]; e.kind == pgwire.Parse && e.named && e.name == "" {
		s.unnamed = 0 // the server drops the unnamed statement before it parses
		c.names.confirmNone(e.op)
	}
	for i := end - 1; i >= first; i-- {
		c.names.cancel(s.ring[i].op)
	}
	for range end - first {
		s.pop()
	}
	s.redo()
	s.copyIn = false
}

// parameterStatus passes a setting on. The client hears of its primary's only.
func (c *Core) parameterStatus(slot Slot, body []byte, mine bool) bool {
	if name, value, ok := pgwire.ReadParameterStatus(body); ok {
		c.env.Parameter(slot, name, value)
	}
	if !mine && c.reportName(slot, body) {
		return false
	}
	forward := !mine && (slot == Primary || !c.server[Primary].ready)
	if name, value, ok := pgwire.ReadParameterStatus(body); ok && forward {
		c.told.tell(string(name), string(value))
	}
	return forward
}
