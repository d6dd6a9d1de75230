package watchdog

import (
	"net"
	"sync"
)

// conns are connections that are closed together in the end.
type conns struct {
	mu struct {
		sync.Mutex
		closed bool
		open   map[*tracked]struct{}
	}
}

// tracked is a connection that knows the set it is in.
type tracked struct {
	net.Conn
	of *conns
}

// add remembers c until it is closed. It returns nil, and has closed c, after close
// or when there are too many.
func (s *conns) add(c net.Conn) net.Conn {
	t := &tracked{Conn: c, of: s}
	s.mu.Lock()
	refused := s.mu.closed || len(s.mu.open) >= maxConnections
	if !refused {
		if s.mu.open == nil {
			s.mu.open = map[*tracked]struct{}{}
		}
		s.mu.open[t] = struct{}{}
	}
	s.mu.Unlock()
	if refused {
		c.Close()
		return nil
	}
	return t
}

func (s *conns) close() {
	s.mu.Lock()
	s.mu.closed = true
	all := s.mu.open
	s.mu.open = nil
	s.mu.Unlock()
	for t := range all {
		t.Conn.Close()
	}
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.mu.open, t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}
