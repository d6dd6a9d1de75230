package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// made is a named statement that a server has.
type made struct {
	version uint64
	row     uint64 // hash of its RowDescription, 0: not known
	used    uint64 // server.uses when it was used last
	// skewed: it is shared, and was made under other settings than those that its name
	// stands for, so that it may mean something else.
	skewed bool
}

// renaming reports that something is in flight that makes or drops named statements: an
// error before it would leave them as they are.
func (s *server) renaming() bool {
	const renames = lb.EffectPrepare | lb.EffectDeallocate | lb.EffectDiscardAll | lb.EffectUnknownInSession
	for i := s.head; i < len(s.ring); i++ {
		if e := &s.ring[i]; e.named && e.name != "" || !e.inject && e.verdict != nil && e.verdict.Effects&renames != 0 {
			return true
		}
	}
	return false
}

func (s *server) version(name string) uint64 {
	if name == "" {
		return s.unnamed
	}
	return s.names[name].version
}

func (s *server) setVersion(name string, v uint64) {
	switch {
	case name == "":
		s.unnamed = v
	default:
		m, had := s.names[name]
		switch {
		case had && m.version == v:
			return
		case v == 0 && had:
			delete(s.names, name)
			s.own(name, m, -1)
		case v != 0:
			if s.names == nil {
				s.names = make(map[string]made)
			}
			s.uses++
			if had {
				s.own(name, m, -1)
			}
			m = made{version: v, used: s.uses}
			s.names[name] = m
			s.own(name, m, 1)
		}
	}
}

// own counts the names of what the next session must not meet.
func (s *server) own(name string, m made, by int) {
	if m.own(name) {
		s.private += by
	}
}

func (m made) own(name string) bool { return m.skewed || !isShared(name) }

// skew marks a statement that was made under other settings than its name says.
func (s *server) skew(name string) {
	if m, ok := s.names[name]; ok && !m.skewed {
		s.own(name, m, -1)
		m.skewed = true
		s.names[name] = m
		s.own(name, m, 1)
	}
}

// use notes that a named statement is used, and with row what its result is.
func (s *server) use(name string, row uint64) {
	m, ok := s.names[name]
	if !ok {
		return
	}
	s.uses++
	m.used = s.uses
	if row != 0 {
		m.row = row
	}
	s.names[name] = m
}

// oldest returns the shared statement that was not used for longest.
func (s *server) oldest() (name string) {
	least := ^uint64(0)
	for n, m := range s.names {
		if m.used < least && !m.own(n) {
			name, least = n, m.used
		}
	}
	return name
}

// deallocated notes that the server has dropped a named statement, or all of them
// (""). What was sent behind that was counted as done already, and still is.
func (s *server) deallocated(name string) {
	s.undo()
	if name == "" {
		clear(s.names)
		s.private = 0
	} else {
		s.setVersion(name, 0)
	}
	s.redo()
}

// undo takes back what was counted of the statements in flight, so that the
// versions are those of what has been answered. redo counts them again.
func (s *server) undo() {
	for i := len(s.ring) - 1; i >= s.head; i-- {
		if e := &s.ring[i]; e.named {
			s.setVersion(e.name, e.before)
		}
	}
}

func (s *server) redo() {
	for i := s.head; i < len(s.ring); i++ {
		e := &s.ring[i]
		if e.kind == pgwire.Query {
			s.unnamed = 0
		}
		if !e.named {
			continue
		}
		e.before = s.version(e.name)
		if e.st != nil {
			s.setVersion(e.name, e.st.version)
		} else {
			s.setVersion(e.name, 0)
		}
		if e.skewed {
			s.skew(e.name)
		}
	}
}
