//go:build !linux

package proxy

import (
	"errors"
	"syscall"
)

// awaitData does nothing: a connection is given out when it is there.
func awaitData(syscall.RawConn) error { return nil }

// passOn: each connection is to be set by itself.
func passOn(syscall.RawConn, KeepaliveConfig) error { return errors.ErrUnsupported }
