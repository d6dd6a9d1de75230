package cluster

import (
	"context"
	"sync"
	"sync/atomic"
)

// Log owns a State and the order of its commands, within one process. It is
// empty again when the process ends: the first primary is then adopted anew.
type Log struct {
	state atomic.Pointer[State]

	mu struct {
		sync.Mutex
		changed chan struct{} // closed and replaced when state is
	}
}

// NewLog returns a log whose first state is s.
func NewLog(s State) *Log {
	l := &Log{}
	l.state.Store(&s)
	l.mu.changed = make(chan struct{})
	return l
}

// Propose applies c after all commands proposed before it and returns the State
// that it made. An error is ctx's or Apply's; then nothing has changed.
func (l *Log) Propose(ctx context.Context, c Command) (State, error) {
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	l.mu.Lock()
	old := l.state.Load()
	next, err := Apply(*old, c)
	if err != nil || next.Epoch == old.Epoch {
		l.mu.Unlock()
		return next, err
	}
	changed := l.mu.changed
	l.mu.changed = make(chan struct{})
	l.state.Store(&next)
	l.mu.Unlock()
	close(changed)
	return next, nil
}

// State returns the State in force. It is shared: nobody may write to it.
func (l *Log) State() *State { return l.state.Load() }

// Changed returns a channel that is closed when a State newer than the present
// one is in force. Who takes the channel first and the State afterwards misses
// no change.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.changed
}
