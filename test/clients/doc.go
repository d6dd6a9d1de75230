// Package clients runs client programs of four kinds (pgx, node-postgres, psycopg,
// psql) through failovers and switchovers of a cluster in network namespaces, and
// judges by what they were told whether anybody has noticed more than a pause.
//
// Every client is one long-lived connection to the virtual address that repeats one
// behaviour: autocommit reads, autocommit writes, transactions that are tried again
// at 40001, or LISTEN. Each kind is written as a user of that driver would write it;
// all of them say what they see as Events, one JSON object on a line, so that one
// judge serves all.
//
// The same programs run against pgpool-II on a host of its own, set up like the
// example cluster of its manual. The package breaks primaries; the death of a pgproxy
// that holds clients' connections is test/failover's.
//
// Goroutines: one for each client of pgx and psql, one for the output of each
// program; they end with the run.
package clients
