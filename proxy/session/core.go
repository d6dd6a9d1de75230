package session

import (
	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// Slot is one of the two places that a session has for server connections.
type Slot uint8

// The slots. A connection in slot Primary takes everything; one in slot Standby
// takes only what is known to be a read.
const (
	None Slot = iota
	Primary
	Standby
)

// slots is the size of what is indexed by Slot.
const slots = 3

// String returns the name used in scripts and logs.
func (s Slot) String() string { return [...]string{"none", "primary", "standby"}[s] }

// Bounds, in bytes.
const (
	// maxLook bounds what is held back of a client's batch to decide where it goes,
	// and what is kept of the batches in flight on a standby to repeat them.
	maxLook = 64 << 10
	// maxWhole is the largest server message that is waited for as a whole.
	maxWhole = 8 << 10
	// errorLook is how much of a longer ErrorResponse is waited for: its SQLSTATE
	// stands in the first fields.
	errorLook = 512
)

// MinBuffer is how large a driver must let its read buffer of the client grow,
// in bytes, for Client to make progress.
const MinBuffer = maxLook + pgwire.HeaderLen

// Env is what the core asks of its surroundings. Its methods do not block.
type Env interface {
	// Classify returns the verdict on the text of a simple query or of a Parse.
	Classify(sql []byte) *lb.Verdict
	// SetConfig tells what the calls of set_config in a statement set, where that can be
	// told.
	SetConfig(sql []byte) ([]lb.ConfigChange, bool)
	// Show returns the SELECT that yields the rows of one of pgproxy's SHOW commands.
	Show(name string) string
	// Choose picks the server of a read. attached is the backend in slot Standby,
	// "" none; the answer is the name of a standby, or "" for the primary. shown: before
	// the primary answers, a connection to both is needed.
	Choose(attached string, shown bool, hint lb.Target) string
	// Crowded reports whether who goes from that standby, "" none, to the primary waits
	// for longer than a sample takes.
	Crowded(standby string) bool
	// Samples, Mark and RequestSample are those of package health's Sampler.
	Samples() *cluster.Samples
	Mark() uint64
	RequestSample()
	// Floors reports whether the session must see its own writes and never go back
	// in time; else whatever a standby has replayed will do.
	Floors() bool
	// Confirms reports whether the primary is asked, before it answers a session that
	// a standby has answered, if it shows all that the standby has shown.
	Confirms() bool
	// ListensAgain reports that a session which listens goes on when its primary is lost,
	// and listens again on the next one; else it ends.
	ListensAgain() bool
	// Parameter is called with each ParameterStatus.
	Parameter(slot Slot, name, value []byte)
	// Distrust is called with a statement that a standby could not run although it
	// was taken for a read.
	Distrust(sql []byte)
	// CatalogChanged is called when a statement that may have changed functions or
	// views was successful.
	CatalogChanged()
	// CloseIdle is called before a statement that fails while others are connected to
	// a database: connections that nobody uses must not count.
	CloseIdle(slot Slot)
	// Wrote is called when a statement not known to be a read has been answered.
	Wrote()
	// Completed is called for each CommandComplete, and Failed for each
	// ErrorResponse, that is forwarded.
	Completed(slot Slot, tag []byte)
	Failed(slot Slot, fatal bool)
	// Routed is called when a batch is sent, Answered when its ReadyForQuery has come.
	Routed(slot Slot)
	Answered(slot Slot)
}

// Attachment describes a server connection given to the session.
type Attachment struct {
	Backend string // its name in the configuration
	ID      uint64 // unique in the process; another one after a reconnect
	Uses    uint64 // how many sessions have had it, with this one
	PID     uint32 // of its server process
	Name    string // the application_name with which it was opened
	Fresh   bool   // nobody used the connection before
	// Server stands for one run of a server between two restarts; 0: not known.
	Server uint64
	// Carried is what the connection brings along from its earlier sessions; nil: it is
	// as after its login.
	Carried *Carried
}

// Core is the state of one session between the end of its startup and its end.
// It is not safe for concurrent use.
type Core struct {
	env    Env
	out    [slots]Output  // for the client (None), and for the servers
	server [slots]*server // noServer where there is none

	rare  *rare    // noRare for most
	lent  *buffers // of held, sent and again; nil: there is nothing in them
	batch batch
	held  []message // looked at and not sent, oldest first
	// heldLen is the size of held, in bytes; they start where the input starts.
	heldLen int
	looked  uint64   // names.surprises when the first of them was looked at
	body    struct { // rest of a client message that is larger than what was looked at
		left int
		to   Slot // None: thrown away
	}

	names    names
	settings settings
	written  exact
	appName  string // of the client, where connections may have another one
	floor    floor
	seen     seen
	sent     sent
	again    again
	told     told
	want     string // backend for slot Standby while attaching
	detach   []Detachment

	statements *Statements // nil: connections are kept until the session ends
	perServer  int         // prepared statements that a server connection keeps
	ownPID     uint32      // told to the client; 0: its server's

	pins       pin
	unpinDue   bool // what pins the session may have ended
	readOnly   readOnly
	attaching  Slot // asked for, not given yet
	exactly    bool // the connection of the session's last write, and no other
	mid        Slot // a message of this slot is partly forwarded to the client
	skipToSync bool // an error of our own was raised inside a batch
	stalled    bool // the next message waits until what is in flight was answered
	yielding   bool // nothing new is to begin on the primary
	garbled    bool // the client has sent what is no message; its bytes go to the primary as they are
	ending     bool // the client has gone; close when everything in flight is answered
	closed     bool
}

// Detachment is a server connection that the session gives back.
type Detachment struct {
	Slot Slot
	Leftovers
	Carried *Carried // for the Attachment of the next session, if the connection is not reset
}

// batch is what the client sends up to Sync or the end of a simple query.
type batch struct {
	open    bool // a message of it was looked at and its end was not
	slot    Slot // where it goes; None: undecided
	given   bool // bytes of it went to the primary
	begun   bool // bytes of it went to a server
	ended   bool // undecided, but all that may be looked at is there
	write   bool // something in it is not known to be a read
	begin   bool // holds BEGIN READ ONLY
	reads   bool // holds a read
	control bool // everything in it may run inside a read-only transaction on a standby
	execute bool // holds Bind, Execute or Query
	show    bool // holds a SHOW of pgproxy's own
	large   bool // too much to look at, or to keep
	moved   bool // its start went to the standby, the rest goes to the primary
	part    bool // so it did: the rest alone cannot be repeated
	// verified: that its statements have the result of before was looked at.
	verified  bool
	lastValue bool // it asks for values of sequences that the session has used

	hint    lb.Target
	loud    bool   // with write: an answer may show data
	givenUp bool   // its reads go to the primary
	standby string // chosen, but not known to have caught up
	// standbyRun is the run of the standby for which it was routed again.
	standbyRun uint64
	failure    []byte // the error for the client, since a statement has another result; nil: none
}

// New starts the core of a session whose startup is over. Its server
// connections are attached by Attach.
func New(env Env) *Core {
	return &Core{env: env, rare: noRare, server: [slots]*server{noServer, noServer, noServer}}
}

// ToClient is what is to be written to the client after a call.
func (c *Core) ToClient() *Output { return &c.out[None] }

// ToServer is what is to be written to the server in that slot after a call.
func (c *Core) ToServer(slot Slot) *Output { return &c.out[slot] }

// Closed reports that the session is over once the outputs are written.
func (c *Core) Closed() bool { return c.closed }

// Attach puts a server connection into a slot.
func (c *Core) Attach(slot Slot, a Attachment) {
	s := (*server)(a.Carried)
	if s == nil {
		s = &server{}
		if c.settings.name != "" {
			s.settings = setName(a.Name)
		}
	}
	s.lend(a, &c.out[slot])
	c.server[slot] = s
	s.behind = slot == Primary && len(c.names.known) > 0 && !c.pooled()
	if c.follows(s.loan) {
		s.foreign = false
	}
	c.batch.verified, c.batch.failure = false, nil
	if c.attaching == slot {
		c.attaching, c.want, c.exactly = None, "", false
	}
	if slot == Primary {
		c.emitListens()
	}
	if c.sent.pending && slot == Primary {
		c.emitReplay()
	}
	c.listenAgain()
}

// Wanted returns the slot for which the core waits for a connection, None when
// it does not, and for slot Standby the backend's name.
func (c *Core) Wanted() (Slot, string) { return c.attaching, c.want }

// AttachFailed tells that the connection asked for cannot be had. raw is the
// ErrorResponse to give to the client when the primary was asked for; a missing
// standby is replaced by the primary.
func (c *Core) AttachFailed(slot Slot, raw []byte) {
	c.attaching, c.want, c.exactly = None, "", false
	if c.seen.stage == confirmAttach && slot == Primary {
		c.seen.stage = confirmNone
	}
	switch {
	case slot == Primary && c.cannotListen():
	case slot == Standby:
		if c.batch.slot == Standby {
			c.batch.slot, c.batch.ended, c.batch.givenUp = None, true, true
		}
		c.seen = seen{owed: c.seen.owed} // what the standby has shown cannot be asked
	case c.sent.pending:
		c.failReplay(raw)
	default:
		c.failBatch(raw)
	}
	c.listenAgain()
}

// Detached returns the connections given back since the last call. They are not
// the session's any more. The slice is valid until the next call of the core.
func (c *Core) Detached() []Detachment {
	c.rest()
	c.giveBuffersBack()
	d := c.detach
	c.detach = c.detach[:0]
	return d
}

// Yield tells whether the session is to let go of the primary, which is about to
// become a standby: what runs there goes on, nothing else begins. As soon as nothing
// runs the connection is given back, unless the session has state in it. A batch
// that comes meanwhile waits for another one.
func (c *Core) Yield(on bool) {
	c.yielding = on
	if on && c.server[Primary].ready && !c.OnPrimary() && c.pins&pinBound == 0 && c.names.unkept == 0 {
		c.loseConfirm(Primary)
		c.giveBack(Primary)
	}
}

// OnPrimary reports that the session has something unfinished on the primary: a
// batch or an answer under way, or a transaction.
func (c *Core) OnPrimary() bool {
	s := c.server[Primary]
	return s.ready && (s.pending() > 0 || s.left > 0 || s.tx != pgwire.TxIdle || s.unsynced || s.copyIn || s.fatal ||
		c.batch.open && c.batch.slot == Primary && c.batch.given || c.body.left > 0 && c.body.to == Primary || c.garbled)
}

// End ends the session at once with an ErrorResponse, whatever it does.
func (c *Core) End(raw []byte) {
	if c.mid == None { // else the client has half a message
		c.toClient(None, raw)
	}
	c.closed = true
}

// Busy returns the slot whose server works for the client, None when none does.
func (c *Core) Busy() Slot { return c.busy() }

// InTransaction reports that a transaction block is open.
func (c *Core) InTransaction() bool { return c.txSlot() != None || c.rare.failed.open }

// Leftovers describes what the session leaves on a server connection.
type Leftovers struct {
	Reusable bool // nothing in flight; a transaction may be open
	Clean    bool // nothing is left that DISCARD ALL would remove
	Tx       byte // transaction status of the last ReadyForQuery
}

// Leftovers tells whether the connection in that slot can go back to a pool.
func (c *Core) Leftovers(slot Slot) Leftovers {
	s := c.server[slot]
	return Leftovers{
		// DISCARD ALL empties custom settings and does not remove them.
		Reusable: c.reusable(slot) && len(s.custom) == 0,
		Clean:    !s.dirty && s.tx == pgwire.TxIdle && !c.pooled(),
		Tx:       s.tx,
	}
}

// reusable reports that nothing is in flight, and nothing left that cannot be undone but
// for the custom settings.
func (c *Core) reusable(slot Slot) bool {
	s := c.server[slot]
	inBatch := c.batch.open && slot == c.batch.slot && (slot == Standby || c.batch.given)
	doubt := slot == Primary && c.pins&pinDoubt != 0 // it may have left anything
	return s.quiet() && !s.leftover && !inBatch && c.body.to != slot && !doubt
}

// quiet reports that nothing is in flight.
func (s *server) quiet() bool {
	return s.ready && s.pending() == 0 && s.left == 0 && !s.skipping && !s.unsynced && !s.copyIn && !s.fatal
}

// giveBack takes the connection out of the slot.
func (c *Core) giveBack(slot Slot) {
	s := c.server[slot]
	d := Detachment{Slot: slot, Leftovers: c.Leftovers(slot)}
	if slot == Primary && (s.written || c.follows(s.loan)) {
		c.written = exact{}
		if !s.foreign {
			c.written = s.loan
		}
	}
	bound := slot == Primary && c.pins&pinBound != 0
	if c.pooled() && !bound && s.private == 0 && s.tx == pgwire.TxIdle && !s.leftover {
		if cap(s.ring) > maxIdleRing {
			s.ring = nil
		}
		d.Carried = (*Carried)(s)
		d.Clean = true
		d.Reusable = c.reusable(slot)
	}
	c.detach = append(c.detach, d)
	c.remove(slot)
}

// remove leaves the slot without a server.
func (c *Core) remove(slot Slot) {
	c.server[slot].ready = false
	c.server[slot] = noServer
}

// ClientGone tells that the client sent Terminate or closed its side. What is in
// flight is still answered (a server reads its input to the end, too).
func (c *Core) ClientGone() {
	c.ending = true
	if c.garbled && len(c.held) == 0 && c.server[Primary].ready {
		return // its server has the last word, and ends the connection
	}
	if c.batch.open || c.body.left > 0 || c.server[Primary].copyIn || c.server[Standby].copyIn {
		c.closed = true // the rest of what a server waits for does not come
	}
	c.endIfDone()
}

// Idle reports that nothing is in flight and no transaction is open.
func (c *Core) Idle() bool {
	return !c.batch.open && len(c.held) == 0 && c.body.left == 0 && !c.sent.pending && c.busy() == None &&
		!c.InTransaction() && !c.readOnly.open && !c.server[Primary].unsynced
}

// Shutdown ends an idle session with an ErrorResponse; it reports false and does
// nothing when the session is not idle.
func (c *Core) Shutdown(raw []byte) bool {
	if !c.Idle() {
		return false
	}
	c.toClient(None, raw)
	c.closed = true
	return true
}

func (c *Core) endIfDone() {
	if c.ending && c.busy() == None && !c.sent.pending {
		c.closed = true
	}
}

// busy returns the slot that owes answers to the client; at most one does.
func (c *Core) busy() Slot {
	switch {
	case c.server[Primary].live > 0:
		return Primary
	case c.server[Standby].live > 0:
		return Standby
	}
	return None
}

// txSlot returns the slot whose server is inside a transaction block.
func (c *Core) txSlot() Slot {
	for _, slot := range []Slot{Primary, Standby} {
		if s := c.server[slot]; s.ready && s.tx != pgwire.TxIdle && !s.rollingBack {
			return slot
		}
	}
	return None
}

// toClient writes bytes of our own or held for order, between two messages.
func (c *Core) toClient(from Slot, b []byte) {
	if c.mid != None && c.mid != from {
		r := c.rarely()
		r.deferred = append(r.deferred, b...)
		return
	}
	c.out[None].write(b)
}

// ownError makes an ErrorResponse of severity ERROR of pgproxy's own.
func ownError(code, text string) []byte {
	return pgwire.AppendError(nil, "ERROR", code, "pgproxy: "+text, "", "")
}
