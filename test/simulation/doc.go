// Package simulation plays whole clusters in virtual time and asserts the safety
// rules S1 to S6 of the design after every step.
//
// A schedule is made by one seed: the topology, the clocks, the delays, the faults
// and the order of everything. It runs in one goroutine and reads no clock, so the
// same seed gives the same schedule; a violation is reported with its seed, which
// is then played again with a trace (go test ./test/simulation -seed=N -v).
//
// Real are cluster.Apply, lease.Grantor and lease.Holder, failover.Decide and the
// next step of failover/agent. Models are:
//
//	network.go   hosts and links: delays, loss, late duplicates, partitions
//	process.go   a member's process: its clock, pauses (SIGSTOP), crashes
//	raft.go      elections, replication, membership; disks that are wiped
//	leader.go    nonce rounds, the table of grants, the reconcile loop
//	member.go    requests for leases, reports, probes, clients' writes
//	server.go    PostgreSQL: log, timelines, promotion, crash, freeze
//	stream.go    its streaming and synchronous replication
//	agent.go     the agent of a server: what it sees, and how long its steps take
//	faults.go    what is broken when, and the healing at the end
//	rules.go     the assertions, written against what the models know to be true
//	mutants.go   deliberate mistakes, each of which the assertions must find
//
// What is not modelled: reads, virtual addresses, the data path beyond one write at
// a time for each client, disks that lie.
package simulation
