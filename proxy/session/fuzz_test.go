package session

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// FuzzCore feeds arbitrary bytes of the client and of the servers, in pieces of
// arbitrary size, in arbitrary order, and with connections lost in between. The
// core must neither panic nor stop making progress, and do the same whether it is given
// the messages of a piece at once or one by one.
func FuzzCore(f *testing.F) {
	q := pgwire.AppendQuery(nil, "SELECT 1")
	begin := pgwire.AppendQuery(nil, "BEGIN READ ONLY")
	parse := pgwire.AppendSync(pgwire.AppendParse(nil, "s", "SELECT 1", nil))
	ready := pgwire.AppendReadyForQuery(nil, 'I')
	failed := append(pgwire.AppendError(nil, "ERROR", "25006", "text", "", ""), ready...)
	rows := exchangeOf(f, []string{"Q SELECT 1", "Q SELECT 2"}, []string{"T", "D a", "D b", "D c", "C SELECT 3", "Z I", "d a", "d b"})
	copies := exchangeOf(f, []string{"Q COPY t FROM STDIN", "d a", "d b", "d c", "c", "d d"}, []string{"G", "C COPY 3", "Z I"})
	f.Add(q, ready, ready, []byte{0, 2, 9, 7})
	f.Add(append(begin, q...), ready, failed, []byte{0, 1, 5, 2, 9, 0, 6, 1})
	f.Add(append(parse, parse...), append([]byte{'1', 0, 0, 0, 4}, ready...), failed, []byte{3, 0, 5, 1, 5, 2, 5, 4})
	f.Add(rows.client, rows.server, rows.server, []byte{128, 5, 250, 250})
	f.Add(copies.client, copies.server, copies.server, []byte{64, 17, 250, 250})
	f.Fuzz(func(t *testing.T, client, primary, standby, order []byte) {
		order = order[:min(len(order), 200)]
		compareFeeds(t, false, client, primary, standby, order)
		compareFeeds(t, true, client, primary, standby, order)
	})
}

// TestFeeds does so with messages that may come one behind the other.
func TestFeeds(t *testing.T) {
	fromClient := []string{
		"Q SELECT 1 FROM t", "Q INSERT INTO t VALUES (1)", "Q COPY t FROM STDIN", "P - SELECT 1 FROM t", "B - -", "E -", "S", "H",
		"d data", "d more", "d", "c", "f",
	}
	fromServer := []string{"1", "2", "T", "D row", "D", "D longer row", "d data", "d", "G", "H", "C SELECT 1", "Z I", "Z T", "E 0A000", "c"}
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 2))
		stream := func(words []string, encode func(testing.TB, string) []byte) (b []byte) {
			for range r.IntN(30) {
				word := words[r.IntN(len(words))]
				for range 1 + r.IntN(3) {
					b = append(b, encode(t, word)...)
				}
			}
			return b
		}
		order := make([]byte, 40)
		for i := range order {
			order[i] = byte(r.IntN(32)<<3 + r.IntN(6)) // nothing fails
		}
		compareFeeds(t, seed%2 == 1, stream(fromClient, clientMessage), stream(fromServer, serverMessage), stream(fromServer, serverMessage), order)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// compareFeeds gives two sessions the same in the same order, one of them message by
// message, and holds what they do against each other.
func compareFeeds(t *testing.T, pooled bool, client, primary, standby, order []byte) {
	t.Helper()
	fed := [2]*feed{}
	for i := range fed {
		fed[i] = &feed{play: newPlay(t), client: client, server: [...][]byte{Primary: primary, Standby: standby}}
		fed[i].env.choose = "h2"
		if pooled {
			fed[i].core.Share(NewStatements(), 2)
			continue
		}
		fed[i].core.Attach(Primary, Attachment{Backend: "h1", ID: 1, Fresh: true})
	}
	fed[1].singly = true
	for i, o := range order {
		a, b := fed[0].step(t, o), fed[1].step(t, o)
		if a != b {
			t.Fatalf("event %d of %v, with the messages at once:\n%s\none by one:\n%s", i, order, a, b)
		}
		if fed[0].core.Closed() {
			return
		}
	}
	fed[0].core.ClientGone()
}

// wantNothing wants what stands for nothing unchanged.
func wantNothing(t *testing.T) {
	t.Helper()
	if !reflect.DeepEqual(noServer, &server{}) || !reflect.DeepEqual(noRare, &rare{}) {
		t.Fatalf("something was noted of nothing: %+v, %+v", noServer, noRare)
	}
}

// feed is a session with what its peers are still going to say.
type feed struct {
	*play
	client []byte
	server [Standby + 1][]byte
}

// step lets one event happen, and tells what came of it.
func (f *feed) step(t *testing.T, o byte) string {
	size := int(o>>3) + 1
	slot := None
	switch o & 7 {
	case 0, 3:
		n := min(size*4, len(f.client))
		f.unread = append(f.unread, f.client[:n]...)
		f.client = f.client[n:]
	case 1:
		slot = Primary
	case 2:
		slot = Standby
	case 4:
		f.core.ServerClosed(Standby)
	case 5:
		if slot, backend := f.core.Wanted(); slot != None {
			f.core.Attach(slot, Attachment{Backend: backend, ID: uint64(o), Fresh: o&8 == 0})
		}
	case 6:
		if slot, _ := f.core.Wanted(); slot != None {
			f.core.AttachFailed(slot, ownError("57P03", "no server"))
		}
	case 7:
		f.env.mark++
		f.core.StopWaiting()
	}
	if slot != None {
		n := min(size*2, len(f.server[slot]))
		if f.core.server[slot].ready {
			f.play.server(slot, f.server[slot][:n])
		}
		f.server[slot] = f.server[slot][n:]
	}
	f.take(nil)
	f.play.client()
	f.env.events = slices.Compact(f.env.events) // who is asked more often asks for a sample more often
	return f.report() + f.inside(t)
}

// inside tells what a session remembers of what it was given.
func (f *feed) inside(t *testing.T) string {
	c := f.core
	for _, slot := range []Slot{Primary, Standby} {
		if s := c.server[slot]; s.live < 0 || s.live > s.pending() {
			t.Fatalf("%v: %d of %d answers are the client's", slot, s.live, s.pending())
		}
	}
	wantNothing(t)
	if len(c.sent.buf) > 2*maxLook {
		t.Fatalf("%d bytes are kept for the primary", len(c.sent.buf))
	}
	if c.garbled {
		return "" // what is no message is taken as it comes
	}
	return fmt.Sprintf("%d held, sent %x %d rows %t failed %t partial %t %d %d, again %x %v %t, read only %v",
		c.heldLen, hash(c.sent.buf), len(c.sent.messages), c.sent.rows, c.sent.failed, c.sent.partial, c.sent.forwarded, c.sent.skip,
		hash(c.again.buf), c.again.slot, c.again.ended, c.readOnly)
}
