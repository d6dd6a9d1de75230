package proxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"sync"
	"time"

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
)

// canceler is a session whose statement can be cancelled.
type canceler interface {
	// cancelTarget returns the loan of the server that works for the session now, or
	// nil. It is called by other goroutines than the session's.
	cancelTarget() *serverConn
}

// cancelRegistry knows by which key each session is cancelled. The keys are our
// own: a client never learns a server's.
type cancelRegistry struct {
	dialer *dialer
	slots  chan struct{}

	mu struct {
		sync.Mutex
		byPID map[uint32][]*cancelEntry // process ids of different servers may be equal
	}
}

type cancelEntry struct {
	secret []byte
	target canceler
}

func newCancelRegistry(d *dialer) *cancelRegistry {
	r := &cancelRegistry{dialer: d, slots: make(chan struct{}, maxCancels)}
	r.mu.byPID = make(map[uint32][]*cancelEntry)
	return r
}

// register makes a key for a session that is told the process id pid. long: the
// client speaks protocol 3.2. unregister must be called once, when the session ends.
func (r *cancelRegistry) register(pid uint32, long bool, target canceler) (secret []byte, unregister func()) {
	n := secretLen30
	if long {
		n = secretLen32
	}
	e := &cancelEntry{target: target}
	r.mu.Lock()
	defer r.mu.Unlock()
	for e.secret == nil {
		s := make([]byte, n)
		rand.Read(s) // never fails (crypto/rand)
		if r.find(pid, s) == nil {
			e.secret = s
		}
	}
	r.mu.byPID[pid] = append(r.mu.byPID[pid], e)
	return e.secret, func() { r.unregister(pid, e) }
}

func (r *cancelRegistry) unregister(pid uint32, e *cancelEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := r.mu.byPID[pid]
	for i := range entries {
		if entries[i] == e {
			entries[i] = entries[len(entries)-1]
			entries[len(entries)-1] = nil
			entries = entries[:len(entries)-1]
			break
		}
	}
	if len(entries) == 0 {
		delete(r.mu.byPID, pid)
		return
	}
	r.mu.byPID[pid] = entries
}

// find compares the secret with those of all sessions of that process id, each in
// constant time.
func (r *cancelRegistry) find(pid uint32, secret []byte) *cancelEntry {
	var found *cancelEntry
	for _, e := range r.mu.byPID[pid] {
		if subtle.ConstantTimeCompare(e.secret, secret) == 1 {
			found = e
		}
	}
	return found
}

// cancel forwards a CancelRequest to the server that works for the session with
// that key, and returns when the server has taken it. A key that nobody has, and a
// session with which no server is busy, are passed over in silence.
func (r *cancelRegistry) cancel(ctx context.Context, pid uint32, secret []byte) error {
	r.mu.Lock()
	e := r.find(pid, secret)
	r.mu.Unlock()
	if e == nil {
		return nil
	}
	ctx, done := context.WithTimeout(ctx, cancelTimeout)
	defer done()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait to cancel: %w", ctx.Err())
	}
	sc := e.target.cancelTarget()
	if sc == nil || !sc.beginCancel() {
		return nil
	}
	defer sc.endCancel()
	return r.dialer.cancel(ctx, sc.address, sc.pid, sc.secret)
}

// cancel sends a CancelRequest to a server and waits until it closes the
// connection: by then it has signalled the process.
func (d *dialer) cancel(ctx context.Context, address string, pid uint32, secret []byte) error {
	conn, err := d.dial(ctx, address, nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	defer conn.Close()
	release := bound(ctx, conn.raw)
	_, err = conn.Write(pgwire.AppendCancelRequest(nil, pid, secret))
	if err == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
	if late := release(); late != nil {
		err = late
	}
	if err != nil {
		return fmt.Errorf("cancel on %s: %w", address, err)
	}
	return nil
}
