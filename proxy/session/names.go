package session

import (
	"slices"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// statement is a prepared statement of the session. It is immutable but for row and
// void, and for show statements, which are parsed anew for each Bind.
type statement struct {
	name    string
	version uint64 // tells which text a server has under the name; unique in what may meet there
	verdict *lb.Verdict
	// parse is the Parse message that makes it on another server; nil when it was
	// too large to keep, or the session has too many.
	parse []byte
	// sql is set for one made by SQL PREPARE: the text that makes it.
	sql []byte
	// shared is set where the servers have it under another name.
	shared *shared
	// row is a hash of the RowDescription that the client was given for it, 0: none.
	row uint64
	// void: its Parse has failed or was skipped.
	void bool
	// kept and unkept are what it counts for in names.
	kept   int
	unkept bool
	// show names the SHOW command of pgproxy's own that it stands for.
	show string
}

// staleVersion stands for a statement that an earlier session left.
const staleVersion = ^uint64(0)

// sqlText is the text inside the Parse message.
func (st *statement) sqlText() []byte {
	if st == nil || len(st.parse) < pgwire.HeaderLen {
		return nil
	}
	_, rest, ok := pgwire.CString(st.parse[pgwire.HeaderLen:])
	if !ok {
		return nil
	}
	sql, _, _ := pgwire.CString(rest)
	return sql
}

// executed is the verdict on an Execute of the statement: on what stands behind AS in a
// PREPARE.
func (st *statement) executed() *lb.Verdict {
	if st.sql == nil {
		return st.verdict
	}
	v := *st.verdict
	v.Effects &^= lb.EffectPrepare
	v.Name, v.Read = "", v.Inner
	return &v
}

// op is a change of the namespace by a client's message whose answer is due.
type op struct {
	seq  uint64 // orders it among the messages, and stands for it there; never 0
	name string
	st   *statement // nil: the name is freed
}

// names is the one namespace of prepared statements of the session. What is due
// (ops) hides what is known.
type names struct {
	known    map[string]*statement
	sqls     int // how many of them SQL PREPARE has made
	unnamed  *statement
	old      *statement // was unnamed before it, nil: none
	ops      []op       // by seq
	versions uint64
	blocks   *Statements // gives out blocks of versions; nil: they are the session's own
	left     int         // of the block
	seq      uint64      // of the last op
	// surprises counts the changes that lookup could not foresee: a change that was
	// skipped, and what SQL does.
	surprises uint64

	kept   int // bytes of parse of those that have a name
	unkept int // how many cannot be made on another server, the unnamed one too

	// portals remembers the statement of each portal, for the effects of Execute.
	portal  *statement // of the unnamed portal
	portals map[string]*statement
}

func (n *names) nextVersion() uint64 {
	if n.blocks != nil {
		if n.left == 0 {
			n.versions, n.left = n.blocks.take()-1, block
		}
		n.left--
	}
	n.versions++
	return n.versions
}

// lookup returns the statement of that name once all that was sent has been done.
func (n *names) lookup(name []byte) *statement { return n.lookupAt(name, n.seq) }

// lookupAt does so for all that was sent up to a change.
func (n *names) lookupAt(name []byte, seq uint64) *statement {
	for i := len(n.ops) - 1; i >= 0; i-- {
		if n.ops[i].seq <= seq && n.ops[i].name == string(name) {
			return n.ops[i].st
		}
	}
	if len(name) == 0 {
		return n.unnamed
	}
	return n.known[string(name)]
}

// change notes that a client's message will bind name to st.
func (n *names) change(name string, st *statement) (seq uint64) {
	n.seq++
	n.ops = append(n.ops, op{seq: n.seq, name: name, st: st})
	return n.seq
}

// confirm is called when the server has carried the change out.
func (n *names) confirm(seq uint64) {
	if o, ok := n.remove(seq); ok {
		n.set(o.name, o.st)
	}
}

// confirmNone is called when it has not, and the name is free since.
func (n *names) confirmNone(seq uint64) {
	if o, ok := n.cancel(seq); ok {
		n.set(o.name, nil)
	}
}

// cancel is called when the server has skipped the change.
func (n *names) cancel(seq uint64) (o op, ok bool) {
	if o, ok = n.remove(seq); ok {
		n.surprises++
		if o.st != nil {
			o.st.void = true
		}
	}
	return o, ok
}

// bySQL is called when a statement has bound a name, or freed it (st nil).
func (n *names) bySQL(name string, st *statement) {
	n.surprises++
	n.set(name, st)
}

// remove takes a change from those that are due; false: it is none of them any more.
func (n *names) remove(seq uint64) (o op, ok bool) {
	for i := range n.ops { // most often the first: answers come in order
		if n.ops[i].seq == seq {
			o = n.ops[i]
			n.ops = slices.Delete(n.ops, i, i+1)
			return o, true
		}
	}
	return o, false
}

// maxKept bounds what is kept of the statements that have a name, in bytes.
const maxKept = 8 << 20

// statementOverhead is what a statement takes beside its text, in bytes.
const statementOverhead = 256

// room reports that so many bytes more may be kept.
func (n *names) room(bytes int) bool { return n.kept+bytes+statementOverhead <= maxKept }

// countIn counts what a name stands for, countOut what it stood for.
func (n *names) countIn(name string, st *statement) {
	switch {
	case st == nil:
	case st.parse == nil && st.sql == nil:
		st.unkept = true
		n.unkept++
	case name != "":
		st.kept = len(st.parse) + len(st.sql) + statementOverhead
		n.kept += st.kept
	}
}

func (n *names) countOut(st *statement) {
	if st == nil {
		return
	}
	if st.unkept {
		n.unkept--
	}
	n.kept -= st.kept
	st.kept, st.unkept = 0, false
}

func (n *names) set(name string, st *statement) {
	if name == "" {
		n.countOut(n.unnamed)
	} else {
		n.countOut(n.known[name])
	}
	n.countIn(name, st)
	if old := n.known[name]; old != nil && old.sql != nil {
		n.sqls--
	}
	if st != nil && st.sql != nil {
		n.sqls++
	}
	switch {
	case name == "":
		if n.unnamed != nil && n.unnamed.show == "" {
			n.old = n.unnamed
		}
		n.unnamed = st
	case st == nil:
		delete(n.known, name)
	default:
		if n.known == nil {
			n.known = make(map[string]*statement)
		}
		n.known[name] = st
	}
}

// clear forgets every named statement.
func (n *names) clear() {
	n.surprises++
	for _, st := range n.known {
		n.countOut(st)
	}
	n.sqls = 0
	clear(n.known)
}

func (n *names) bindPortal(portal []byte, st *statement) {
	if len(portal) == 0 {
		n.portal = st
		return
	}
	if n.portals == nil {
		n.portals = make(map[string]*statement)
	}
	n.portals[string(portal)] = st
}

func (n *names) ofPortal(portal []byte) *statement {
	if len(portal) == 0 {
		return n.portal
	}
	return n.portals[string(portal)]
}

func (n *names) forgetPortals() {
	if len(n.portals) > 0 {
		clear(n.portals)
	}
}
