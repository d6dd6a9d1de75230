package proxy

import (
	"context"
	"time"
)

// The processes of a server that is killed, crashes or stops end one after the other,
// within milliseconds where nothing else keeps the processors busy. Who has lost one of
// them must not be lent the next one that is about to end. So when a connection has ended
// by itself, those that were idle are lent only after a fresh look at the server; if it
// does not go on they are closed. That they answer would prove nothing: a server process
// that wakes up late may answer once more before it sees that its postmaster is gone
// (measured). One whose end concerns nobody else, by pg_terminate_backend, costs the others
// a look, at most every shakenGap.
const (
	// shakenGap is the least time between two looks at a backend for such an end.
	shakenGap = time.Second
	// dying is for how long after it a connection that is given back is doubted, too.
	dying = 10 * time.Millisecond
)

// look is a look at a server that is under way, or was.
type look struct {
	done   chan struct{}
	goesOn bool // written before done is closed
}

// well waits for the look, and reports that the server goes on. Without a look nobody has
// doubted that.
func (k *look) well(ctx, gone context.Context) bool {
	if k == nil {
		return true
	}
	select {
	case <-k.done:
		return k.goesOn
	case <-ctx.Done():
	case <-gone.Done():
	}
	return false
}

// broke notes that the server has ended the connection, before the client hears of it.
// It does not block.
func (sc *serverConn) broke() {
	p := sc.pool.pools
	p.mu.Lock()
	defer p.mu.Unlock()
	sc.pool.shake(sc.link)
}

// shake has a look taken, because the server has ended a connection.
func (bp *backendPool) shake(l *link) {
	now := time.Now()
	if l.gen != bp.gen || bp.pools.mu.shutdown || now.Sub(bp.shaken) < shakenGap {
		return
	}
	k, gone := &look{done: make(chan struct{})}, bp.gone
	bp.shaken, bp.look = now, k
	bp.pools.background.Go(func() { // under the lock, so that shutdown waits for it
		k.goesOn = bp.pools.goesOn(gone, l.backend, l.server)
		close(k.done)
		bp.pools.locked(func() []*link { return bp.looked(k) })
	})
}

// looked ends the doubt.
func (bp *backendPool) looked(k *look) (out []*link) {
	if bp.look != k {
		return nil
	}
	if !k.goesOn {
		for l := range bp.links {
			if l.state == linkIdle && bp.doubts(l) != nil {
				bp.evict(l, &out)
			}
		}
	}
	bp.look = nil
	return append(out, bp.dispatch()...)
}

// doubts returns the look that an idle link has to wait for; nil: none.
func (bp *backendPool) doubts(l *link) *look {
	if bp.look != nil && l.idleSince.Before(bp.shaken.Add(dying)) {
		return bp.look
	}
	return nil
}
