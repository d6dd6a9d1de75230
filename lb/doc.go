// Package lb classifies statements and chooses backends for them.
//
// It is pure: no I/O, no clock, no goroutine. Its user hands in immutable
// snapshots (the catalog of a database, the backends with their lag) and gets
// verdicts. A statement is a read only when nothing in it can write, lock, or
// change the session, and when its answer is the same on every server. The
// lexical rules are PostgreSQL's (manual, "Lexical Structure"; scan.l).
package lb
