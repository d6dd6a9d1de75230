package lb

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// cache maps keys to verdicts. A hit takes no lock and allocates nothing: the table
// has sets of a fixed number of slots, each slot an atomic pointer to an immutable
// entry. The bytes of all entries are bounded; a hand that sweeps the slots evicts
// those that were not hit since it last passed (CLOCK).
type cache struct {
	slots []atomic.Pointer[entry] // sets of ways slots, one after the other
	mask  uint64                  // number of sets - 1
	limit int                     // bytes of all entries

	mu struct {
		sync.Mutex
		bytes int
		hand  int
	}
}

const (
	ways = 4
	// typicalEntry is what an entry costs on average, in bytes; it gives the number
	// of slots.
	typicalEntry = 512
	// entryOverhead is what an entry costs beside its key and its strings, in bytes.
	entryOverhead = 512
	stringHeader  = 16
)

// entry is one cached verdict. What each hit looks at comes first, on one line.
type entry struct {
	hash    uint64
	key     []byte
	hit     atomic.Bool
	verdict Verdict
	matched Verdict // verdict for a text that a pattern sends to the primary
}

func newEntry(hash uint64, key []byte, v Verdict) *entry {
	e := &entry{hash: hash, key: bytes.Clone(key), verdict: v, matched: v}
	e.matched.deny("primary_patterns")
	return e
}

func (e *entry) size() int {
	v := &e.verdict
	n := entryOverhead + len(e.key) + len(v.Why) + len(v.Name) + len(v.Setting) + len(v.Show)
	for _, names := range [][]string{v.Settings, v.Custom} {
		for _, name := range names {
			n += stringHeader + len(name)
		}
	}
	return n
}

// newCache returns a cache of at most size bytes; with size 0 it keeps nothing.
func newCache(size int) *cache {
	sets := 1
	for sets*2*ways*typicalEntry <= size {
		sets *= 2
	}
	const slotSize = 8
	return &cache{
		slots: make([]atomic.Pointer[entry], sets*ways),
		mask:  uint64(sets - 1),
		limit: max(0, size-sets*ways*slotSize),
	}
}

func (c *cache) set(hash uint64) []atomic.Pointer[entry] {
	first := int(hash&c.mask) * ways
	return c.slots[first : first+ways]
}

// get returns the entry of key, or nil.
func (c *cache) get(hash uint64, key []byte) *entry {
	set := c.set(hash)
	for i := range set {
		e := set[i].Load()
		if e == nil || e.hash != hash || !bytes.Equal(e.key, key) {
			continue
		}
		if !e.hit.Load() { // written once, so that hits on many cores share the line
			e.hit.Store(true)
		}
		return e
	}
	return nil
}

// put adds an entry unless it would take too large a part of the cache.
func (c *cache) put(e *entry) {
	if e.size() > c.limit/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set := c.set(e.hash)
	victim := -1
	for i := range set {
		old := set[i].Load()
		switch {
		case old == nil:
			if victim < 0 || set[victim].Load() != nil {
				victim = i
			}
		case old.hash == e.hash && bytes.Equal(old.key, e.key):
			return // another session was faster
		case victim < 0 && !old.hit.Load():
			victim = i
		}
	}
	if victim < 0 {
		victim = int(e.hash>>32) % ways
		for i := range set {
			set[i].Load().hit.Store(false)
		}
	}
	c.replace(&set[victim], e)
	for c.mu.bytes > c.limit {
		slot := &c.slots[c.mu.hand]
		c.mu.hand = (c.mu.hand + 1) % len(c.slots)
		if old := slot.Load(); old != nil && old != e && !old.hit.Swap(false) {
			c.replace(slot, nil)
		}
	}
}

// replace changes a slot and the count of bytes. The caller holds mu.
func (c *cache) replace(slot *atomic.Pointer[entry], e *entry) {
	if old := slot.Load(); old != nil {
		c.mu.bytes -= old.size()
	}
	if e != nil {
		c.mu.bytes += e.size()
	}
	slot.Store(e)
}
