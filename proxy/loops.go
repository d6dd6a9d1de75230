package proxy

import (
	"context"
	"errors"
	"net"
	"runtime"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/proxy/loop"
)

// eventLoop is a loop and what the sessions use while it serves them.
type eventLoop struct {
	*loop.Loop
	index int     // among the loops
	o     outputs // of the session that is served
}

func newEventLoop(index int) (*eventLoop, error) {
	l := &eventLoop{index: index}
	var err error
	l.Loop, err = loop.New(l, monotonic)
	return l, err
}

// ownerOf returns the eventLoop that a loop is of.
func ownerOf(l *loop.Loop) *eventLoop { return l.Owner().(*eventLoop) }

// newLoops makes the event loops that the configuration asks for; none where the system
// has no epoll and may do without.
func newLoops(cfg *ListenConfig) ([]*eventLoop, error) {
	if cfg.Driver == DriverGoroutine {
		return nil, nil
	}
	n := cfg.Loops
	if n == 0 {
		n = (runtime.GOMAXPROCS(0) + 1) / 2
	}
	loops := make([]*eventLoop, n)
	for i := range loops {
		l, err := newEventLoop(i)
		switch {
		case errors.Is(err, errors.ErrUnsupported) && cfg.Driver == DriverAuto:
			return nil, nil
		case err != nil:
			return nil, err
		}
		loops[i] = l
	}
	return loops, nil
}

// runLoops runs the loops until ctx ends.
func (sh *sessions) runLoops(ctx context.Context) error {
	var g errgroup.Group
	for _, l := range sh.loops {
		g.Go(func() error { return l.Run(ctx) })
	}
	return g.Wait()
}

// loopFor returns the event loop that is to serve a client, the one that serves fewest;
// nil: goroutines do.
func (sh *sessions) loopFor(c *client) *eventLoop {
	if c.loop != nil || len(sh.loops) == 0 || c.replication != 0 {
		return c.loop
	}
	conn := c.conn
	if under := carrierOf(conn); under != nil {
		conn = under.Conn
	}
	if _, ok := conn.(syscall.Conn); !ok { // it has something that was read already
		return nil
	}
	return sh.leastLoop()
}

// leastLoop returns the event loop that serves fewest connections.
func (sh *sessions) leastLoop() *eventLoop {
	least := sh.loops[0]
	for _, l := range sh.loops[1:] {
		if l.Conns() < least.Conns() {
			least = l
		}
	}
	return least
}

var _ net.Conn = (*socket)(nil)
