package session

import "sync"

// buffers are what a session keeps messages in while something is under way. A session at
// rest has none: there are many more of those than of the others.
type buffers struct {
	held        []message
	sent, again kept
}

// kept are messages that may have to be repeated.
type kept struct {
	buf      []byte
	messages []message // places in buf
}

// clear forgets them. What few sessions need is not kept for others.
func (k *kept) clear() {
	if clear(k.messages); cap(k.messages) > maxSpareMessages {
		k.messages = nil
	}
	if cap(k.buf) > maxWhole {
		k.buf = nil
	}
	k.buf, k.messages = k.buf[:0], k.messages[:0]
}

// maxSpareMessages bounds the messages that buffers have place for when they are not used.
const maxSpareMessages = 64

var sparePool = sync.Pool{New: func() any { return &buffers{} }}

// borrow is called before a message is kept.
func (c *Core) borrow() {
	if c.lent == nil {
		c.lent, _ = sparePool.Get().(*buffers)
		c.held, c.sent.kept, c.again.kept = c.lent.held, c.lent.sent, c.lent.again
	}
}

// giveBuffersBack is called when something has been done. Nothing is kept when nothing is
// under way.
func (c *Core) giveBuffersBack() {
	b := c.lent
	if b == nil || len(c.held) > 0 || len(c.sent.messages) > 0 || c.server[Primary].pending() > 0 || c.server[Standby].pending() > 0 {
		return
	}
	c.again.kept.clear()
	if cap(c.held) > maxSpareMessages {
		c.held = nil
	}
	b.held, b.sent, b.again = c.held, c.sent.kept, c.again.kept
	c.lent, c.held, c.sent.kept, c.again = nil, nil, kept{}, again{}
	sparePool.Put(b)
}
