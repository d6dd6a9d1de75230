//go:build !linux

package loop

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
)

// Loop serves connections by one goroutine.
type Loop struct{}

// New returns errors.ErrUnsupported: only Linux has epoll.
func New(any, func() int64) (*Loop, error) { return nil, errors.ErrUnsupported }

// Run does nothing.
func (*Loop) Run(context.Context) error { return errors.ErrUnsupported }

// Owner returns nil.
func (*Loop) Owner() any { return nil }

// Buffer returns nothing.
func (*Loop) Buffer() []byte { return nil }

// Now returns 0.
func (*Loop) Now() int64 { return 0 }

// Conns returns 0.
func (*Loop) Conns() int { return 0 }

// Post does nothing.
func (*Loop) Post(Task) {}

// Add returns errors.ErrUnsupported.
func (*Loop) Add(*Conn, int, Handler) error { return errors.ErrUnsupported }

// Conn is a socket that a loop watches; here there is none.
type Conn struct{}

// On reports false.
func (*Conn) On(*Loop) bool { return false }

// Move returns errors.ErrUnsupported.
func (*Conn) Move(*Loop) error { return errors.ErrUnsupported }

// Again does nothing.
func (*Conn) Again() {}

// Resume does nothing.
func (*Conn) Resume() {}

// Read returns errors.ErrUnsupported.
func (*Conn) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Quiet reports false.
func (*Conn) Quiet() bool { return false }

// Unread reports false.
func (*Conn) Unread() bool { return false }

// Accept returns errors.ErrUnsupported.
func (*Conn) Accept() (int, netip.AddrPort, error) {
	return -1, netip.AddrPort{}, errors.ErrUnsupported
}

// LocalAddr returns nothing.
func (*Conn) LocalAddr() netip.AddrPort { return netip.AddrPort{} }

// Release returns errors.ErrUnsupported.
func (*Conn) Release() (int, error) { return -1, errors.ErrUnsupported }

// Write returns errors.ErrUnsupported.
func (*Conn) Write([][]byte) (int, error) { return 0, errors.ErrUnsupported }

// CloseWrite returns errors.ErrUnsupported.
func (*Conn) CloseWrite() error { return errors.ErrUnsupported }

// Control returns errors.ErrUnsupported.
func (*Conn) Control(func(uintptr)) error { return errors.ErrUnsupported }

// Close returns errors.ErrUnsupported.
func (*Conn) Close() error { return errors.ErrUnsupported }

// Dup returns errors.ErrUnsupported.
func Dup(syscall.Conn) (int, error) { return -1, errors.ErrUnsupported }
