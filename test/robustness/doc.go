// Package robustness looks at a real pgproxy in front of real servers from
// outside, when its clients and servers behave badly: messages and pipelines of
// any size, clients that stop reading, vanish or send garbage, floods of half-open
// connections, servers that are killed, requests to stop.
//
// What is asserted is what a client sees on the wire, what the servers say of
// their sessions and locks, and what pgproxy takes from the machine: the peak of
// its memory (VmHWM), its file descriptors, its goroutines. A witness session is
// open all the time and must not be touched by what happens to others. Where one
// user takes all that he can get, neighbours work at the same time, and each of their
// statements must be successful.
//
// Timeouts here only end a test that hangs; nothing is asserted about time.
package robustness
