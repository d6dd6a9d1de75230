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
// Programs and functions used: pg_ctl, pg_controldata, pg_rewind, pg_basebackup and
// postgres --single of agent.bin_directory; the SQL functions of the PostgreSQL
// manual, "System Administration Functions".
package agent
