package session

import "github.com/pgproxy/pgproxy/internal/cluster"

// floor is what a standby must have replayed before the session may read from
// it: everything that the session has seen or written elsewhere.
type floor struct {
	last uint64 // ID of the server connection that gave the last answer

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
	f.last = c.server[slot].id
	f.set, f.resolved, f.mark = true, false, c.env.Mark()
}

// StartFloor makes the session start with the floor of an earlier write.
func (c *Core) StartFloor(mark uint64) {
	c.floor = floor{set: true, mark: mark}
}

// caughtUp reports whether the standby may be read from. When that is not known
// a sample is asked for and the answer is no.
func (c *Core) caughtUp(backend string, id uint64) bool {
	f := &c.floor
	if !f.set || (id != 0 && id == f.last) || !c.env.Floors() {
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
