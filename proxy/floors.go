package proxy

import (
	"math"
	"sync"
	"sync/atomic"
)

// floors remembers the last write of each user, so that a user's next session
// does not read older data than the last one wrote.
type floors struct {
	mu struct {
		sync.Mutex
		byUser map[string]*userFloor
	}
}

// userFloor is the last write of one user: 1 + Sampler.Mark when its answer was read.
// Sessions keep it, and note their writes in it without a lock.
type userFloor struct{ mark atomic.Uint64 }

// forgotten is the mark of a userFloor that is not in floors any more.
const forgotten = math.MaxUint64

// maxFloors bounds the users remembered; with more, one of them is forgotten for
// each new one, and its next session starts without a floor unless it writes again.
const maxFloors = 100_000

func newFloors() *floors {
	f := &floors{}
	f.mu.byUser = make(map[string]*userFloor)
	return f
}

// note remembers a write. at is what the session's last call has returned; nil: this is
// the first one.
func (f *floors) note(at *userFloor, user string, mark uint64) *userFloor {
	for at == nil || !at.raise(mark) {
		at = f.remember(user)
	}
	return at
}

// raise takes a write; false: the user was forgotten.
func (u *userFloor) raise(mark uint64) bool {
	for {
		switch old := u.mark.Load(); {
		case old == forgotten:
			return false
		case old > mark || u.mark.CompareAndSwap(old, mark+1): // marks of two sessions may come out of order
			return true
		}
	}
}

// remember returns the floor of a user who writes.
func (f *floors) remember(user string) *userFloor {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.mu.byUser[user]
	if u != nil {
		return u
	}
	if len(f.mu.byUser) >= maxFloors {
		for name, old := range f.mu.byUser {
			old.mark.Store(forgotten)
			delete(f.mu.byUser, name)
			break
		}
	}
	u = &userFloor{}
	f.mu.byUser[user] = u
	return u
}

// of returns the mark of a user's last write; false: none is known.
func (f *floors) of(user string) (mark uint64, ok bool) {
	f.mu.Lock()
	u := f.mu.byUser[user]
	f.mu.Unlock()
	if u == nil {
		return 0, false
	}
	mark = u.mark.Load()
	return mark - 1, mark != 0 && mark != forgotten
}
