package session

// Pin is why a session keeps its connection to the primary between two transactions.
type Pin struct {
	Reason string // temporary table, LISTEN, ...
	End    string // what its client can do to end it
}

// AllPins are the pins that there are.
var AllPins = []Pin{
	{"temporary table", "DROP or DISCARD ALL"},
	{"LISTEN", "UNLISTEN *"},
	{"advisory lock", "pg_advisory_unlock_all()"},
	{"WITH HOLD cursor", "CLOSE ALL"},
	{"unknown state", "DISCARD ALL"},
	{"large statement", "Close, DEALLOCATE or DISCARD ALL"},
}

// pinOf is in the order of AllPins, but for the last one.
var pinOf = []pin{pinTemporary, pinListen, pinLock, pinCursor, pinUnknown | pinDoubt}

// Pins returns what pins a session whose connections are pooled by transaction.
func (c *Core) Pins() []Pin {
	if !c.pooled() || c.pins&pinBound == 0 && c.names.unkept == 0 {
		return nil
	}
	var all []Pin
	for i, p := range pinOf {
		if c.pins&p != 0 {
			all = append(all, AllPins[i])
		}
	}
	if c.names.unkept > 0 {
		all = append(all, AllPins[len(pinOf)])
	}
	return all
}
