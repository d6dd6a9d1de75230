package session

import (
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// FuzzCore feeds arbitrary bytes of the client and of the servers, in pieces of
// arbitrary size, in arbitrary order, and with connections lost in between. The
// core must neither panic nor stop making progress.
func FuzzCore(f *testing.F) {
	q := pgwire.AppendQuery(nil, "SELECT 1")
	begin := pgwire.AppendQuery(nil, "BEGIN READ ONLY")
	parse := pgwire.AppendSync(pgwire.AppendParse(nil, "s", "SELECT 1", nil))
	ready := pgwire.AppendReadyForQuery(nil, 'I')
	failed := append(pgwire.AppendError(nil, "ERROR", "25006", "text", "", ""), ready...)
	f.Add(q, ready, ready, []byte{0, 2, 9, 7})
	f.Add(append(begin, q...), ready, failed, []byte{0, 1, 5, 2, 9, 0, 6, 1})
	f.Add(append(parse, parse...), append([]byte{'1', 0, 0, 0, 4}, ready...), failed, []byte{3, 0, 5, 1, 5, 2, 5, 4})
	f.Fuzz(func(t *testing.T, client, primary, standby, order []byte) {
		p := newPlay(t)
		p.env.choose = "h2"
		p.core.Attach(Primary, Attachment{Backend: "h1", ID: 1, Fresh: true})
		for _, o := range order {
			size := int(o>>3) + 1
			switch o & 7 {
			case 0, 3:
				n := min(size*4, len(client))
				p.unread = append(p.unread, client[:n]...)
				client = client[n:]
			case 1:
				n := min(size*2, len(primary))
				p.server(Primary, primary[:n])
				primary = primary[n:]
			case 2:
				n := min(size*2, len(standby))
				p.server(Standby, standby[:n])
				standby = standby[n:]
			case 4:
				p.core.ServerClosed(Standby)
			case 5:
				if slot, backend := p.core.Wanted(); slot != None {
					p.core.Attach(slot, Attachment{Backend: backend, ID: uint64(o), Fresh: o&8 == 0})
				}
			case 6:
				if slot, _ := p.core.Wanted(); slot != None {
					p.core.AttachFailed(slot, ownError("57P03", "no server"))
				}
			case 7:
				p.env.mark++
				p.core.StopWaiting()
			}
			p.take(nil)
			p.client()
			_ = p.core.Detached()
			for _, slot := range []Slot{Primary, Standby} {
				if s := &p.core.server[slot]; s.live < 0 || s.live > s.pending() {
					t.Fatalf("%v: %d of %d answers are the client's", slot, s.live, s.pending())
				}
			}
			if len(p.core.sent.buf) > 2*maxLook {
				t.Fatalf("%d bytes are kept for the primary", len(p.core.sent.buf))
			}
			if p.core.Closed() {
				return
			}
		}
		p.core.ClientGone()
	})
}
