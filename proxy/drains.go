package proxy

import (
	"sync"
	"sync/atomic"
)

// drains knows which sessions have something running on the primary of a switchover
// that waits for its end.
type drains struct {
	done  atomic.Uint64 // ID of the last operation for which nothing runs any more
	nudge func()        // done has changed

	mu struct {
		sync.Mutex
		id      uint64 // of the operation that the rest is about
		visited bool   // every session has been told
		running map[*clientSession]struct{}
	}
}

func newDrains(nudge func()) *drains {
	d := &drains{nudge: nudge}
	d.mu.running = make(map[*clientSession]struct{})
	return d
}

// note tells whether a session has something running, of those that have been told. It may
// be called after gone, by who looked at the session before its end.
func (d *drains) note(id uint64, s *clientSession, running bool) {
	d.change(id, func() {
		if running && !s.departed {
			d.mu.running[s] = struct{}{}
		} else {
			delete(d.mu.running, s)
		}
	})
}

// visited tells that every session has been told. One that was not there yet begins
// nothing.
func (d *drains) visited(id uint64) { d.change(id, func() { d.mu.visited = true }) }

// gone tells that a session has ended.
func (d *drains) gone(s *clientSession) {
	d.mu.Lock()
	s.departed = true
	id := d.mu.id
	d.mu.Unlock()
	if id != 0 {
		d.change(id, func() { delete(d.mu.running, s) })
	}
}

// change makes one change to what is known of an operation, unless a later one has
// begun.
func (d *drains) change(id uint64, f func()) {
	d.mu.Lock()
	if id < d.mu.id {
		d.mu.Unlock()
		return
	}
	if id > d.mu.id {
		d.mu.id, d.mu.visited = id, false
		clear(d.mu.running)
	}
	f()
	ended := d.mu.visited && len(d.mu.running) == 0
	d.mu.Unlock()
	if ended && d.done.Swap(id) != id {
		d.nudge()
	}
}
