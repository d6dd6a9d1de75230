package main

import (
	"context"
	"slices"
)

// Names of the systems that others are compared with.
const (
	direct     = "direct"
	pgbouncer  = "pgbouncer"
	pgbouncerS = "pgbouncer-session"
	pgpool     = "pgpool"
	haproxy    = "haproxy"
	pgproxy    = "pgproxy"
	pgproxyS   = "pgproxy-session"
	pgproxy1   = "pgproxy-1loop"
)

// definition says how a system is started. command writes the configuration for
// the port and that many clients, and returns program and arguments of a process
// that stays in the foreground; nil for the primary itself.
type definition struct {
	name    string
	command func(ctx context.Context, r *rig, port, clients int) ([]string, error)
	tls     bool // clients may encrypt
	shares  bool // server connections, between transactions
}

// systems are all in the order of the tables. Those that share server connections
// between transactions have so many of them for each server.
func systems(servers int) []definition {
	session := pgproxyCommand{name: pgproxyS, mode: "session", size: 50, balance: "statement"}
	transaction := pgproxyCommand{name: pgproxy, mode: "transaction", size: servers, balance: "statement"}
	primary := transaction
	primary.name, primary.balance = "pgproxy-primary", "off"
	goroutines := transaction
	goroutines.name, goroutines.listen = "pgproxy-goroutines", "  driver: goroutine\n"
	oneLoop := transaction
	oneLoop.name, oneLoop.listen = pgproxy1, "  loops: 1\n"
	return []definition{
		{name: direct},
		{name: pgbouncer, command: pgbouncerCommand("transaction", servers), tls: true, shares: true},
		{name: pgbouncerS, command: pgbouncerCommand("session", 0), tls: true},
		{name: pgpool, command: pgpoolCommand},
		{name: haproxy, command: haproxyCommand},
		{name: pgproxy, command: transaction.arguments, tls: true, shares: true},
		{name: pgproxyS, command: session.arguments, tls: true},
		{name: primary.name, command: primary.arguments, tls: true, shares: true},
		{name: goroutines.name, command: goroutines.arguments, tls: true, shares: true},
		{name: oneLoop.name, command: oneLoop.arguments, tls: true, shares: true},
	}
}

// defaultServers is PgBouncer's default_pool_size.
const defaultServers = 20

// sharing are those that share server connections.
func sharing(servers int) []definition {
	return slices.DeleteFunc(systems(servers), func(d definition) bool { return !d.shares })
}

func systemNames() []string {
	var names []string
	for _, d := range systems(defaultServers) {
		names = append(names, d.name)
	}
	return names
}

// proxies are the names of those that know users: neither the primary itself nor HAProxy.
func proxies() []string {
	return slices.DeleteFunc(systemNames(), func(name string) bool { return name == direct || name == haproxy })
}

// tlsSystems are the names of those that clients may encrypt to.
func tlsSystems() []string {
	var names []string
	for _, d := range systems(defaultServers) {
		if d.tls {
			names = append(names, d.name)
		}
	}
	return names
}

// takes tells whether a list, where it is not empty, has the name.
func takes(names []string, name string) bool {
	return len(names) == 0 || slices.Contains(names, name)
}
