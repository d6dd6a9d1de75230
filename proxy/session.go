package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// clientSession drives the core of one client's session: it owns the sockets and the
// goroutines, and serialises the calls of the core. No lock is held across I/O.
type clientSession struct {
	shared *sessions
	client *client
	env    *sessionEnv
	id     uint64
	began  time.Time
	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	wg     sync.WaitGroup // attachments under way
	cond   *sync.Cond     // on mu: something may have changed for a goroutine that waits
	state  stateValue     // written under mu
	clock  clock
	// watched is the sweep's.
	watched watched

	mu struct {
		sync.Mutex
		core     *session.Core
		client   peer
		servers  [session.Standby + 1]*attachedServer
		waiting  int                     // goroutines in wait
		progress bool                    // a server has answered since the client's goroutine looked
		over     bool                    // everything is to end now
		attach   bool                    // a goroutine is attaching
		attaches session.Slot            // the slot for which it does
		unattach context.CancelCauseFunc // gives that up
		judging  bool                    // a goroutine finds out what a 57P01 means
		giving   int                     // connections on their way back to a pool
		yielding bool                    // the core was told to let go of the primary
		held     *time.Timer             // ends the wait of a batch that is held beside the primary; nil: none is
		sampling bool                    // a goroutine waits for a sample

		cancelling bool // see cancelOverdue
	}
}

// sessionState is what a session does, for operators (pg_stat_activity.state, and held).
type sessionState uint32

const (
	stateIdle sessionState = iota
	stateActive
	stateInTransaction
	stateHeld // a statement waits for a primary
)

// String returns PostgreSQL's word for the state.
func (s sessionState) String() string {
	switch s {
	case stateActive:
		return "active"
	case stateInTransaction:
		return "idle in transaction"
	case stateHeld:
		return "held"
	case stateIdle:
	}
	return "idle"
}

// stateValue is a sessionState that anybody may read.
type stateValue struct{ v atomic.Uint32 }

func (s *stateValue) Load() sessionState { return sessionState(s.v.Load()) }

func (s *stateValue) store(state sessionState) {
	if s.Load() != state {
		s.v.Store(uint32(state))
	}
}

// attachedServer is a server connection in one of the session's slots.
type attachedServer struct {
	peer
	loan   *serverConn
	read   chan struct{} // closed when its reader has ended
	unread bool          // its reader has bytes that nobody took; read after read is closed
}

// serveSession runs the session of an authenticated client until it ends.
func (s *Server) serveSession(ctx context.Context, c *client) error {
	return s.sessions.serve(ctx, c)
}

// serve runs one session. ctx ends when all sessions are to end at once.
func (sh *sessions) serve(ctx context.Context, c *client) error {
	s := &clientSession{shared: sh, client: c, id: sh.lastID.Add(1), began: time.Now()}
	s.ctx, s.cancel = context.WithCancel(ctx)
	defer s.cancel()
	s.cond = sync.NewCond(&s.mu)
	s.env = newSessionEnv(sh, s)
	s.mu.core = session.New(s.env)
	if sh.statements != nil {
		if c.renames = c.names(); c.renames {
			s.mu.core.Name(c.appName)
		}
		s.mu.core.Share(sh.statements, sh.cfg.Load().Pool.Statements)
	}
	s.mu.client.conn = c.conn

	first, err := s.firstServer()
	if err != nil {
		return errors.Join(err, c.tell(fatalResponse(err)))
	}
	// Before it is read, a function that the session calls may be anything.
	s.env.catalog.await(s.ctx)
	secret, unregister := sh.cancels.register(first.pid, c.protocol32(), s)
	defer unregister()
	if err := c.tell(s.greeting(first, secret)); err != nil {
		if first.loan != nil {
			first.loan.Close()
		}
		return fmt.Errorf("greet client: %w", err)
	}
	// Without a primary nobody can say where that write was; reads go on.
	if mark, ok := sh.floors.of(c.user); ok && first.slot == session.Primary {
		s.mu.core.StartFloor(mark)
	}
	if first.loan != nil {
		s.mu.Lock()
		s.place(first.slot, first.loan)
		s.mu.Unlock()
	}
	sh.add(s)
	defer sh.remove(s)
	s.drain() // it may have been left out

	stop := context.AfterFunc(s.ctx, s.abort)
	defer stop()
	s.readClient()
	s.tearDown()
	if ctx.Err() == nil {
		linger(c)
	}
	return nil
}

