package watchdog

import "sync"

// signal tells any number of waiters that something changed. Who takes the channel
// first and looks afterwards misses nothing.
type signal struct {
	mu struct {
		sync.Mutex
		next chan struct{}
	}
}

// wait returns a channel that is closed by the next fire.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.next == nil {
		s.mu.next = make(chan struct{})
	}
	return s.mu.next
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.next != nil {
		close(s.mu.next)
		s.mu.next = nil
	}
}

// poke fills a channel of one place; one that is full says the same already.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
