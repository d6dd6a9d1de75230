// Package cluster holds the nouns that all parts share and the truth about the
// cluster: Backend, Role, Status, LSN, State, Command and Apply.
//
// It is pure: no I/O, no clock, no goroutine. A State is an immutable value; it
// changes only by Apply, driven by the log that owns the order of commands.
package cluster
