package session

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// seen keeps a session from going back in time when it moves from a standby to
// the primary.
//
// PostgreSQL shows a commit on a standby as soon as its record is replayed, on the
// primary only when the committing process has taken itself off the list of
// running transactions: after the flush and, with synchronous replication, after
// the standbys' answers. So the primary may lack what a standby has shown.
// Before it answers:
//
//  1. The standby is asked for X = pg_snapshot_xmax: what it has shown is below.
//  2. The primary is asked for its snapshot at the same time. Below X, what runs
//     there may have been shown. Mostly nothing does.
//  3. Else the standby is asked which of those it calls committed,
//  4. and the primary again and again until none of these runs any more.
//
// The primary's list is complete for what is visible: a transaction that is not on
// it has ended there.
type seen struct {
	shown bool // the standby has answered since the primary was last confirmed
	stage confirmStage
	due   bool
	owed  int    // answers, also to questions that were given up
	run   uint64 // of the standby that has shown it
	xmax  uint64
}

type confirmStage uint8

const (
	confirmNone   confirmStage = iota
	confirmAttach              // connections to both are wanted
	confirmAsk                 // rules 1 and 2
	confirmCommit              // rule 3
	confirmRuns                // rule 4: the question is on its way
	confirmWait                // rule 4: until it is asked again
)

const (
	askShown    = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())"
	askSnapshot = "SELECT pg_catalog.pg_current_snapshot()"
	// maxConfirm bounds the transactions asked about. With more, the numbers of the
	// two servers have nothing to do with each other.
	maxConfirm = 10000
)

// unconfirmed reports that the primary must not answer the batch yet.
func (c *Core) unconfirmed() bool {
	v := &c.seen
	switch v.stage {
	case confirmNone:
		if !v.shown || c.batch.write && !c.batch.loud {
			return false
		}
		v.stage = confirmAttach
		return c.confirmNow()
	case confirmAttach:
		return c.confirmNow()
	case confirmWait:
		if v.due {
			v.stage, v.due = confirmRuns, false
			c.confirmBy(Primary, askSnapshot)
		}
		return true
	case confirmAsk, confirmCommit, confirmRuns:
	}
	return true
}

// confirmNow asks both servers; a session that keeps no connections gets them first, in
// this order: nobody waits for one to the primary while it has another. false: they
// cannot be asked.
func (c *Core) confirmNow() bool {
	v := &c.seen
	p, s := c.server[Primary], c.server[Standby]
	switch {
	case c.pooled() && !p.ready:
		c.attaching = Primary
		return true
	case c.pooled() && !s.ready:
		c.attaching, c.want = Standby, c.floor.standby
		return true
	case !p.ready, !s.ready:
		v.stage = confirmNone
		return false
	case s.run != v.run: // started again, as if it were lost
		*v = seen{owed: v.owed}
		return false
	}
	r := c.rarely()
	v.stage, r.snap, r.xids = confirmAsk, "", r.xids[:0]
	c.confirmBy(Standby, askShown)
	c.confirmBy(Primary, askSnapshot)
	return true
}

func (c *Core) confirmBy(slot Slot, sql string) {
	c.seen.owed++
	c.inject(slot, pgwire.AppendQuery(nil, sql), expect{kind: pgwire.Query, confirm: true})
	c.server[slot].unnamed = 0
}

// loseConfirm gives up what was asked: a connection has ended. The answers that it
// owed do not come.
func (c *Core) loseConfirm(slot Slot) {
	v := &c.seen
	if v.stage == confirmWait {
		c.floor.waiting = false
	}
	s := c.server[slot]
	for i := s.head; i < len(s.ring); i++ {
		if s.ring[i].confirm {
			v.owed--
		}
	}
	*v = seen{owed: v.owed}
}

// confirmRow takes a row of an answer: one column, in text.
func (c *Core) confirmRow(slot Slot, body []byte) {
	if len(body) < 6 || int(int32(binary.BigEndian.Uint32(body[2:]))) != len(body)-6 {
		return
	}
	text := string(body[6:])
	n, err := strconv.ParseUint(text, 10, 64)
	r := c.rarely()
	switch {
	case slot == Primary:
		r.snap = text
	case err != nil:
	case c.seen.stage == confirmAsk:
		c.seen.xmax = n
	case c.seen.stage == confirmCommit:
		r.xids = append(r.xids, n)
	}
}

// confirmAnswered is called with the end of each answer; failed: with an error,
// after which nothing can be found out.
func (c *Core) confirmAnswered(failed bool) {
	v := &c.seen
	v.owed--
	switch {
	case v.stage == confirmNone: // given up before
		return
	case failed:
		*v = seen{owed: v.owed}
		return
	case v.owed > 0:
		return
	}
	r := c.rarely()
	switch v.stage {
	case confirmAsk:
		r.xids = running(r.snap, v.xmax)
		if len(r.xids) > 0 && len(r.xids) <= maxConfirm {
			v.stage = confirmCommit
			sql := commitsOf(r.xids)
			r.xids = r.xids[:0]
			c.confirmBy(Standby, sql)
			return
		}
		*v = seen{}
	case confirmCommit, confirmRuns:
		if v.stage == confirmRuns {
			now := running(r.snap, v.xmax)
			r.xids = slices.DeleteFunc(r.xids, func(x uint64) bool { return !slices.Contains(now, x) })
		}
		if len(r.xids) == 0 {
			*v = seen{}
			return
		}
		v.stage = confirmWait
		c.floor.waiting = true // the driver lets the core look again, and at last asks by StopWaiting
	case confirmNone, confirmAttach, confirmWait:
	}
}

// running returns the transactions below xmax that a snapshot of the primary
// ("xmin:xmax:xip,...") does not show: those on its list, and those that have
// begun after the last one that ended.
func running(snapshot string, xmax uint64) (xids []uint64) {
	parts := strings.Split(snapshot, ":")
	if len(parts) != 3 {
		return nil
	}
	for _, s := range strings.Split(parts[2], ",") {
		if x, err := strconv.ParseUint(s, 10, 64); err == nil && x < xmax {
			xids = append(xids, x)
		}
	}
	next, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return nil
	}
	for x := next; x < xmax && len(xids) <= maxConfirm; x++ {
		xids = append(xids, x)
	}
	return xids
}

func commitsOf(xids []uint64) string {
	list := make([]string, len(xids))
	for i, x := range xids {
		list[i] = strconv.FormatUint(x, 10)
	}
	return fmt.Sprintf("SELECT x FROM pg_catalog.unnest('{%s}'::pg_catalog.xid8[]) x WHERE pg_catalog.pg_xact_status(x) = 'committed'",
		strings.Join(list, ","))
}
