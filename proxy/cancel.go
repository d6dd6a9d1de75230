package proxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

const (
	// secretLen30 and secretLen32 are the sizes of our cancel keys in bytes.
	secretLen30 = 4
	secretLen32 = 32
	// cancelTimeout bounds one CancelRequest to a backend, and maxCancels how many are
	// under way at once.
	cancelTimeout = 10 * time.Second
	maxCancels    = 64
	// elsewhereTimeout bounds the search for a session on the other members, the
	// CancelRequest of the one that has it included.
	elsewhereTimeout = 3 * time.Second
)

// canceler is a session whose statement can be cancelled.
type canceler interface {
	// beginCancel returns the loan of the server that works for the session now, whose
	// beginCancel it has called, or nil, and whether what it does may be a commit. It is
	// called by other goroutines than the session's.
	beginCancel() (loan *serverConn, mayCommit bool)
	// cancelWaiting cancels a statement that no server works for yet; false: there is
	// none. It blocks until ctx ends at most.
	cancelWaiting(ctx context.Context) bool
}

// cancelRegistry knows by which key each session is cancelled. The keys are our
// own: a client never learns a server's.
type cancelRegistry struct {
	dialer    *dialer
	waits     *commitWaits
	elsewhere func(ctx context.Context, pid uint32, secret []byte) bool // nil: there are no others
	slots     chan struct{}
	guesses   *guesses
	refused   repeats
	kept      repeats
	outcomes  *prometheus.CounterVec
	log       *slog.Logger

	mu struct {
		sync.Mutex
		byPID map[uint32]*cancelEntry // the first of those with that process id
	}
}

// cancelEntry is a session in the registry.
type cancelEntry struct {
	target canceler
	next   *cancelEntry // with the same process id, as those of different servers may be
	pid    uint32
	len    uint8 // of the secret
	bytes  [secretLen32]byte
}

// secret is what a CancelRequest has to show beside the process id.
func (e *cancelEntry) secret() []byte { return e.bytes[:e.len] }

// What becomes of a CancelRequest: labels of pgproxy_cancels_total.
const (
	cancelForwarded = "forwarded" // to the server
	cancelWaited    = "waited"    // the statement was waiting for a server, and is answered here
	cancelIdle      = "idle"      // no server works for the session
	cancelCommit    = "commit"    // kept from a commit that waits for a synchronous standby
	cancelFailed    = "failed"    // the server could not be told
	cancelElsewhere = "elsewhere" // another member had the session
	cancelUnknown   = "unknown"   // nobody has the key
	cancelRefused   = "refused"   // this member does not know the key, and its sender guesses too much
)

func newCancelRegistry(d *dialer, w *commitWaits, deps Deps) (*cancelRegistry, error) {
	r := &cancelRegistry{
		dialer: d, waits: w, elsewhere: deps.CancelElsewhere,
		slots: make(chan struct{}, maxCancels), guesses: newGuesses(), log: deps.Logger,
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgproxy_cancels_total",
			Help: "Cancel requests, by what became of them.",
		}, []string{"outcome"}),
	}
	r.mu.byPID = make(map[uint32]*cancelEntry)
	for _, outcome := range []string{cancelForwarded, cancelWaited, cancelIdle, cancelCommit, cancelFailed, cancelElsewhere, cancelUnknown, cancelRefused} {
		r.outcomes.WithLabelValues(outcome) // shown as 0
	}
	if err := deps.Registerer.Register(r.outcomes); err != nil {
		return nil, fmt.Errorf("register metrics of cancel requests: %w", err)
	}
	return r, nil
}

func (r *cancelRegistry) count(outcome string) { r.outcomes.WithLabelValues(outcome).Inc() }

