// Package watchdog is one member among those who watch each other: who is a member,
// who leads, the replicated cluster.State, and the routing leases. It decides nothing
// about backends; failover does, with what the members report here.
//
// It stands on hashicorp/raft. Members that were told the same secret connect by
// mutual TLS (internal/identity) to one port, which two protocols share: raft's own,
// and HTTP with JSON for the members' calls. A lone pgproxy is a raft cluster of one,
// on the same code, without a port.
//
// What it guarantees:
//  1. State changes in the order of one log, by cluster.Apply; an entry or snapshot
//     that this program does not know ends Run, it is never skipped.
//  2. Until is never later than L after the sending of a nonce that a majority echoed
//     while it knew of no newer leader (S1), and not beyond a barrier that is in State.
//  3. Barred is done only when no member can hold a lease on the old primary (S2).
//  4. A member that lost its data_dir is another server, without a vote until the
//     leader has replaced the old one: it makes no majority that has forgotten.
//
// What it does not: leases are not a substitute for a fence where a process does not
// compare Until with the clock before each step.
//
// The wait for a new leader is one to two heartbeats and an election (pre-vote is on);
// see Default. Leaders hand over quicker with Transfer.
//
// Goroutines:
//
//	name                owner of                    fed by                    ends when
//	Run                 the files, raft             -                         ctx ends, or fail
//	listener.run        the port                    connections               Run is over
//	listener.admit      one handshake               one connection            handed over; 5 s
//	serve               the calls of others         listener                  Run is over
//	followLeader        who leads                   raft                      ctx ends
//	requestLeases       this member's lease         a timer, Nudge            ctx ends
//	whileLeads          one request's end           leaderChanged             the request ends
//	watchMembers        entering, comparing files   a timer                   ctx ends
//	leadership.run      one leadership, its pulse   a timer                   it ends
//	leadership.runRounds quorum rounds (S1)         requests                  the leadership ends
//	leadership.askOne   one question of a round     -                         answered; L/2
//	CancelElsewhere     one question to a member    -                         answered; its caller's ctx
//	leadership.runMembership raft's configuration   requests, a timer         the leadership ends
//	writes, propose     one entry of raft           -                         committed, or raft ends
//
// raft's own goroutines are in its docs/README.md, "threads". References: Ongaro's
// thesis, chapters 3, 4 (membership) and 9.6 (pre-vote).
package watchdog
