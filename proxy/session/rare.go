package session

import "github.com/pgproxy/pgproxy/internal/pgwire"

// rare is what few sessions ever have.
type rare struct {
	failed   failed
	listens  listens
	judge    judge
	refusal  []byte   // the error for the next batch; nil: none
	doubts   [][]byte // see pinDoubt
	deferred []byte   // for the client, when Core.mid has ended
	snap     string   // of the primary, see seen
	xids     []uint64 // what runs there, of what the standby may have shown
	// before are the values before the open transaction of the settings that it has
	// changed, see told.
	before []pgwire.Parameter
}

// noRare stands where a session has nothing of the kind. It is never written to.
var noRare = &rare{}

// rarely returns it to be written to.
func (c *Core) rarely() *rare {
	if c.rare == noRare {
		c.rare = &rare{}
	}
	return c.rare
}