// greeting is what a client is told when its session begins (manual, "Start-up").
func (s *clientSession) greeting(first start, secret []byte) []byte {
	var b []byte
	params := first.params
	if name, i := s.client.appName, slices.IndexFunc(params, isApplicationName); s.client.renames && i >= 0 && params[i].Value != name {
		params = slices.Clone(params)
		params[i].Value = name
	}
	s.mu.core.Greeted(params)
	for _, p := range params {
		b = pgwire.AppendParameterStatus(b, p.Name, p.Value)
		s.env.Parameter(session.Primary, []byte(p.Name), []byte(p.Value))
	}
	b = pgwire.AppendBackendKeyData(b, first.pid, secret)
	b = append(b, first.notices...)
	return pgwire.AppendReadyForQuery(b, pgwire.TxIdle)
}

func isApplicationName(p pgwire.Parameter) bool { return p.Name == "application_name" }

// ownPID is the process id that a client is told whose session has no server of its own:
// none that Linux gives to a process (they end at 1<<22), so that nobody who signals it
// hits the server of another session.
func (s *clientSession) ownPID() uint32 { return 1<<30 | uint32(s.id)&(1<<30-1) }

// place puts a server connection into a slot and starts its reader. The lock is held.
func (s *clientSession) place(slot session.Slot, loan *serverConn) {
	sv := &attachedServer{peer: peer{conn: loan.Conn}, loan: loan, read: make(chan struct{})}
	s.mu.servers[slot] = sv
	s.mu.core.Attach(slot, session.Attachment{
		Backend: loan.backend, ID: loan.id, Fresh: loan.fresh, Server: loan.server, Carried: loan.carried,
		Uses: loan.uses, PID: loan.pid, Name: loan.appName,
	})
	s.wg.Go(func() { s.readServer(slot, sv) })
}

// follow carries out what the core asks for beside writing, and returns the slot that
// has got a connection. The lock is held.
func (s *clientSession) follow(detached []session.Detachment) (placed session.Slot) {
	for _, d := range detached {
		if sv := s.mu.servers[d.Slot]; sv != nil {
			s.mu.servers[d.Slot] = nil
			s.mu.giving++
			s.wg.Go(func() { s.giveBackNow(sv, d) })
		}
	}
	if slot, backend := s.mu.core.Wanted(); slot != session.None && !s.mu.attach && !s.mu.over {
		if s.attachIdle(slot, backend) {
			placed = slot
		} else {
			s.beginAttach(slot, backend)
		}
	}
	if from, open := s.mu.core.Judging(); open && !s.mu.judging && !s.mu.over {
		s.mu.judging = true
		s.wg.Go(func() { s.judge(from) })
	}
	if s.mu.core.Waiting() && !s.mu.sampling && !s.mu.over {
		s.mu.sampling = true
		s.wg.Go(s.awaitSamples)
	}
	return placed
}

// maxSampleWait bounds how long a read waits for a sample instead of going to the
// primary. Where 64 sessions keep every core busy, 99 of 100 samples with their
// replay take less than 65 ms (measured on two cores).
const maxSampleWait = 100 * time.Millisecond

// awaitSamples has the core look again with each new sample, until it does not
// wait any more or the time is over.
func (s *clientSession) awaitSamples() {
	timer := time.NewTimer(maxSampleWait)
	defer timer.Stop()
	for waiting := true; waiting; {
		changed := s.shared.sampler.Changed()
		var o outputs
		s.mu.Lock()
		s.progressed() // the client's goroutine asks again
		s.mu.Unlock()
		late := false
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-s.ctx.Done():
			late = true
		}
		s.mu.Lock()
		if late {
			s.mu.core.StopWaiting()
		}
		waiting = s.mu.core.Waiting() && !s.mu.over
		s.mu.sampling = waiting
		s.progressed()
		s.flush(&o, nil)
	}
}

// beginAttach has a goroutine attach. The lock is held.
func (s *clientSession) beginAttach(slot session.Slot, backend string) {
	ctx, stop := context.WithCancelCause(s.ctx)
	s.mu.attach, s.mu.attaches, s.mu.unattach = true, slot, stop
	s.wakeAll()
	s.wg.Go(func() {
		defer stop(nil)
		s.attach(ctx, slot, backend)
	})
}

