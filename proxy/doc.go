// Package proxy is the data path: it accepts clients, authenticates them, and
// runs their sessions on server connections from its pools.
//
// It does not decide which server is the primary or whether one is up (it follows
// the cluster's State), what a statement is (package lb), or what a session does
// with a message (package session, which has no I/O). Server.Run drives it;
// cmd/pgproxy makes it.
//
// A connection passes through the files in this order: listener, gate, startup
// (with tls and package auth), server (admit), session with its server connections
// from pool and login, or replication; cancel (with guesses and commitwait) for one
// that only carries a CancelRequest.
//
// Specification: PostgreSQL manual, chapter "Frontend/Backend Protocol"; where it is
// silent, PostgreSQL's postmaster.c, auth.c and libpq's fe-connect.c.
//
// # Goroutines
//
//	name                owner of                      fed by                       ends when
//	Server.Run          listeners, draining           its context                  all others have ended
//	Server.accept       without a loop: one listener  the kernel, the gate         its listener is closed
//	Server.serve        without a loop: one client,   the client's bytes           its session has begun; the client is gone
//	                    its startup                                                or evicted
//	startupEvents.spawn what of a startup on a loop   the startup                  it is done; the loop goes on
//	                    may wait
//	Server.session      the beginning of a session    its startup                  its session has begun; without a loop, and
//	                    that has to wait for a server                              with replication, its end
//	goroutines.run      without a loop: the reader    the client's bytes           the session is over
//	                    of a session
//	eventLoop.Run       the listeners it watches, the epoll, Post                  after the last session
//	                    startups and the reading of
//	                    its clients and servers
//	readServer          without a loop: the reading   the server's bytes           the loan is given back or broken
//	                    side of one server
//	                    connection in a slot
//	attach, giveBack,   one step of a session that    the session's core           the step is done; the session waits
//	awaitSamples, judge must not block its reader                                  for them
//	serveReplication    one direction of a            the client's bytes           either side is gone
//	                    replication client
//	pools.run           the upkeep of the pools, the  Cluster.Changed, the lease,  after the last session
//	                    end of the primary's tenure   tickers, pools.wakeUp
//	pools.clean         one link that is reset, or    its release                  it is clean or closed; pools.run waits
//	                    has a cancel request to take
//	backendPool.shake   one look at a server that     a connection that has ended  the look is over; pools.run waits
//	                    has ended a connection        by itself
//	pools.warmOne       one login that nobody waits   pools.run                    the link is idle or closed; pools.run waits
//	                    for (pool.min)
//	sessions.run        the routing, the drain of a   Cluster.Changed, the lease,  after the last session
//	                    switchover                    a ticker
//	sessions.enforce    the sweep over the sessions,  a timer, setLimits           after the last session
//	                    what it knows of each
//	sessions.act        one cancel or end of a        the sweep                    it is done; enforce waits
//	                    session beyond its limits
//	catalogs.run        the readers of catalogs       sessions that miss one       after the last session
//
// A link belongs to the pools while it is idle, to pools.clean while it is reset,
// and to the session while it is lent; only the pools may close it under a session
// (when its backend is lost), and only the cancel registry reads its key meanwhile.
//
// # Two drivers
//
// A startup is driven by a goroutine that blocks (startup_run.go), or by the event loop of its
// client (acceptor.go, startup_events.go): a login whose role is known, and a session whose
// greeting and catalog are, begin there without anybody else. What may wait (a TLS handshake,
// the auth query, the hashing of a password, a first connection to a server) is done by a
// goroutine. The gate bounds how long a startup may take, under both.
//
// The mover of a session moves its bytes: goroutines that block (session_goroutines.go), or
// the event loop of its client (session_events.go, socket.go), under which nothing blocks:
// the session's lock is held while its sockets are read and written. Whatever may wait
// (a connection that must be opened or waited for, a sample, a probe) is a goroutine of
// its own under both. A server connection is a loop's from its login to its end, and goes
// from loop to loop with the sessions that have it; it is never lent to a session that
// blocks, nor one that blocks to a session on a loop (poolKey).
//
// # Waiting for a server connection
//
// Bounds: pool.size for each backend, database and user in transaction mode,
// max_connections of the first entry of `limits` that matches on each backend, and
// max_connections of the backend. Waiters are served in the order of arrival, but for
// those that a bound of their own blocks, whom others pass. A link of another key that is
// idle is closed where that makes room. Who waits for a primary keeps his place in one
// line through every change of it (pool_hold.go).
//
// # The primary's lease
//
// Every connection to the primary is one of a tenure: the time in which the State
// names that server, on that timeline, and this member holds a lease (S1). The
// connection itself compares the lease with the clock before each write and after
// each read, whoever uses it: sessions, logins, COPY, replication clients, resets,
// the auth query and the catalog's. Guaranteed: no byte is written and none that came
// is given out without a lease, also by a process that was paused; and when Barred
// names an operation no connection of an earlier tenure is open. Not under it are
// CancelRequests, which carry no statement, and package health.
//
// Everything that several goroutines use is behind a mutex (pools, gate,
// cancelRegistry, lookups, the session's mu) that is never held across I/O that blocks,
// immutable (dialRules, identity, client once its session has begun, routing,
// cluster.State), or made of atomics (catalogOf, userFloor, the counters).
package proxy
