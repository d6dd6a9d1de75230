package robustness

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestPrimaryHangs freezes the primary: its host accepts connections and answers
// nothing. Nobody else could serve its sessions: they wait, reads on the standby go
// on, and all is as it was when it wakes up.
func TestPrimaryHangs(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{})
	before := r.usage(t)
	must(t, r.cluster.Primary().Exec(t.Context(), "app", "CREATE TABLE t (v text); ALTER TABLE t OWNER TO app"))
	must(t, r.cluster.WaitForCatchup(t.Context()))
	asking, copying, reading := r.wire(t), r.wire(t), r.standbyWire(t)
	copying.query("COPY t FROM STDIN")
	copying.expect(pgwire.CopyInResponse)
	must(t, r.cluster.Primary().Pause())
	asking.query("SELECT txid_current() > 0")
	const rows, size = 2000, 8000
	written := make(chan error, 1)
	go func() { // more than the sockets take: pgproxy is stuck in writing to the server
		var err error
		line := pgwire.AppendMessage(nil, pgwire.CopyData, append(bytes.Repeat([]byte("y"), size), '\n'))
		for i := 0; i < rows && err == nil; i++ {
			_, err = copying.Write(line)
		}
		written <- err
	}()
	for range times {
		reading.value("/* pgproxy: standby */ SELECT count(*) FROM generate_series(1, 10)")
	}
	must(t, r.cluster.Primary().Continue())
	asking.expect(pgwire.DataRow)
	asking.expect(pgwire.ReadyForQuery)
	must(t, <-written)
	copying.send(pgwire.AppendEmpty(nil, pgwire.CopyDone))
	copying.expect(pgwire.ReadyForQuery)
	if got := copying.value("SELECT sum(length(v)) FROM t"); got != fmt.Sprint(rows*size) {
		t.Errorf("%s bytes were copied, want %d", got, rows*size)
	}
	for _, w := range []*wire{asking, copying, reading} {
		must(t, w.Close())
	}
	r.settled(t, before)
}

// TestStopWhileServerHangs stops pgproxy when it cannot write to a server and cannot
// know yet that this one hangs.
func TestStopWhileServerHangs(t *testing.T) {
	r := startRig(t, 1, proxytest.Options{
		Listen: listenDrain + "100ms",
		Health: "interval: 2s, timeout: 30s, retries: 5",
	})
	w := r.wire(t)
	w.exec("CREATE TEMP TABLE t (v text)")
	w.query("COPY t FROM STDIN")
	w.expect(pgwire.CopyInResponse)
	must(t, r.cluster.Primary().Pause())
	written, stuck := make(chan error, 1), make(chan bool, 1)
	go func() {
		var err error
		line := pgwire.AppendMessage(nil, pgwire.CopyData, make([]byte, 8000))
		for n := 0; err == nil; n += len(line) {
			if n > 2*megabyte && len(stuck) == 0 {
				stuck <- true
			}
			_, err = w.Write(line)
		}
		written <- err
	}()
	<-stuck
	r.proxy.Terminate(t)
	<-written
	w.ends()
	must(t, r.proxy.Wait(t.Context()))
	must(t, r.cluster.Primary().Continue())
}
