// Package failover compares what the cluster has agreed on with what its backends
// are seen to be, and proposes the commands that bring the two together.
//
// Decide is pure, one small function per situation; text scripts in testdata are
// its specification in examples. Reconciler.Run is level-triggered: it looks at
// all there is on a tick and on each change, so nothing depends on having seen an
// event. The rules are S4 and S6 of the design: a server that says it is a
// primary and is not the recorded one is never used, and a timeline never goes
// back.
//
// It promotes, stops and starts no server: it follows the roles that an operator
// or another tool gives them (modes managed and external), or keeps the first
// primary it found (mode off).
//
// Goroutines: none of its own; Run is one, owned by its caller.
package failover
