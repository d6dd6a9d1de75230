package session

// Held reports that a batch waits although the primary's connection is there: nothing
// new is to begin on it (Yield).
func (c *Core) Held() bool {
	return c.yielding && len(c.held) > 0 && c.batch.slot == Primary && c.attaching == None && !c.sent.pending &&
		c.server[Primary].ready && c.busy() == None && !c.continues()
}

// GiveUp answers the batch that is Held with an ErrorResponse.
func (c *Core) GiveUp(raw []byte) {
	if c.Held() {
		c.failBatch(raw)
	}
}
