package proxy

import "sync"

// bufferSize is a size of what a reader that blocks reads into. Larger ones are for while
// much comes: many connections wait, and few are told something.
type bufferSize uint8

const (
	// idleBuffer is enough for most of what a client says at once.
	idleBuffer bufferSize = iota
	// smallBuffer holds the largest server message that the core waits for as a whole.
	smallBuffer
	// bulkBuffer holds what the core looks at of a client at once (session.MinBuffer).
	bulkBuffer
)

// bufferLens are the sizes in bytes.
var bufferLens = [...]int{idleBuffer: 1 << 10, smallBuffer: 9 << 10, bulkBuffer: 72 << 10}

// buffers keeps those that nobody uses.
type buffers [len(bufferLens)]sync.Pool // of *[]byte

func (p *buffers) get(size bufferSize) *[]byte {
	if b, ok := p[size].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferLens[size])
	return &b
}

// readBuffer is what one reader reads into.
type readBuffer struct {
	from  *buffers
	least bufferSize
	size  bufferSize
	b     *[]byte
}

// reader returns the buffer of a reader, which frees it.
func (p *buffers) reader(least bufferSize) readBuffer {
	return readBuffer{from: p, least: least, size: least, b: p.get(least)}
}

// bytes returns the buffer for the next read.
func (b *readBuffer) bytes() []byte { return *b.b }

// adapt chooses the buffer for the next read by how much there was in it; the first n
// bytes are kept.
func (b *readBuffer) adapt(filled, n int) {
	switch {
	case filled == len(*b.b) && b.size < bulkBuffer:
		b.change(b.size+1, n)
	case b.size > b.least && filled <= bufferLens[b.size-1]:
		b.change(b.size-1, n)
	}
}

func (b *readBuffer) change(size bufferSize, n int) {
	next := b.from.get(size)
	copy(*next, (*b.b)[:n])
	b.free()
	b.size, b.b = size, next
}

// free gives the buffer to other readers.
func (b *readBuffer) free() { b.from[b.size].Put(b.b) }
