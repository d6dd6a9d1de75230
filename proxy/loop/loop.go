package loop

import "errors"

// BufferLen is the size of a loop's buffer, in bytes.
const BufferLen = 128 << 10

// Handler is told what has become of a connection, by the goroutine of its loop.
type Handler interface {
	// Readable is called when there is something to read, the end or an error too, and
	// once after somebody else has closed the connection. It reads once. again: it is to be
	// called in the next turn if there may be more; else Resume has it called.
	Readable(l *Loop) (again bool)
	// Writable is called when a connection that took less than was written takes more.
	Writable(l *Loop)
}

// Task is something to be done by the goroutine of a loop.
type Task interface {
	Turn(l *Loop)
}

// ErrClosed tells that the connection was closed on this side.
var ErrClosed = errors.New("loop: the connection is closed")
