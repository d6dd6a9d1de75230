package session

// MayCommit reports that what the primary does for the client now may be the commit of
// a write: its answer is not there, and it is neither known to be a read nor inside of a
// transaction block that goes on.
func (c *Core) MayCommit() bool {
	s := c.server[Primary]
	all := flights(s, false)
	return c.garbled || uncertain(all, phaseOf(s.tx)) < len(all)
}

// Awaits reports that a statement of the client is on its way: no server works for it
// yet, or the one that has it is still brought up to the session's state. A cancel now
// would strike nothing, or what the client knows nothing of.
func (c *Core) Awaits() bool {
	slot := c.busy()
	if slot == None {
		return c.sent.pending || c.decided()
	}
	all := flights(c.server[slot], false)
	return len(all) > 0 && !all[0].live
}
