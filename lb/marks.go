package lb

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// maxMarks bounds the marks of one classifier. One mark too few costs a round trip
// to a standby, never a wrong answer.
const maxMarks = 4096

// marks are the shapes that a standby has refused, with their ends.
type marks struct {
	count atomic.Int64 // len(m), read without the lock
	mu    struct {
		sync.RWMutex
		m map[mark]int64
	}
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
	k := mark{database, maphash.Bytes(c.seed, s.key[:s.shape])}
	c.marks.mu.Lock()
	defer c.marks.mu.Unlock()
	if c.marks.mu.m == nil {
		c.marks.mu.m = make(map[mark]int64)
	}
	m := c.marks.mu.m
	if len(m) >= maxMarks {
		for old, end := range m {
			if end <= now {
				delete(m, old)
			}
		}
	}
	if len(m) >= maxMarks {
		for old := range m {
			delete(m, old)
			break
		}
	}
	m[k] = until
	c.marks.count.Store(int64(len(m)))
}

// Marked tells whether the text that scratch was last used for must go to the
// primary at the time now although it is a read.
func (c *Classifier) Marked(database string, scratch *Scratch, now int64) bool {
	if c.marks.count.Load() == 0 {
		return false
	}
	k := mark{database, maphash.Bytes(c.seed, scratch.key[:scratch.shape])}
	c.marks.mu.RLock()
	defer c.marks.mu.RUnlock()
	until, ok := c.marks.mu.m[k]
	return ok && now < until
}
