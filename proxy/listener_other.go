//go:build !linux

package proxy

import (
	"errors"
	"syscall"
)

// awaitData does nothing: a connection is given out when it is there.
func awaitData(syscall.RawConn) error { return nil }

// sendAtOnce does nothing: package net sees to it.
func sendAtOnce(syscall.RawConn) error { return nil }

// passOn: each connection is to be set by itself.
func passOn(syscall.RawConn, KeepaliveConfig) error { return errors.ErrUnsupported }

// keepAlive is for sockets that an event loop watches.
func keepAlive(int, KeepaliveConfig) error { return errors.ErrUnsupported }
