package lease

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// ErrRound is returned by Grant for a request whose quorum round is too old.
var ErrRound = errors.New("the quorum round is too old")

// Grantor is the leader's side for one leadership. What an earlier leadership has
// granted is covered by the wait from its beginning; so the table is never stored.
type Grantor struct {
	length time.Duration
	term   uint64
	began  time.Time
	// barred is the ID of the last operation that Barred was asked about: a State
	// from before its barrier names nobody any more, whoever still has it in hand.
	barred uint64
	table  map[string]entry // by member, removed ones too; only what named a primary
}

// entry is the last lease of one member that named a primary.
type entry struct {
	primary      string
	end          time.Time // by the leader's clock, drift included
	other        time.Time // end of one that it may still hold on another server: its answer may be lost
	epoch        uint64    // no operation up to this one can have closed connections of this lease
	acknowledged uint64    // ID of the operation for which the connections are closed since
}

// NewGrantor returns the Grantor of the leadership of that term; length is L, and
// began is when this process saw that it leads.
func NewGrantor(length time.Duration, term uint64, began time.Time) *Grantor {
	return &Grantor{length: length, term: term, began: began, table: map[string]entry{}}
}

// Grant answers a member's request. s is the State that the leader has applied,
// sent when it sent the nonce of the quorum round that covers the request, now a
// reading of the clock after that round. No lease ends later than L after sent. A
// round of which less than the interval of the requests (L/4) is left is ErrRound.
//
// A lease that names the primary enters the member into the table. None does while
// another member may hold one on another server: where a primary is followed that
// others promoted, no barrier was waited for.
func (g *Grantor) Grant(member string, s *cluster.State, sent, now time.Time) (Grant, error) {
	left := g.length - now.Sub(sent)
	if left < g.length/4 || left > g.length {
		return Grant{}, fmt.Errorf("grant a lease to %s: nonce sent %v ago: %w", member, now.Sub(sent), ErrRound)
	}
	grant := Grant{Term: g.term, Epoch: s.Epoch, Length: left}
	if !g.mayName(s) {
		return grant, nil
	}
	for name, e := range g.table {
		if !now.Before(e.end) {
			delete(g.table, name)
		} else if name != member && (e.primary != s.Primary && e.acknowledged == 0 || now.Before(e.other)) {
			return grant, nil
		}
	}
	grant.Primary, grant.Timeline = s.Primary, s.Timeline
	// The member counts from before now, so its lease ends before this. An earlier
	// one, still running, may end later: its round was younger.
	old := g.table[member]
	next := entry{primary: s.Primary, end: later(now.Add(Stretched(left)), old.end), other: old.other, epoch: s.Epoch}
	if old.primary != s.Primary && old.acknowledged == 0 {
		next.other = later(old.other, old.end)
	}
	if s.Operation != nil { // a switchover that drains: the lease is of its time
		next.epoch = s.Operation.ID - 1
	}
	g.table[member] = next
	return grant, nil
}

// mayName tells whether a lease may name the primary of s (S2).
func (g *Grantor) mayName(s *cluster.State) bool {
	if s.Primary == "" || s.Operation.Barred() {
		return false
	}
	if g.barred == 0 {
		return true
	}
	return s.Epoch > g.barred && (s.Operation == nil || s.Operation.ID > g.barred)
}

// Acknowledge notes that the member's connections to the old primary are closed for
// the operation with that ID; 0 says nothing. It holds until a lease names a primary
// again. One of an operation from before the lease says nothing about it.
func (g *Grantor) Acknowledge(member string, barred uint64) {
	if e, ok := g.table[member]; ok && barred > max(e.acknowledged, e.epoch) {
		e.acknowledged = barred
		g.table[member] = e
	}
}

// Barred tells whether no member can hold a lease on the primary that op replaces:
// the leadership is older than 1.01 L, and each lease that it gave with a primary is
// acknowledged or has run out. If not, it may be so after wait, and earlier when a
// member acknowledges. From this call on no lease names the old primary.
//
// op must be the operation of a State that the leader has applied, and barred.
func (g *Grantor) Barred(op *cluster.Operation, now time.Time) (done bool, wait time.Duration) {
	if !op.Barred() {
		return false, Stretched(g.length)
	}
	g.barred = max(g.barred, op.ID)
	wait = g.began.Add(Stretched(g.length)).Sub(now)
	for _, e := range g.table {
		if e.acknowledged != op.ID {
			wait = max(wait, e.end.Sub(now))
		}
	}
	return wait <= 0, max(wait, 0)
}

// Missing returns the members that Barred still waits for, for logs.
func (g *Grantor) Missing(op *cluster.Operation, now time.Time) []string {
	var names []string
	for name, e := range g.table {
		if op != nil && e.acknowledged != op.ID && now.Before(e.end) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
