package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/loop"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// TestAnswersOfOurOwnAreBounded: a client whose transaction is lost is answered by pgproxy
// alone. When it sends on and does not read, it is not read either, until it does.
func TestAnswersOfOurOwnAreBounded(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Listen.Driver = DriverEpoll })
	client := l.client()
	if _, err := client.PgConn().Exec(t.Context(), "BEGIN; INSERT INTO t VALUES (1)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	l.lapse()
	_, err := client.PgConn().Exec(t.Context(), "SELECT 1").ReadAll()
	wantCode(t, err, "40001")
	conn := hijack(t, client)

	var stop atomic.Bool
	sent := make(chan int, 1)
	go func() {
		n := 0
		for batch := bytes.Repeat(pgwire.AppendQuery(nil, "x"), 1000); !stop.Load(); n += 1000 {
			if _, err := conn.Write(batch); err != nil {
				t.Error(err)
				break
			}
		}
		_, _ = conn.Write(pgwire.AppendEmpty(nil, pgwire.Terminate))
		sent <- n
	}()
	cs := firstSession(l.sessions)
	for held, queued := false, 0; !held; {
		<-time.After(time.Millisecond)
		cs.mu.Lock()
		held, queued = cs.mover.(*events).held, len(cs.mu.client.queue)
		cs.mu.Unlock()
		if queued > 16<<20 {
			t.Errorf("%d bytes wait for the client", queued)
			break
		}
	}
	stop.Store(true)
	answers, answered := 0, bufio.NewReader(conn)
	for buf := []byte(nil); ; {
		typ, _, err := readMessage(answered, &buf, 1<<20)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if typ == pgwire.ReadyForQuery {
			answers++
		}
	}
	if n := <-sent; answers != n {
		t.Errorf("%d answers for %d queries", answers, n)
	}
}

// TestServerOfASlowClientWaits: while a client does not read, no more is read from its
// server than one turn; all of it arrives when the client reads.
func TestServerOfASlowClientWaits(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Listen.Driver = DriverEpoll })
	conn := hijack(t, l.client())
	send(t, conn, pgwire.AppendQuery(nil, "SELECT repeat('x', 10000) FROM generate_series(1, 5000)"))
	cs := firstSession(l.sessions)
	for stalled := false; !stalled; {
		<-time.After(time.Millisecond)
		cs.mu.Lock()
		if sv := cs.mu.servers[session.Primary]; sv != nil {
			stalled = sv.stalled
		}
		queued := len(cs.mu.client.queue)
		cs.mu.Unlock()
		if queued > 2*loop.BufferLen {
			t.Fatalf("%d bytes wait for the client", queued)
		}
	}
	rows := 0
	for typ := byte(0); typ != pgwire.ReadyForQuery; {
		if typ, _ = readOne(t, conn); typ == pgwire.DataRow {
			rows++
		}
	}
	if rows != 5000 {
		t.Errorf("%d rows", rows)
	}
}

// TestSocketWithoutLease: nothing is written to a primary without a lease, and the
// connection is closed, so that who waits for its answer learns that none comes.
func TestSocketWithoutLease(t *testing.T) {
	server, client := tcpPair(t)
	st := newStage(testState("h:1"))
	tn := newTenure("h1", 1, st, st)
	guarded, err := tn.guard(client)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newSocket(runLoop(t), guarded, tn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := k.Write([]byte("first")); n != 5 || err != nil {
		t.Fatalf("wrote %d bytes, %v", n, err)
	}
	st.lapse()
	if n, err := k.Write([]byte("second")); n != 0 || !errors.Is(err, errNoLease) {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	st.lease(time.Hour)
	if got, err := io.ReadAll(server); string(got) != "first" || err != nil {
		t.Errorf("the server read %q, %v", got, err)
	}
	if n := len(tn.mu.conns); n != 0 {
		t.Errorf("%d connections of the tenure", n)
	}
}

// firstSession waits for the session of a client that has been greeted, which is just
// before it can be seen.
func firstSession(sh *sessions) *clientSession {
	for {
		if all := sh.all(); len(all) > 0 {
			return all[0]
		}
		<-time.After(time.Millisecond)
	}
}
