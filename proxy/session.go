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
// goroutines, and serialises the calls of the core. Its mover moves the bytes. No lock is
// held across I/O that blocks.
type clientSession struct {
	shared  *sessions
	client  *client
	env     *sessionEnv
	mover   mover
	id      uint64
	began   time.Time
	within  context.Context // of all sessions
	cond    sync.Cond       // on mu: something may have changed for a goroutine that waits
	state   stateValue      // written under mu
	clock   clock
	cancels *cancelEntry // in the registry
	// watched is the sweep's.
	watched  watched
	departed bool // it has ended; guarded by drains.mu

	mu struct {
		sync.Mutex
		core     *session.Core
		client   peer
		servers  [session.Standby + 1]*attachedServer
		ctx      context.Context // ends with the session; nil: nobody has asked for it
		cancel   context.CancelFunc
		spawned  int                     // goroutines that do something for the session
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

// mover moves the bytes between the core of a session and its sockets. All but run are
// called with the session's lock held.
type mover interface {
	// begin takes over the client's connection.
	begin() error
	// run has the bytes moved until the session is over.
	run()
	// place begins to move those of a server connection in a slot.
	place(slot session.Slot, sv *attachedServer)
	// giveBack gives a server connection back to its pool that is in no slot any more, or
	// closes it.
	giveBack(sv *attachedServer, left session.Detachment)
	// close closes one that has ended.
	close(sv *attachedServer)
	// write writes what was collected for a peer; it may release the lock meanwhile.
	write(w *writing)
	// wake has the core asked again for what it did not take.
	wake()
	// interrupt ends what reads or writes.
	interrupt()
	// settle follows each call of the core and what it has put out. It releases the lock.
	settle()
}

// attachedServer is a server connection in one of the session's slots.
type attachedServer struct {
	peer
	slot    session.Slot
	loan    *serverConn
	read    chan struct{} // goroutines: closed when its reader has ended
	unread  bool          // bytes have come that nobody took; goroutines: read after read is closed
	stalled bool          // events: it is not read until the client has taken what waits for it
}

// serveSession runs the session of an authenticated client until it ends.
func (s *Server) serveSession(ctx context.Context, c *client) error {
	return s.sessions.serve(ctx, c)
}

// newSession makes the session of a client. ctx ends when all sessions are to end at once.
func (sh *sessions) newSession(ctx context.Context, c *client) *clientSession {
	s := &clientSession{shared: sh, client: c, id: sh.lastID.Add(1), began: time.Now(), within: ctx}
	s.cond.L = &s.mu
	if c.loop != nil {
		s.mover = &events{clientSession: s}
	} else {
		s.mover = &goroutines{s}
	}
	s.env = newSessionEnv(sh, s)
	s.mu.core = session.New(s.env)
	if sh.statements != nil {
		if c.renames {
			s.mu.core.Name(c.appName)
		}
		s.mu.core.Share(sh.statements, sh.cfg.Load().Pool.Statements)
	}
	return s
}

// know notes what of a client decides with whom it shares connections.
func (sh *sessions) know(c *client) {
	c.loop = sh.loopFor(c)
	c.renames = sh.statements != nil && c.names()
}

// errGoesOn tells that a session has begun, and ends by itself.
var errGoesOn = errors.New("the session goes on")

// serve begins one session, which goes on by itself: errGoesOn. ctx ends when all
// sessions are to end at once.
func (sh *sessions) serve(ctx context.Context, c *client) error {
	sh.know(c)
	s := sh.newSession(ctx, c)
	first, err := s.firstServer(ctx)
	if err != nil {
		return errors.Join(err, c.tell(fatalResponse(err)))
	}
	// Before it is read, a function that the session calls may be anything.
	s.env.catalog.await(ctx)
	return s.start(first)
}

// serveNow is serve where that does not wait: nil: it would.
func (sh *sessions) serveNow(ctx context.Context, c *client) error {
	sh.know(c)
	greeting := sh.greetingNow(c)
	if greeting == nil {
		return nil
	}
	s := sh.newSession(ctx, c)
	return s.start(s.startGreeted(session.Primary, greeting))
}

// start begins the session with what it starts with.
func (s *clientSession) start(first start) error {
	sh, c := s.shared, s.client
	s.cancels = sh.cancels.register(first.pid, c.protocol32(), s)
	err := c.tell(s.greeting(first, s.cancels.secret()))
	if err != nil {
		err = fmt.Errorf("greet client: %w", err)
	} else {
		err = s.begin(first)
	}
	if err != nil {
		sh.cancels.unregister(s.cancels)
		if first.loan != nil {
			first.loan.Close()
		}
		return err
	}
	s.mover.run()
	return errGoesOn
}

// begin makes the session known to those who end sessions and look at them, and has its
// bytes moved.
func (s *clientSession) begin(first start) error {
	// Without a primary nobody can say where that write was; reads go on.
	if mark, ok := s.shared.floors.of(s.client.user); ok && first.slot == session.Primary {
		s.mu.core.StartFloor(mark)
	}
	s.mu.Lock()
	if err := s.mover.begin(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.shared.add(s)
	if first.loan != nil {
		s.place(first.slot, first.loan)
	}
	s.mu.Unlock()
	s.drain() // it may have been left out
	if s.within.Err() != nil {
		s.abort()
	}
	return nil
}

// leave is the end of what begin and serve began.
func (s *clientSession) leave() {
	s.shared.cancels.unregister(s.cancels)
	s.shared.remove(s)
}

// context ends with the session. The lock is held.
func (s *clientSession) context() context.Context {
	if s.mu.ctx == nil {
		s.mu.ctx, s.mu.cancel = context.WithCancel(s.within)
		if s.mu.over {
			s.mu.cancel()
		}
	}
	return s.mu.ctx
}

// spawn has a goroutine do something for the session, which waits for it when it ends. The
// lock is held.
func (s *clientSession) spawn(f func()) {
	s.mu.spawned++
	go func() {
		f()
		s.mu.Lock()
		s.mu.spawned--
		s.wakeAll()
		s.mover.settle()
	}()
}

// markOver ends what is done for the session. The lock is held.
func (s *clientSession) markOver() {
	s.mu.over = true
	s.stopHold()
	if s.mu.cancel != nil {
		s.mu.cancel()
	}
	s.wakeAll()
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

// place puts a server connection into a slot. The lock is held.
func (s *clientSession) place(slot session.Slot, loan *serverConn) {
	var sv *attachedServer
	if loan.sock != nil {
		sv = &loan.sock.attached
	} else {
		sv = new(attachedServer)
	}
	*sv = attachedServer{peer: peer{conn: loan.Conn, sock: loan.sock}, slot: slot, loan: loan}
	s.mu.servers[slot] = sv
	s.mu.core.Attach(slot, session.Attachment{
		Backend: loan.backend, ID: loan.id, Fresh: loan.fresh, Server: loan.server, Carried: loan.carried,
		Uses: loan.uses, PID: loan.pid, Name: loan.appName,
	})
	s.mover.place(slot, sv)
}

// follow carries out what the core asks for beside writing, and returns the slot that
// has got a connection. The lock is held.
func (s *clientSession) follow(detached []session.Detachment) (placed session.Slot) {
	for _, d := range detached {
		if sv := s.mu.servers[d.Slot]; sv != nil {
			s.mu.servers[d.Slot] = nil
			s.mover.giveBack(sv, d)
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
		ctx := s.context()
		s.spawn(func() { s.judge(ctx, from) })
	}
	if s.mu.core.Waiting() && !s.mu.sampling && !s.mu.over {
		s.mu.sampling = true
		ctx, bound := s.context(), maxSampleWait
		if s.mu.servers == ([session.Standby + 1]*attachedServer{}) && s.env.Crowded("") {
			bound = maxCrowdWait
		}
		s.spawn(func() { s.awaitSamples(ctx, bound) })
	}
	return placed
}

// maxSampleWait bounds how long a read waits for a sample instead of going to the
// primary. Where 64 sessions keep every core busy, 99 of 100 samples with their
// replay take less than 65 ms (measured on two cores).
const maxSampleWait = 100 * time.Millisecond

// maxCrowdWait is that bound where the read would wait for the primary, too, and the
// session holds nothing that others wait for.
const maxCrowdWait = time.Second

// awaitSamples has the core look again with each new sample, until it does not
// wait any more or the time is over.
func (s *clientSession) awaitSamples(ctx context.Context, bound time.Duration) {
	timer := time.NewTimer(bound)
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
		case <-ctx.Done():
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
	ctx, stop := context.WithCancelCause(s.context())
	s.mu.attach, s.mu.attaches, s.mu.unattach = true, slot, stop
	s.wakeAll()
	s.spawn(func() {
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
		s.spawn(func() { s.refuse(loan) })
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
	s.mover.close(sv)
}

// abort ends the session at once.
func (s *clientSession) abort() {
	s.mu.Lock()
	s.breakOff()
	s.mover.settle()
}

// breakOff ends the session at once, whatever is being written. The lock is held.
func (s *clientSession) breakOff() {
	s.markOver()
	s.mover.interrupt()
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

// progressed has the core asked again for what it did not take. The lock is held.
func (s *clientSession) progressed() {
	s.mu.progress = true
	s.mover.wake()
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
