// Package rig is a whole installation on one machine: hosts in network namespaces,
// each with a PostgreSQL server and a pgproxy process of its own, one virtual
// address, and a host for clients. It serves the acceptance tests, the measuring of
// failovers and `pgproxy demo`; nothing in it needs package testing.
//
// pgproxy is the built program, run by its users' means: a configuration file, the
// user postgres, the two capabilities. The servers are started as an operator would
// start them, before pgproxy adopts them; afterwards they are its agents' business.
// The package breaks things (Kill, Freeze, Cut, ...) and looks at what comes of it;
// it repairs nothing.
//
// A Cluster that another process runs can be opened by its state (Cluster.Save,
// Open): everything is found in the kernel, by namespace, executable and working
// directory. Two subcommands of the demo so act on the cluster of a third process.
//
// Goroutines: one per pgproxy process that is started here, which waits for its end;
// the reaper of a cluster, which does so for orphans and ends with it.
package rig