// attach gets the server connection that the core waits for.
func (s *clientSession) attach(ctx context.Context, slot session.Slot, backend string) {
	loan, err := s.acquireExact(ctx)
	if loan == nil && err == nil {
		loan, err = s.acquire(ctx, slot, backend)
	}
	var o outputs
	s.mu.Lock()
	canceled := errors.Is(context.Cause(ctx), errCanceled)
	if canceled && loan != nil {
		s.mu.Unlock()
		s.shared.pools.release(loan, true)
		s.mu.Lock()
		loan, err = nil, errCanceled
	}
	s.mu.attach = false
	switch {
	case slot == session.Primary && err == nil && s.shared.cluster.State().Holds():
		s.mu.Unlock() // it has begun meanwhile
		s.shared.pools.release(loan, true)
		s.mu.Lock()
	case s.mu.over || s.mu.core.Closed():
		s.mu.Unlock()
		if loan != nil {
			loan.Close()
		}
		return
	case err != nil:
		s.shared.log.Debug("no server connection for a session", "slot", slot.String(), "session", s.id, "error", err)
		if slot == session.Standby && !canceled {
			s.env.avoid(backend)
		}
		s.mu.core.AttachFailed(slot, errorResponse(err))
	default:
		s.place(slot, loan)
	}
	s.progressed()
	s.flush(&o, nil)
}

// attachIdle attaches a connection that nobody uses at once, if there is one. The lock
// is held.
func (s *clientSession) attachIdle(slot session.Slot, backend string) bool {
	state := s.shared.cluster.State()
	if s.shared.statements == nil || slot == session.Primary && state.Holds() {
		return false
	}
	if slot == session.Primary {
		backend = state.Primary
	}
	b := state.Backend(backend)
	if _, _, exact := s.mu.core.Exact(); b == nil || exact {
		return false
	}
	loan := s.shared.pools.try(*b, s.client)
	switch {
	case loan == nil:
		return false
	case !s.mu.core.Suits(loan.carried):
		s.wg.Go(func() { s.refuse(loan) })
		return false
	}
	s.place(slot, loan)
	s.progressed()
	return true
}

// refuse closes a connection that does not suit the session.
func (s *clientSession) refuse(loan *serverConn) {
	loan.terminate()
	loan.Close()
}

// errUsed tells that somebody else has used the connection of the session's last write.
var errUsed = &Refusal{Code: codeNotInState, Message: "pgproxy: the values of currval and lastval are not known any more: " +
	"another session has used the server connection"}

// acquireExact returns the connection of the session's last write when the core wants
// that one; nil and no error: any will do.
func (s *clientSession) acquireExact(ctx context.Context) (*serverConn, error) {
	s.mu.Lock()
	id, uses, ok := s.mu.core.Exact()
	for ok && s.mu.giving > 0 && !s.mu.over { // it may be on its way
		s.wait()
	}
	s.mu.Unlock()
	if !ok {
		return nil, nil
	}
	state := s.shared.cluster.State()
	if b := state.Backend(state.Primary); b != nil {
		if loan := s.shared.pools.acquireExact(ctx, *b, s.client, id, uses); loan != nil {
			return loan, nil
		}
	}
	return nil, errUsed
}

// acquire returns a connection that suits the session.
func (s *clientSession) acquire(ctx context.Context, slot session.Slot, backend string) (loan *serverConn, err error) {
	for {
		if slot == session.Primary {
			loan, err = s.acquirePrimary(ctx)
		} else {
			loan, err = s.acquireStandby(ctx, backend)
		}
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		suits := s.mu.core.Suits(loan.carried)
		s.mu.Unlock()
		if suits {
			return loan, nil
		}
		s.refuse(loan)
	}
}

func (s *clientSession) acquireStandby(ctx context.Context, backend string) (*serverConn, error) {
	b := s.shared.cluster.State().Backend(backend)
	if b == nil || b.Status != cluster.StatusUp || b.Role != cluster.RoleStandby {
		return nil, errBackendGone
	}
	return s.shared.pools.acquire(ctx, *b, s.client)
}

