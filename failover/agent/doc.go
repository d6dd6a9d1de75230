// Package agent controls the one PostgreSQL server of its host: it starts, stops,
// promotes, detaches, points at another primary, rewinds, rebuilds and fences it.
//
// It decides nothing about the cluster. The cluster state is its order, what it
// reports (cluster.Local) its answer; it calls no other agent. Next is pure: state
// and what is seen of the server give the next step, level-triggered, so that
// nothing depends on having seen an event or on the agent not having been killed.
// Scripts in testdata/next show it, one situation each. Before a step that cannot
// be taken back the leader is asked whether the state that it follows from is
// still in force (S3).
//
// It runs as the OS user of the server and asks nothing else of the operator but a
// role with REPLICATION and its password. The server outlives it: it is adopted
// when it runs, and left running when pgproxy stops.
//
// What is guaranteed: a server is only started as a primary when the state names it
// as one and the leader has confirmed that; a data directory that is not whole is
// never started (S9); nothing is removed before its replacement streams, but by a
// recovery in place. What is not: a server that others start, such as systemd after a
// crash, runs as what its files say until the agent has seen it; standby.signal is put
// there with every stop, so that this is a standby.
//
// Goroutines:
//
//	name            owner of                      fed by                        ends when
//	Run             loop: view, attempts, report  ticks, State, the ones below  ctx ends
//	look            nothing                       Run, one at a time            agent.timeout, twice that at most
//	step            the step under way            Run, one at a time            it is done, or Run gives it up
//	upkeep          slots, remembered layout      Run, one at a time            10 s at most
//	checkpoint      nothing                       a promotion                   done, or ctx ends
//	disk probe      its file                      look, one at a time           the disk has it, be it after Run
//	look at files   nothing                       look                          the disk answers, be it after Run
//
// Programs and functions used: pg_ctl, pg_controldata, pg_rewind, pg_basebackup and
// postgres --single of agent.bin_directory; the SQL functions of the PostgreSQL
// manual, "System Administration Functions".
package agent
