package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// server is what the core knows about one server connection.
type server struct {
	out     *Output // of its slot
	ready   bool    // attached
	used    bool    // somebody had the connection before
	backend string
	run     uint64 // stands for one run of the server, or for this connection where that is not known
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
	st      *statement  // of Parse, Bind, Execute, and Describe of a statement
	op      uint64      // change of the namespace that the answer confirms
	named   bool        // of Parse, Close of a statement, and our own PREPARE:
	name    string      // its name on the server (of Describe of a statement, too),
	before  uint64      // and the version that the server had
	skewed  bool        // of Parse: made.skewed
	text    []byte      // of Query: a copy, where its effects need it
}

// unknownRun marks what stands for a connection and not for a run of a server.
const unknownRun = 1 << 63

// noServer stands in a slot without a server. It is never written to.
var noServer = &server{}

// maxIdleRing is how many answers owed a connection that nobody uses has place for.
const maxIdleRing = 64

// lend begins the use of the connection by a session. What earlier sessions have left
// stays.
func (s *server) lend(a Attachment, out *Output) {
	*s = server{
		out: out, ready: true, used: !a.Fresh, backend: a.Backend, run: a.Server, pid: a.PID, opener: a.Name,
		loan: exact{a.ID, a.Uses}, tx: pgwire.TxIdle,
		names: s.names, uses: s.uses, settings: s.settings, custom: s.custom, foreign: s.foreign || s.written,
		ring: s.ring[:0],
	}
	if s.run == 0 {
		s.run = a.ID | unknownRun
	}
	if !a.Fresh {
		s.unnamed = staleVersion
	}
}

// known returns the Attachment's Server.
func (s *server) known() uint64 {
	if s.run&unknownRun != 0 {
		return 0
	}
	return s.run
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
		s.ring[i].op = 0
	}
	s.live = 0
}
