//go:build !linux

package proxy

import "net"

// takenBytes is 0: only the end of a write tells that the peer reads.
func takenBytes(net.Conn) uint64 { return 0 }
