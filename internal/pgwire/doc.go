// Package pgwire reads and writes the framing of the PostgreSQL protocol,
// versions 3.0 to 3.2, in place: the readers look into the caller's bytes and
// copy nothing, the writers append to the caller's slice. It has no I/O, no
// goroutines and no state, and it never panics on a peer's bytes.
//
// It does not decode the messages that only pass through, and it knows nothing
// of a session: proxy/session and the startup code of package proxy drive it.
//
// Specification: PostgreSQL manual, chapter "Frontend/Backend Protocol",
// "Message Formats"; limits as in PostgreSQL's src/include/libpq/pqcomm.h and
// src/backend/tcop/postgres.c.
package pgwire
