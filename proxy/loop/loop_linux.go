package loop

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// yieldAfter is for how long a loop keeps its processor at most: after 10 ms the runtime
// would take it away by a signal, and look for work for the next milliseconds. Each time
// costs some wake-ups, since another thread has to run the others.
const yieldAfter = 9 * time.Millisecond

// maxEvents is how many connections are served in one turn at most.
const maxEvents = 256

// Loop serves connections by one goroutine.
type Loop struct {
	epoll, wake int // descriptors; wake is an eventfd
	owner       any
	clock       func() int64

	// The rest up to mu is of the goroutine that runs it.
	buffer []byte
	events [maxEvents]unix.EpollEvent
	served [maxEvents]*Conn
	again  []*Conn // with more to read, to be served in the next turn
	spare  []*Conn
	tasks  []Task
	now    int64
	yields int64 // when it last let other goroutines run
	policy policy

	mu struct {
		sync.Mutex
		conns    []*Conn  // by place; nil: free
		gens     []uint32 // which of those that had the place it is
		free     []int32
		posted   []Task
		sleeping bool // about to wait without a bound
		closed   bool
	}
	open   atomic.Int64
	wakers sync.WaitGroup // who writes to wake; none begins once closed is set
}

// New makes a loop that is served by Run. clock gives the time in nanoseconds since some
// beginning. owner is what Owner returns.
func New(owner any, clock func() int64) (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	l := &Loop{epoll: epoll, wake: wake, owner: owner, clock: clock, buffer: make([]byte, BufferLen)}
	ev := event(unix.EPOLLIN, wakePlace, 0)
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &ev); err != nil {
		_ = unix.Close(epoll)
		_ = unix.Close(wake)
		return nil, fmt.Errorf("watch an eventfd: %w", err)
	}
	return l, nil
}

// wakePlace stands for the loop's own eventfd.
const wakePlace = -1

// event makes what epoll gives back for a connection: its place, and which of those that
// had the place it is.
func event(events uint32, place int32, gen uint32) unix.EpollEvent {
	return unix.EpollEvent{Events: events, Fd: place, Pad: int32(gen)}
}

// Owner returns what the loop was made for.
func (l *Loop) Owner() any { return l.owner }

// Buffer returns the loop's buffer, for use by its goroutine until a handler returns.
func (l *Loop) Buffer() []byte { return l.buffer }

// Now returns the time at which the turn began. It is for the loop's goroutine.
func (l *Loop) Now() int64 { return l.now }

// Conns returns how many connections the loop serves.
func (l *Loop) Conns() int { return int(l.open.Load()) }

// Post has the loop's goroutine do something soon. Tasks are done in the order in which
// they were posted; after the end of Run none is.
func (l *Loop) Post(t Task) {
	l.mu.Lock()
	l.mu.posted = append(l.mu.posted, t)
	wake := l.mu.sleeping && !l.mu.closed
	l.mu.sleeping = false
	if wake {
		l.wakers.Add(1)
	}
	l.mu.Unlock()
	if wake {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		_, _ = unix.Write(l.wake, one[:]) // EAGAIN: it is awake
		l.wakers.Done()
	}
}

// Run serves until ctx ends; then it closes what is still open.
func (l *Loop) Run(ctx context.Context) error {
	defer l.shut()
	l.policy.takeThread()
	defer l.policy.releaseThread()
	defer context.AfterFunc(ctx, func() { l.Post(nothing{}) })()
	for ctx.Err() == nil {
		n, err := l.wait()
		if err != nil {
			return err
		}
		l.fetch(n)
		l.now = l.clock()
		l.policy.note(l.now, n)
		if l.now-l.yields > int64(yieldAfter) {
			runtime.Gosched()
			l.yields = l.now
		}
		l.serve(n)
	}
	return nil
}

type nothing struct{}

func (nothing) Turn(*Loop) {}

// wait waits until there is something to do, and returns how many events there are.
func (l *Loop) wait() (int, error) {
	timeout := 0
	if len(l.again) == 0 {
		l.mu.Lock()
		if len(l.mu.posted) == 0 {
			timeout, l.mu.sleeping = -1, true
		}
		l.mu.Unlock()
	}
	n, err := unix.EpollWait(l.epoll, l.events[:], timeout)
	if err != nil && err != unix.EINTR {
		return 0, fmt.Errorf("wait for events: %w", err)
	}
	return max(n, 0), nil
}

// fetch finds the connections that n events are of, and takes what was posted.
func (l *Loop) fetch(n int) {
	l.mu.Lock()
	l.mu.sleeping = false
	for i := range l.events[:n] {
		e := &l.events[i]
		l.served[i] = nil
		if e.Fd != wakePlace {
			if c := l.mu.conns[e.Fd]; c != nil && l.mu.gens[e.Fd] == uint32(e.Pad) {
				l.served[i] = c
			}
		}
	}
	l.tasks, l.mu.posted = l.mu.posted, l.tasks[:0]
	l.mu.Unlock()
}

// serve is one turn.
func (l *Loop) serve(n int) {
	again := l.again
	l.again = l.spare[:0]
	for i, c := range l.served[:n] {
		if c == nil {
			if l.events[i].Fd == wakePlace {
				l.drain()
			}
			continue
		}
		l.served[i] = nil
		c.notice(l, l.events[i].Events)
	}
	for i, t := range l.tasks {
		l.tasks[i] = nil
		t.Turn(l)
	}
	for i, c := range again {
		again[i] = nil
		c.turnAgain(l)
	}
	l.spare = again
}

// drain takes what Post has written.
func (l *Loop) drain() {
	var count [8]byte
	_, _ = unix.Read(l.wake, count[:])
}

// shut ends the loop.
func (l *Loop) shut() {
	l.mu.Lock()
	l.mu.closed = true
	conns := make([]*Conn, 0, len(l.mu.conns))
	for _, c := range l.mu.conns {
		if c != nil {
			conns = append(conns, c)
		}
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	l.wakers.Wait() // else they might write to what has the descriptor next
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wake)
}

// enter gives a connection, whose lock is held, a place.
func (l *Loop) enter(c *Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return ErrClosed
	}
	if k := len(l.mu.free); k > 0 {
		c.mu.place, l.mu.free = l.mu.free[k-1], l.mu.free[:k-1]
	} else {
		c.mu.place = int32(len(l.mu.conns))
		l.mu.conns, l.mu.gens = append(l.mu.conns, nil), append(l.mu.gens, 0)
	}
	l.mu.gens[c.mu.place]++
	c.mu.gen = l.mu.gens[c.mu.place]
	l.mu.conns[c.mu.place] = c
	l.open.Add(1)
	return nil
}

// leave frees a place.
func (l *Loop) leave(place int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.conns[place] = nil
	l.mu.free = append(l.mu.free, place)
	l.open.Add(-1)
}
