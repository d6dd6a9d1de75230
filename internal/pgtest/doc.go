// Package pgtest runs real PostgreSQL servers: one, or a primary with streaming
// standbys, on 127.0.0.1 and on Unix sockets of their own. It serves the tests
// of this module and `pgproxy demo`; nothing in it needs package testing.
//
// It starts the postgres binary itself, not pg_ctl: the server is a child that
// dies with this process (Pdeathsig), and its end is known at once. When this
// process is root, the servers run as the user postgres. Data directories are
// copies of a template that one initdb has made for all runs on this machine.
// What a killed run has left behind, processes too, the next run removes.
//
// It does not decide anything: promoting, rewinding and pointing standbys at a
// new primary is what its users test. Linux only.
//
// Goroutines: one per running server, which owns the child process (it starts
// it and waits for it, locked to its thread because Pdeathsig is tied to the
// thread) and ends with it.
package pgtest
