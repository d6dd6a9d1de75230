// Command bench measures pgproxy beside the proxies that people use today: the
// same pgbench runs, on the same PostgreSQL cluster, one system after the other
// in interleaved rounds, so that a machine that gets slower gets slower for all.
//
// It starts everything itself on 127.0.0.1, from a primary with two standbys to
// the proxies with configuration files of its own, and removes it all at the end.
// What it prints are medians of the rounds. Latencies come from pgbench's log of
// every transaction, processor time from /proc/PID/stat of all of a proxy's
// processes, memory from their proportional set size.
//
// With -crowd it measures instead many clients on few server connections, of pgproxy
// and PgBouncer in transaction mode: pgbench's time of a transaction is then the wait
// for a server, whose 99th percentile over the mean says how fair the queue is.
//
// The numbers compare systems on one machine that also runs the servers and
// pgbench; they say nothing about another machine. The servers run with fsync
// off: it is the proxies that are measured.
package main
