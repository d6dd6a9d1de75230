package lb

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// maxMarks bounds the marks of one classifier. One mark too few costs a round trip
// to a standby, never a wrong answer.
const maxMarks = 1024

// marks are the shapes that a standby has refused, with their ends. Every read is looked
// up, and a change is rare: it makes a new map.
type marks struct {
	current atomic.Pointer[map[mark]int64] // nil: there was never one
	change  sync.Mutex                     // held by who makes the next current
}

// mark names a shape by its hash: a collision sends one more statement to the primary.
type mark struct {
	database string
	hash     uint64
}

// MarkPrimary sends statements of the shape of sql in that database to the primary
// until the given time, because a standby has refused one (25006, 0A000, 55000,
// XX000). Times are the caller's monotonic nanoseconds; now lets expired marks go.
func (c *Classifier) MarkPrimary(database string, settings LexSettings, sql []byte, now, until int64) {
	var s Scratch
	s.fill(nil, settings, sql)
	c.marks.change.Lock()
	defer c.marks.change.Unlock()
	next := map[mark]int64{{database, maphash.Bytes(c.seed, s.key[:s.shape])}: until}
	for old, end := range c.marks.all() {
		if _, again := next[old]; !again && end > now && len(next) < maxMarks {
			next[old] = end
		}
	}
	c.marks.current.Store(&next)
}

func (m *marks) all() map[mark]int64 {
	if p := m.current.Load(); p != nil {
		return *p
	}
	return nil
}

// Marked tells whether the text that scratch was last used for must go to the
// primary at the time now although it is a read.
func (c *Classifier) Marked(database string, scratch *Scratch, now int64) bool {
	all := c.marks.all()
	if len(all) == 0 {
		return false
	}
	until, ok := all[mark{database, maphash.Bytes(c.seed, scratch.key[:scratch.shape])}]
	return ok && now < until
}
