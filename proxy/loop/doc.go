// Package loop moves bytes of sockets by readiness: each Loop is one goroutine that waits
// in epoll(7) for all of its connections at once, and tells their handlers. No call
// blocks; nothing is allocated for an event.
//
// A connection is registered once, edge-triggered; while it has more than one read takes,
// it is served again after all others (one read for each in a turn), so that nobody who
// sends much delays those who send little. EPOLLOUT is asked for only after a write that
// did not take everything.
//
// It does not know what the bytes mean, and keeps none. It works on Linux; elsewhere New
// returns errors.ErrUnsupported.
//
// # Goroutines
//
//	name      owner of                            fed by                         ends when
//	Loop.Run  the turn, the buffer, the sequence  epoll, Post by any goroutine   its context ends
//	          of the handlers' calls
//
// A Conn may be read, written and closed by any goroutine; its mutex is held for the one
// system call that does so. Close returns when no other call is under way, and then the
// descriptor is free.
package loop