// lose takes out a server connection that has ended. The lock is held.
func (s *clientSession) lose(slot session.Slot, sv *attachedServer) {
	s.mu.servers[slot] = nil
	sv.loan.broke()
	s.mu.core.ServerClosed(slot)
	s.wg.Go(func() {
		sv.loan.Close()
		s.shared.poke(sv.loan.backend)
	})
}

// giveBackNow gives a connection back that the core has detached.
func (s *clientSession) giveBackNow(sv *attachedServer, d session.Detachment) {
	s.giveBack(sv, d)
	s.mu.Lock()
	s.mu.giving--
	s.wakeAll()
	s.mu.Unlock()
}

// giveBack ends the reader of a connection that is in no slot any more, and
// returns the connection to its pool or closes it.
func (s *clientSession) giveBack(sv *attachedServer, left session.Detachment) {
	if !left.Reusable || sv.loan.SetReadDeadline(time.Unix(1, 0)) != nil {
		sv.loan.terminate()
		sv.loan.Close()
		<-sv.read
		return
	}
	<-sv.read
	if sv.unread || sv.loan.SetReadDeadline(time.Time{}) != nil {
		sv.loan.Close()
		return
	}
	sv.loan.tx, sv.loan.carried = left.Tx, left.Carried
	s.shared.pools.release(sv.loan, left.Clean)
}

// finish closes the client's connection when everything has been written to it.
func (s *clientSession) finish() {
	s.awaitWritten()
	_ = s.client.conn.SetReadDeadline(time.Unix(1, 0)) // readClient returns
	s.mu.Lock()
	s.mu.over = true
	s.wakeAll()
	s.mu.Unlock()
}

// awaitWritten waits until the client has what the core put out for it, unless the
// session is broken off: whoever finds the core closed may not be the one who writes
// its last words.
func (s *clientSession) awaitWritten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.mu.client.busy && !s.mu.over {
		s.wait()
	}
}

// abort ends the session at once.
func (s *clientSession) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakOff()
}

// tearDown gives the server connections back and waits for every goroutine.
func (s *clientSession) tearDown() {
	s.awaitWritten()
	_ = s.client.conn.SetDeadline(time.Unix(1, 0)) // for a reader of a server that writes to it
	s.mu.Lock()
	s.mu.over = true
	s.stopHold()
	s.wakeAll()
	servers := s.mu.servers
	var left [session.Standby + 1]session.Leftovers
	for slot := range servers {
		left[slot] = s.mu.core.Leftovers(session.Slot(slot))
	}
	clear(s.mu.servers[:])
	s.mu.Unlock()
	s.cancel()
	for slot, sv := range servers {
		if sv != nil {
			s.giveBack(sv, session.Detachment{Leftovers: left[slot]})
		}
	}
	s.wg.Wait()
}

// drain has the session look at what the cluster is about and whether it is to end:
// it ends if it is idle, and lets go of a primary that is to become a standby. Until
// that is so flush looks again after each answer.
func (s *clientSession) drain() {
	var o outputs
	s.mu.Lock()
	s.progressed() // what was held may go
	s.flush(&o, nil)
}

func (s *clientSession) progressed() {
	s.mu.progress = true
	s.wakeAll()
}

// wait waits on cond; the lock is held.
func (s *clientSession) wait() {
	s.mu.waiting++
	s.cond.Wait()
	s.mu.waiting--
}

func (s *clientSession) wakeAll() {
	if s.mu.waiting > 0 {
		s.cond.Broadcast()
	}
}

// fatalResponse is what a client is told when its session cannot begin.
func fatalResponse(err error) []byte {
	if se, ok := errors.AsType[*ServerError](err); ok {
		return se.Raw
	}
	return refusalOf(err).encode(pgwire.SeverityFatal)
}

// errorResponse is what a client is told inside its session.
func errorResponse(err error) []byte {
	if se, ok := errors.AsType[*ServerError](err); ok {
		return (&Refusal{Code: se.Code, Message: se.Message}).encode(pgwire.SeverityError)
	}
	return refusalOf(err).encode(pgwire.SeverityError)
}

func refusalOf(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if errors.Is(err, context.Canceled) {
		return &Refusal{Code: codeAdminShutdown, Message: "pgproxy: shutting down"}
	}
	return &Refusal{Code: codeCannotConnectNow, Message: "pgproxy: cannot connect to the server"} // why is the log's
}
