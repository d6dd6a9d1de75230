package session

// MayCommit reports that what the primary does for the client now may be the commit of
// a write: its answer is not there, and it is neither known to be a read nor inside of a
// transaction block that goes on.
func (c *Core) MayCommit() bool {
	s := &c.server[Primary]
	all := flights(s, false)
	return c.garbled || uncertain(all, phaseOf(s.tx)) < len(all)
}
