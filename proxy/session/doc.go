// Package session is the core of a client's session: bytes of the client and of
// its servers go in, bytes for them and requests to the driver come out.
//
// It does no I/O, reads no clock, starts no goroutine and never blocks. The
// driver (package proxy) owns the sockets: it feeds what it read, writes what
// the core put into the outputs, attaches server connections when asked, and
// serialises all calls. Text scripts, fuzzing and simulation drive it the same
// way.
//
// The core knows the message framing (PostgreSQL manual, "Frontend/Backend
// Protocol"), the transaction status of each server, the one namespace of
// prepared statements of the session, its settings, and the copy modes. It does
// not decode what no decision needs, it does not know users, pools or time, and
// it raises no error that a server can raise itself: a server is first brought
// to the session's state and then gives PostgreSQL's own answer. The exception is a
// transaction whose server is lost (lost.go): until the client ends it the core
// answers in the place of a server (failed.go).
//
// In transaction mode (Share) it gives a connection back after each transaction, with
// what it leaves there (Carried), and brings the next one to the session's state:
// pooled.go has when, settings.go, shared.go and ready.go have how, pins.go has why not.
//
// Specification: PostgreSQL manual, chapter "Frontend/Backend Protocol",
// sections "Message Flow" and "Message Formats"; docs/balancing.md.
package session
