// Package failover holds the acceptance tests of the whole: hosts in network
// namespaces, each with a real PostgreSQL and a real pgproxy process, one virtual
// address, and a client that writes numbered rows through it while something breaks.
// What breaks, and what must come of it, is package scenario's; here each scenario is
// run once on three hosts, and on two with a witness. `make bench-failover` runs them
// often enough to say how long they take.
//
// The tests need root: they make network namespaces. When one fails, it prints the
// logs of all members and servers and what pgproxy-pcp says.
package failover
