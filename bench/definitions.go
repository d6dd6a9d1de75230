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
)

// definition says how a system is started. command writes the configuration for
// the port and that many clients, and returns program and arguments of a process
// that stays in the foreground; nil for the primary itself.
type definition struct {
	name    string
	command func(ctx context.Context, r *rig, port, clients int) ([]string, error)
	tls     bool // clients may encrypt
}

// definitions are the systems in the order of the table.
var definitions = append([]definition{
	{name: direct},
	{name: pgbouncerS, command: pgbouncerCommand("session", 0), tls: true},
	{name: pgpool, command: pgpoolCommand},
	{name: haproxy, command: haproxyCommand},
	{name: pgproxyS, command: pgproxyCommand{name: pgproxyS, mode: "session", size: 50, balance: "statement"}.arguments, tls: true},
}, sharing(20)...) // PgBouncer's default

// sharing are those that share server connections between transactions, with that many
// of them for each server.
func sharing(servers int) []definition {
	transaction := pgproxyCommand{mode: "transaction", size: servers, balance: "statement"}
	return []definition{
		{name: pgbouncer, command: pgbouncerCommand("transaction", servers), tls: true},
		{name: pgproxy, command: transaction.named(pgproxy).arguments, tls: true},
		{name: "pgproxy-primary", command: transaction.named("pgproxy-primary").toPrimary().arguments, tls: true},
	}
}

func systemNames() []string {
	var names []string
	for _, d := range definitions {
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
	for _, d := range definitions {
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
