// Package drivers holds the tests that programs as they are, with their own
// drivers and tools, run unchanged through pgproxy: pgx, node-postgres, psycopg,
// psql, pgbench, pg_dump and pg_restore, pg_basebackup.
//
// Every program asserts what it gets. TestDirect runs them against PostgreSQL
// itself, so that a failure of TestThroughProxy is pgproxy's.
// TestCancelThroughAnotherMember needs root: it makes hosts in network namespaces.
//
//	go test ./test/drivers -run TestDirect
//	go test ./test/drivers -run TestThroughProxy/psycopg -v
//
// A missing tool fails the run: node and npm (which fetches the packages that
// node/package-lock.json pins), Debian's /usr/bin/python3 with python3-psycopg,
// and PostgreSQL's client programs beside its server.
package drivers
