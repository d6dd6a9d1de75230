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

// TestNamedClientsShareStatements: the application_name that a session gives to its
// connections says nothing about what its statements mean.
func TestNamedClientsShareStatements(t *testing.T) {
	p := newPlay(t)
	p.core.Name("app")
	p.core.Share(NewStatements(), 10)
	p.core.Attach(Primary, Attachment{Backend: "h1", ID: 1, Fresh: true, Name: "app"})
	p.unread = append(clientMessage(t, "P s INSERT INTO t VALUES (1)"), clientMessage(t, "S")...)
	p.client()
	p.server(Primary, append(serverMessage(t, "1"), serverMessage(t, "Z I")...))
	gone := p.core.Detached()
	if len(gone) != 1 || !gone[0].Clean || len(gone[0].Carried.names) != 1 {
		t.Fatalf("given back %+v, want a connection with the statement", gone)
	}
}
