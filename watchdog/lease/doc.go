// Package lease is the arithmetic of the routing leases (S1 and S2 of the design):
// until when a member may hand bytes to the primary, and when the leader may go on
// because no member does any more. It reads no clock, does no I/O and starts no
// goroutine; instants are handed in, so that a simulation can drive it.
//
// All instants of a Grantor are readings of the leader's clock, all instants of a
// Holder readings of one member's; two hosts' clocks are never compared. They are
// times with a monotonic reading. What crosses the network is a length.
//
// Why no lease outlives its leader, in real time:
//
//	the member sends its request    asked
//	the leader sends the nonce      sent      a quorum echoes it: until here nobody newer leads
//	the leader answers              granted   Length = L - (granted - sent)
//	the lease ends                  asked + Length <= granted + Length = sent + L
//	a newer leader begins           after sent, and waits L before it goes on
//
// A clock may run one percent fast or slow: the member counts one percent less than
// Length on its own, the leader waits one percent more than L on its own.
//
// What the one who drives it must do:
//  1. A Grantor is made for one leadership, and only when the leader has applied an
//     entry of its own term (raft's Barrier). A new leader has every committed entry
//     in its log, but a State from before a barrier still names the old primary.
//  2. The round that covers a request may have begun before the request came in, but
//     its nonce must have been echoed by a quorum, read after arrival, with no term
//     higher than the Grantor's.
//  3. Acknowledge before Grant, for one request; and drop a request that a later one
//     of the same member has overtaken.
//  4. A member acknowledges an operation when its connections to the old primary are
//     closed, and after Holder.Apply with the State that has the operation barred.
//  5. Holder.Until is compared with a fresh reading of the clock whenever bytes are
//     handed over, and again after each receive before the answer is forwarded.
//
// A Grantor has one owner, or a mutex around it. A Holder is a value that never
// changes: the driver keeps it behind an atomic.Pointer.
package lease
