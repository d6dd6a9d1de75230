package session

import "github.com/pgproxy/pgproxy/internal/cluster"

// floor is what a standby must have replayed before the session may read from
// it: everything that the session has seen or written elsewhere.
type floor struct {
	run     uint64 // of the server that gave the last answer
	standby string // gave the last answer of a standby,
	stood   uint64 // and its run

	// A read that wants to go back to a standby waits for the next sample once
	// refused reads of a row went to the primary; patience bounds the row.
	refused, patience int
	waiting           bool // for a sample; the client's bytes wait, too

	// heard: the primary has sent a notification since a standby was last known to
	// have caught up.
	heard bool

	set      bool
	mark     uint64 // the position is that of the first sample of a later round than this
	resolved bool
	timeline uint32
	lsn      cluster.LSN
}

// answered notes an answer of the server in that slot. From now on every other
// server must have replayed past a sample that is taken from now on.
func (c *Core) answered(slot Slot) {
	f := &c.floor
	f.run = c.server[slot].run
	if slot == Standby {
		f.standby, f.stood = c.server[slot].backend, f.run
	}
	if f.heard { // what the standby said may be older than the notification
		f.run = c.server[Primary].run
	}
	f.set, f.resolved, f.mark = true, false, c.env.Mark()
	if slot == Standby && c.env.Confirms() {
		c.seen.shown, c.seen.run = true, c.server[Standby].run
	}
}

// notified notes a notification of the primary: the client may want to read what
// it tells of.
func (c *Core) notified() {
	c.floor.heard = true
	c.answered(Primary)
}

// leastPatience is how many reads in a row the primary takes over while it is not
// known whether the standby has caught up. A sample costs more time than a read;
// but each answer of the primary raises the floor, so that a session which reads
// without a pause would never leave it.
const (
	leastPatience = 4
	mostPatience  = 4096
)

// StartFloor makes the session start with the floor of an earlier write. Its first
// read waits for a sample.
func (c *Core) StartFloor(mark uint64) {
	c.floor = floor{set: true, mark: mark, refused: leastPatience}
}

// blocked decides about a read whose standby is not known to have caught up; true:
// it waits, else the primary takes it. A line there takes longer than a sample, and each
// answer that a session got from the end of it would send the next reads there, too.
func (c *Core) blocked() bool {
	f := &c.floor
	f.patience = max(f.patience, leastPatience)
	if f.refused < f.patience && !c.env.Crowded(f.standby) {
		f.refused++
		return false
	}
	f.waiting = true
	return true
}

// unblocked is called when a standby has caught up.
func (c *Core) unblocked() {
	c.floor.waiting, c.floor.refused, c.floor.patience = false, 0, leastPatience
	c.floor.heard = false
}

// Waiting reports that the session waits for a new sample, or for StopWaiting.
func (c *Core) Waiting() bool { return c.floor.waiting }

// StopWaiting lets the primary take the read, and more of those that follow than
// the last time: the standby may be far behind.
func (c *Core) StopWaiting() {
	f := &c.floor
	switch {
	case f.waiting && c.seen.stage == confirmWait:
		f.waiting, c.seen.due = false, true
	case f.waiting:
		if f.refused >= f.patience { // it did not wait for the line alone
			f.patience = min(4*f.patience, mostPatience)
		}
		f.waiting, f.refused = false, 0
		c.batch.givenUp = true
	}
}

// caughtUp reports whether the standby may be read from. When that is not known
// a sample is asked for and the answer is no.
func (c *Core) caughtUp(backend string, run uint64) bool {
	f := &c.floor
	if !f.set || (run != 0 && run == f.run) || !c.env.Floors() {
		return true
	}
	s := c.env.Samples()
	if s == nil {
		c.env.RequestSample()
		return false
	}
	if f.resolved && f.timeline != s.Timeline { // another primary: positions do not compare
		f.resolved, f.mark = false, c.env.Mark()
	}
	if !f.resolved {
		if s.Round <= f.mark {
			c.env.RequestSample()
			return false
		}
		f.resolved, f.timeline, f.lsn = true, s.Timeline, s.LSN
	}
	for i := range s.Replayed {
		r := &s.Replayed[i]
		if r.Backend == backend && r.Timeline == f.timeline && r.LSN >= f.lsn {
			return true
		}
	}
	c.env.RequestSample()
	return false
}

// standbyHolds reports that the server behind the standby's connection is still the one
// that the choice was made for; else the batch is to be routed again.
func (c *Core) standbyHolds() bool {
	s := c.server[Standby]
	if c.busy() == Standby || c.readOnly.open || c.batch.given || s.run == c.floor.run || c.batch.standbyRun == s.run {
		return true
	}
	c.batch.standbyRun = s.run // once
	c.batch.slot = None
	return false
}