// register makes a key for a session that is told the process id pid. long: the
// client speaks protocol 3.2. unregister must be called once, when the session ends.
func (r *cancelRegistry) register(pid uint32, long bool, target canceler) *cancelEntry {
	e := &cancelEntry{pid: pid, target: target, len: secretLen30}
	if long {
		e.len = secretLen32
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for again := true; again; again = r.find(pid, e.secret()) != nil {
		rand.Read(e.secret()) // never fails (crypto/rand)
	}
	e.next = r.mu.byPID[pid]
	r.mu.byPID[pid] = e
	return e
}

func (r *cancelRegistry) unregister(e *cancelEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.mu.byPID[e.pid]
	at := &first
	for *at != e {
		at = &(*at).next
	}
	if *at = e.next; first == nil {
		delete(r.mu.byPID, e.pid)
		return
	}
	r.mu.byPID[e.pid] = first
}

// find compares the secret with those of all sessions of that process id, each in
// constant time.
func (r *cancelRegistry) find(pid uint32, secret []byte) *cancelEntry {
	var found *cancelEntry
	for e := r.mu.byPID[pid]; e != nil; e = e.next {
		if subtle.ConstantTimeCompare(e.secret(), secret) == 1 {
			found = e
		}
	}
	return found
}

// cancel carries out a client's CancelRequest, and returns when the server that works
// for the session with that key has taken it. A key that is not this member's is looked
// for on the others. A key that nobody has, and a session with which no server is busy,
// are passed over in silence.
func (r *cancelRegistry) cancel(ctx context.Context, from *client, pid uint32, secret []byte) error {
	if known, err := r.here(ctx, pid, secret); known {
		return err
	}
	if r.elsewhere == nil || len(secret) != secretLen30 && len(secret) != secretLen32 {
		r.count(cancelUnknown)
		return nil
	}
	if !r.guesses.take(from.remote.Addr()) {
		r.count(cancelRefused)
		r.refused.log(func(times int) {
			r.log.Info("cancel requests refused: too many with unknown keys from one address", "client", from.addr(), "times", times)
		})
		return nil
	}
	ctx, done := context.WithTimeout(ctx, elsewhereTimeout)
	defer done()
	if !r.elsewhere(ctx, pid, secret) {
		r.count(cancelUnknown)
		return nil
	}
	r.guesses.giveBack(from.remote.Addr())
	r.count(cancelElsewhere)
	return nil
}

// here cancels what runs for the session with that key, if this member has it.
func (r *cancelRegistry) here(ctx context.Context, pid uint32, secret []byte) (known bool, err error) {
	r.mu.Lock()
	e := r.find(pid, secret)
	r.mu.Unlock()
	if e == nil {
		return false, nil
	}
	ctx, done := context.WithTimeout(ctx, cancelTimeout)
	defer done()
	if e.target.cancelWaiting(ctx) {
		r.count(cancelWaited)
		return true, nil
	}
	return true, r.cancelFor(ctx, e.target)
}

// cancelFor cancels what runs for a session, if anything does.
func (r *cancelRegistry) cancelFor(ctx context.Context, target canceler) error {
	ctx, done := context.WithTimeout(ctx, cancelTimeout)
	defer done()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		r.count(cancelFailed)
		return fmt.Errorf("wait to cancel: %w", ctx.Err())
	}
	sc, mayCommit := target.beginCancel()
	if sc == nil {
		r.count(cancelIdle)
		return nil
	}
	return r.send(ctx, sc, mayCommit)
}

// send sends a CancelRequest to the server of a loan after its beginCancel, and ends
// what that began. A commit that waits for a synchronous standby is left alone; one that
// begins to wait after the look is answered with a warning, which is not taken for
// success.
func (r *cancelRegistry) send(ctx context.Context, sc *serverConn, mayCommit bool) error {
	lost := false
	defer func() { sc.endCancel(lost) }()
	if mayCommit {
		if forbidden, why := r.waits.forbidsCancel(ctx, sc); forbidden {
			r.count(cancelCommit)
			r.kept.log(func(times int) {
				r.log.Info("cancel request not passed on: a commit waits for a synchronous standby, or may do so",
					"backend", sc.backend, "times", times, "error", why)
			})
			return nil
		}
	}
	var err error
	if lost, err = r.dialer.cancel(ctx, sc.address, sc.pid, sc.secret); err != nil {
		r.count(cancelFailed)
		return err
	}
	r.count(cancelForwarded)
	return nil
}

// CancelHere cancels what runs for the client's session with that key, if this member
// has it, and reports whether it has. It is for the other members, whose clients know
// them.
func (s *Server) CancelHere(ctx context.Context, pid uint32, secret []byte) bool {
	known, err := s.cancels.here(ctx, pid, secret)
	if err != nil {
		s.log.Warn("cancel request of another member not forwarded", "error", err)
	}
	return known
}

// cancel sends a CancelRequest to a server and waits until it closes the
// connection: by then it has signalled the process. lost: it may still do so.
func (d *dialer) cancel(ctx context.Context, address string, pid uint32, secret []byte) (lost bool, err error) {
	conn, err := d.dial(ctx, address, nil)
	if err != nil {
		return false, fmt.Errorf("cancel: %w", err)
	}
	defer conn.Close()
	release := bound(ctx, conn.raw)
	_, err = conn.Write(pgwire.AppendCancelRequest(nil, pid, secret))
	if err == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
	if late := release(); late != nil {
		lost, err = true, late
	}
	if err != nil {
		return lost, fmt.Errorf("cancel on %s: %w", address, err)
	}
	return false, nil
}
