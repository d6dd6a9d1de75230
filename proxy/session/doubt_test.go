package session

import (
	"testing"

	"github.com/pgproxy/pgproxy/lb"
)

// TestDoubtIsResolved: a function that the catalog does not have yet keeps the session
// where it is until the catalog says what it does.
func TestDoubtIsResolved(t *testing.T) {
	answer := []string{"T", "C SELECT 1", "Z I"}
	for _, harmless := range []bool{true, false} {
		p := newSharing(t)
		p.want("known", p.step([]string{"Q SELECT f()"}, answer), true)
		p.want("unknown", p.step([]string{"Q SELECT later()"}, answer), false)
		if pins := p.core.Pins(); len(pins) != 1 || pins[0].Reason != "unknown state" {
			t.Errorf("pinned by %v", pins)
		}
		p.want("still unknown", p.step([]string{"Q SELECT f()"}, answer), false)
		p.env.catalog = lb.NewCatalog([]lb.FunctionRow{
			{Name: "f", Volatile: true}, {Name: "later", Volatile: true, Opaque: !harmless},
		}, nil)
		p.want("known now", p.step([]string{"Q SELECT f()"}, answer), harmless)
	}
}
