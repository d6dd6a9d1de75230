package proxy

import (
	"sync"
	"time"
)

// repeats bounds what the log says about something that happens again and again: at
// once, and then each minute how often it was.
type repeats struct {
	mu struct {
		sync.Mutex
		logged time.Time
		n      int // since then
	}
}

// repeatEvery is the least time between two lines about the same.
const repeatEvery = time.Minute

// log calls say with the number of times since it was last called, when it is due.
func (r *repeats) log(say func(times int)) {
	r.mu.Lock()
	r.mu.n++
	n := r.mu.n
	due := time.Since(r.mu.logged) >= repeatEvery
	if due {
		r.mu.logged, r.mu.n = time.Now(), 0
	}
	r.mu.Unlock()
	if due {
		say(n)
	}
}
