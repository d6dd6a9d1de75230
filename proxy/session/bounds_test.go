package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// sharing plays a session in transaction mode. Each step sends messages of the client,
// gives it a connection to the primary if it wants one, and answers from there.
type sharing struct {
	*play
	t *testing.T
}

func newSharing(t *testing.T) *sharing {
	t.Helper()
	p := newPlay(t)
	p.core.Share(NewStatements(), 1000)
	return &sharing{p, t}
}

// step returns whether the connection was given back at the end.
func (p *sharing) step(client, answers []string) (gaveBack bool) {
	p.t.Helper()
	var sent []byte
	for _, line := range client {
		sent = append(sent, clientMessage(p.t, line)...)
	}
	for len(sent) > 0 { // as much at once as a driver has place for
		n := min(len(sent), MinBuffer-len(p.unread))
		p.unread, sent = append(p.unread, sent[:n]...), sent[n:]
		p.client()
		if slot, _ := p.core.Wanted(); slot == Primary {
			p.ids++
			p.core.Attach(Primary, Attachment{Backend: "h1", ID: p.ids, Fresh: true})
			p.take(nil)
			p.client()
		}
	}
	for _, a := range answers {
		p.server(Primary, serverMessage(p.t, a))
	}
	p.client()
	for {
		for _, d := range p.core.Detached() {
			gaveBack = gaveBack || d.Slot == Primary
		}
		owed := p.core.server[Primary].next()
		switch {
		case owed == nil || !owed.inject:
			return gaveBack
		case owed.kind == pgwire.Close:
			p.server(Primary, serverMessage(p.t, "3"))
		default:
			p.server(Primary, serverMessage(p.t, "Z I"))
		}
	}
}

func (p *sharing) want(what string, got, want bool) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("%s: given back %v, want %v", what, got, want)
	}
}

// TestUnkeptStatementBinds: what cannot be made again keeps the session where it is.
func TestUnkeptStatementBinds(t *testing.T) {
	large := "INSERT INTO t VALUES (" + strings.Repeat("1,", maxLook) + "1)"
	for _, name := range []string{"s", "-"} {
		p := newSharing(t)
		parsed := []string{"1", "Z I"}
		p.want("small", p.step([]string{"P " + name + " INSERT INTO t VALUES (1)", "S"}, parsed), true)
		if name == "s" {
			p.want("closed", p.step([]string{"C S s", "S"}, []string{"3", "Z I"}), true)
		}
		p.want("large", p.step([]string{"P " + name + " " + large, "S"}, parsed), false)
		p.want("another one", p.step([]string{"P other INSERT INTO t VALUES (2)", "S"}, []string{"1", "Z I"}), false)
		if name == "s" {
			p.want("closed", p.step([]string{"C S s", "S"}, []string{"3", "Z I"}), true)
		} else {
			p.want("replaced", p.step([]string{"P - INSERT INTO t VALUES (1)", "S"}, parsed), true)
		}
		if n := &p.core.names; n.unkept != 0 {
			t.Errorf("%d unkept statements are left", n.unkept)
		}
	}
}

// TestKeptIsBounded prepares more than is kept.
func TestKeptIsBounded(t *testing.T) {
	padding := strings.Repeat("x", 32<<10)
	for _, sql := range []bool{false, true} {
		p := newSharing(t)
		n := &p.core.names
		for i := range 2 * maxKept / len(padding) {
			if sql {
				p.step([]string{fmt.Sprintf("Q PREPARE s%d AS INSERT INTO t VALUES ('%s')", i, padding)}, []string{"C PREPARE", "Z I"})
			} else {
				p.step([]string{fmt.Sprintf("P s%d INSERT INTO t VALUES ('%s')", i, padding), "S"}, []string{"1", "Z I"})
			}
			if n.kept > maxKept {
				t.Fatalf("%d bytes are kept", n.kept)
			}
		}
		if n.kept < maxKept/2 || n.unkept == 0 {
			t.Errorf("%d bytes are kept, %d statements are not", n.kept, n.unkept)
		}
		n.clear()
		if n.kept != 0 || n.unkept != 0 {
			t.Errorf("%d bytes are kept, %d statements are not, of none", n.kept, n.unkept)
		}
	}
}

// TestSettingsAreBounded sets more in one transaction than is kept.
func TestSettingsAreBounded(t *testing.T) {
	value := strings.Repeat("x", maxSettings/4)
	p := newSharing(t)
	done := []string{"C SET", "Z I"}
	p.want("one", p.step([]string{"Q SET search_path = '" + value + "'"}, done), true)
	p.want("begin", p.step([]string{"Q BEGIN"}, []string{"C BEGIN", "Z T"}), false)
	for i := range 10 {
		p.step([]string{fmt.Sprintf("Q SET search_path = '%d%s'", i, value)}, []string{"C SET", "Z T"})
		if n := len(p.core.settings.unsettled); n > 3 {
			t.Fatalf("%d settings are kept", n)
		}
	}
	p.want("commit", p.step([]string{"Q COMMIT"}, []string{"C COMMIT", "Z I"}), false)
	if l := p.core.Leftovers(Primary); l.Reusable {
		t.Error("the next session gets settings of which nobody knows")
	}
}
