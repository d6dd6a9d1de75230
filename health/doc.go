// Package health watches the backends: one prober each, which publishes
// observations and decides nothing.
//
// A probe opens a fresh connection (a server that hangs still answers on old
// ones), asks everything in one round trip and closes it. What the probes of
// different servers say is put together here (lag, replication state,
// compatibility with the primary); who the primary is comes from the cluster
// state, never from a probe. The Sampler reads log positions on demand over kept
// connections, for sessions that read their own writes.
//
// All versions of PostgreSQL from 13 on. Functions and views are those of the
// manual, chapters "System Administration Functions", "System Information
// Functions" (control data) and "The Cumulative Statistics System". The role of
// the probes needs pg_monitor; without it the timeline and the replication state
// of standbys are known less well.
//
// Goroutines:
//
//	name     owner of                          fed by                 ends when
//	Run      the probers                       Configure              its ctx ends
//	prober   statistics and log of a backend   ticks, Poke, Probe     it is not watched any more
//	ask      one probe's connection            its prober             it is answered or the timeout over
//	asker    sampler connection of a backend   Request, its own poll  as a prober
//	watcher  nothing: it lends the asker's     the server's end       its asker is woken,
//	         connection while that is idle                            which awaits it
package health
