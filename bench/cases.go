package main

import (
	"fmt"
	"strconv"
)

// maxClients is the room that systems are started with: the largest case, the probes
// of our own, and pgpool's need of a process for each.
const maxClients = 80

// stage is systems that run at the same time, and the cases that they are given in
// interleaved rounds.
type stage struct {
	systems []definition
	clients int // room for so many
	cases   []benchCase
	// alone: each system is started for each case and stopped after it, once, so that
	// no memory of an earlier load is counted.
	alone bool
}

// stages in the order of the report.
func stages(o options) []stage {
	return []stage{
		{systems: systems(defaultServers), clients: idleSessions + 20, cases: fewIdleCases(), alone: true},
		{systems: sharing(defaultServers), clients: o.idle + 20, cases: manyIdleCases(o), alone: true},
		{systems: systems(defaultServers), clients: maxClients, cases: loadCases(o)},
		{systems: sharing(o.crowdServers), clients: o.crowd + 20, cases: crowdCases(o)},
	}
}

// idleSessions are those of the case that each system can take part in: pgpool-II has a
// process for each.
const idleSessions = 500

func fewIdleCases() []benchCase {
	return []benchCase{idleCase(fmt.Sprintf("%d idle sessions", idleSessions), idleSessions, false)}
}

func idleName(o options) string    { return fmt.Sprintf("%d idle clients", o.idle) }
func idleTLSName(o options) string { return idleName(o) + ", TLS" }

func manyIdleCases(o options) []benchCase {
	return []benchCase{
		idleCase(idleName(o), o.idle, false),
		idleCase(idleTLSName(o), o.idle, true),
	}
}

// Names of cases that have targets.
const (
	connectCase = "connect per transaction, scram, c=16"
	trustedCase = "connect per transaction, trust, c=16"
	resultCase  = "result of 200 MB"
	copyOutCase = "copy out of 200 MB"
	copyInCase  = "copy in of 200 MB"
)

func selectName(mode string, clients int) string {
	return fmt.Sprintf("select %s, c=%d", mode, clients)
}
func tpcbName(clients int) string { return fmt.Sprintf("tpc-b, c=%d", clients) }
func tlsName(name string) string  { return name + ", TLS" }

func loadCases(o options) []benchCase {
	var all []benchCase
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 16, 64} {
			all = append(all, pgbenchCase(selectName(mode, clients), pgbench{clients: clients, args: []string{"-S", "-M", mode}}))
		}
	}
	for _, clients := range []int{16, 64} {
		all = append(all, pgbenchCase(tpcbName(clients), pgbench{clients: clients, args: []string{"-b", "tpcb-like"}}))
	}
	connect := pgbench{clients: 16, args: []string{"-S", "-C"}}
	trusted := connect
	trusted.trusted = true
	simple := pgbench{clients: 16, args: []string{"-S"}}
	return append(all,
		pgbenchCase("nine reads to a write, c=16", pgbench{clients: 16, args: []string{
			"-s", strconv.Itoa(o.scale), "-f", readScript + "@9", "-f", writeScript + "@1",
		}}),
		pgbenchCase(connectCase, connect),
		pgbenchCase(trustedCase, trusted, proxies()...),
		pgbenchCase(tlsName(selectName("simple", 16)), simple.encrypted(), tlsSystems()...),
		pgbenchCase(tlsName(connectCase), connect.encrypted(), tlsSystems()...),
		bulkCase(resultCase, readResult),
		bulkCase(copyOutCase, copyOut),
		bulkCase(copyInCase, copyIn),
	)
}

// crowdTransactions are run by each client. A time would begin before all are connected
// (pgbench -T), and some seconds go by until they are.
const crowdTransactions = 20

// crowdCases: the time of a transaction is nearly all waiting for a server connection.
// With a hundred clients for each it is 99 parts of 100, and the 99th percentile over
// the median says how fair the queue is.
func crowdCases(o options) []benchCase {
	var all []benchCase
	for _, mode := range []string{"simple", "extended", "prepared"} {
		name := fmt.Sprintf("select %s, %d clients on %d servers", mode, o.crowd, o.crowdServers)
		all = append(all, pgbenchCase(name, pgbench{clients: o.crowd, transactions: crowdTransactions, args: []string{"-S", "-M", mode}}))
	}
	return all
}

func pgbenchCase(name string, load pgbench, systems ...string) benchCase {
	return benchCase{name: name, unit: "tx", systems: systems, run: load.run}
}

// encrypted is the same load over TLS.
func (l pgbench) encrypted() pgbench {
	l.tls = true
	return l
}
