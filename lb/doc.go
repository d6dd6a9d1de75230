// Package lb classifies statements and chooses backends for them.
//
// It is pure: no I/O, no clock, no goroutine. Its user hands in immutable
// snapshots (the catalog of a database, the backends with their lag) and gets
// verdicts. A statement is a read only when nothing in it can write, lock, or
// change the session, and when its answer is the same on every server. The
// lexical rules are PostgreSQL's (manual, "Lexical Structure"; scan.l).
//
// # From a text to a verdict
//
// The lexer (shape.go) writes the shape of a text: its tokens without the values of
// literals. The shape and the identity of the catalog are the key of the cache
// (cache.go). On a miss the shape is decoded (token.go), each statement is judged by
// its first word (statement.go, setting.go), and what may be a read is scanned for
// everything that keeps it from being one (scan.go, words.go, catalog.go). What a
// statement does to its session is found on the way, whatever it is. There is
// no grammar: the scan looks at every token of the statement, wherever it stands, so
// that a text that it does not understand is no read. Names are compared without
// their schemas, so that search_path does not matter.
//
// # What is not guaranteed
//
// What operators, casts, domain and index expressions call is not seen, and of what
// functions call only what may change the session (routines.go, body.go); a function
// that is wrongly declared stable is believed. A catalog is as old as its last reading:
// of what was defined since, past this pgproxy, nothing is known, and only names that
// were not there before are noticed.
package lb
