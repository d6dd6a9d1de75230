// Package cluster holds the nouns that all parts share and the truth about the
// cluster: Backend, Role, Status, LSN, State, Command and Apply.
//
// It does no I/O, reads no clock and starts no goroutine. A State is an immutable
// value; it changes only by a Command given to Apply, driven by the log that owns
// the order of commands. Log is the log of one process; a replicated log has the
// same three methods.
//
// Apply is the last guard of the safety rules: it refuses a primary on another
// cluster's system identifier, on a timeline that went back, or on the recorded
// timeline without having been the recorded primary, whoever proposes it.
package cluster
