// Command bench measures pgproxy beside the proxies that people use today: the
// same pgbench runs, on the same PostgreSQL cluster, one system after the other
// in interleaved rounds, so that a machine that gets slower gets slower for all.
//
// It starts everything itself on 127.0.0.1, from a primary with two standbys to
// the proxies with configuration files of its own, and removes it all at the end.
// What it prints are medians of the rounds. Latencies come from pgbench's log of
// every transaction, processor time from the processor clocks of all of a proxy's
// processes, read after the clients have connected and before they leave, memory
// from the proportional set size. Nothing is pinned to a processor: servers, clients
// and the proxy that is measured share the machine as the kernel sees fit, and what
// systems are compared by is the processor time of a transaction, not how many of
// them the machine gets done.
//
// A case belongs to a stage, whose systems run at the same time. Cases about idle
// clients have each system for themselves.
//
// The numbers compare systems on one machine that also runs the servers and
// pgbench; they say nothing about another machine. The servers run with fsync
// off: it is the proxies that are measured.
package main
