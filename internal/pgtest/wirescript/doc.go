// Package wirescript runs text scripts of PostgreSQL protocol messages against a
// server and records every byte that comes back, so that two servers, or a
// server and a proxy in front of it, can be compared. (The idea is that of
// CockroachDB's pgtest; the format is our own, because the expectation is not
// written down: PostgreSQL itself, asked directly, is the expectation.)
//
// A script is a text file of commands, one per line. Lines that start with # are
// comments. A command that takes a block has it on the following lines, up to an
// empty line.
//
//	startup [KEY=VALUE ...]    connects, sends a startup message, authenticates, and reads up to
//	                           ReadyForQuery. Without others, user=app database=app. Special keys:
//	                           protocol=3.2, password=..., key= (leaves a default out). Values may be
//	                           quoted as in Go.
//	startup-error SQLSTATE [KEY=VALUE ...]   the same, where the server must refuse
//	open                       connects and sends nothing; a startup may follow
//	conn NAME                  the commands that follow are for this connection; the first is a
//	send BLOCK                 sends messages, one per line, without waiting
//	until NAME ...             reads up to the first message of that name, then to the next name, and so
//	                           on. ReadyForQuery*5 is five of them; ErrorResponse/22012 must have
//	                           that SQLSTATE. An error that was not named is a problem of the script.
//	query SQL or BLOCK         sends Query and reads up to ReadyForQuery
//	query-error SQLSTATE SQL   the same, where one error must come
//	bytes N                    reads N bytes that are no message
//	expect-close               reads until the server closes the connection
//	expect-raw-close           the same, for bytes that are no messages
//	close                      closes the connection without a farewell
//	cancel NAME                sends a cancel request with the key of a connection
//	sql BLOCK                  runs SQL on the primary, not through the server under test, as superuser
//	await BLOCK                waits until a query of one boolean is true on some server
//	catchup                    waits until the standbys have replayed everything
//	setup BLOCK, cleanup BLOCK as sql, before the script and after it, however it ended
//	ignore NAME REASON         messages of that name, or Bytes, are left out of comparisons
//	mask-salt REASON           the salt of SCRAM is left out of comparisons
//	mask-fields LETTERS REASON  these fields of errors are left out of comparisons (D, M, ...)
//
// A message is the name of a pgproto3 message of the frontend and its fields in
// JSON. A parameter or data is a string, null, or {"hex": "00ff"}. Raw is
// followed by hexadecimal bytes, Startup by the words of the command startup (it
// is sent only; nothing is answered). "Repeat 100 MESSAGE" sends it a hundred times.
// In messages and queries ${i} is the number of the repetition from 0,
// ${repeat 1000 text} is text a thousand times, ${pid a} the process id that
// connection a was told.
//
// A script says nothing about time: it waits for messages and for what await
// asks. A guard turns a server that says nothing into an error.
//
// Goroutines: one per connection writes what was sent, so that a script can send
// a pipeline larger than all buffers before it reads; it ends with the connection.
package wirescript
