// Package routing shows on which server the statements of a session run, and what
// its reads may miss: the pgproxy binary in front of a real primary and two
// standbys.
//
// Where a statement ran is read from the servers' own logs (log_statement = 'all'):
// PostgreSQL writes a statement there before it executes it, so that one which
// has been answered stands in the log of every server that was given it, also of
// one that refused it. Statements are found again by a number in a comment, which
// classification does not see.
//
// What is promised is written down in docs/balancing.md.
package routing
