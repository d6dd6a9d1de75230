package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// TestLeaseOfAnIdleSession: its connection is closed when the lease ends, its next
// statement is held until there is a lease again, and it has all that it had.
func TestLeaseOfAnIdleSession(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	ctx := t.Context()
	if _, err := conn.Exec(ctx, "SET application_name = 'mine'"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Prepare(ctx, "p", "INSERT INTO t VALUES ($1)"); err != nil {
		t.Fatal(err)
	}
	before := value(t, conn, "pg_backend_pid()")
	l.lease(50 * time.Millisecond)
	l.await("h1", ofClients("true"), "0")
	done := make(chan error)
	go func() {
		_, err := conn.Exec(ctx, "p", 1)
		done <- err
	}()
	l.held(1)
	if n := l.ask("h1", ofClients("true")); n != "0" {
		t.Errorf("%s connections without a lease", n)
	}
	l.lease(time.Hour)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if name, pid := value(t, conn, "current_setting('application_name')"), value(t, conn, "pg_backend_pid()"); name != "mine" || pid == before {
		t.Errorf("application_name %q, server process %s after %s", name, pid, before)
	}
	// A renewal disturbs nothing.
	pid := value(t, conn, "pg_backend_pid()")
	for range 20 {
		l.lease(time.Hour)
	}
	if now := value(t, conn, "pg_backend_pid()"); now != pid {
		t.Errorf("server process %s after %s", now, pid)
	}
}

// TestLeaseNobodyLookedAt: a session of a process that was paused does not hand its
// next statement to a primary of which the lease has run out meanwhile.
func TestLeaseNobodyLookedAt(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	l.lapse()
	done := make(chan error)
	go func() {
		_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1)")
		done <- err
	}()
	l.held(1)
	if n := l.ask("h1", "SELECT count(*)::text FROM t"); n != "0" {
		t.Error("a statement was run without a lease")
	}
	l.lease(time.Hour)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLeaseOfWhatRuns: an answer that is read without a lease is dropped, whatever the
// server has done.
func TestLeaseOfWhatRuns(t *testing.T) {
	for name, end := range map[string]func(*leased){
		"unnoticed": (*leased).lapse,
		"noticed":   func(l *leased) { l.lease(0) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLeased(t, 0, nil)
			conn := l.client()
			open := l.shut("h1")
			done := make(chan error)
			go func() {
				_, err := conn.Exec(t.Context(), "INSERT INTO t SELECT 1 FROM "+waits)
				done <- err
			}()
			l.await("h1", ofClients(waiting), "1")
			end(l)
			if name == "unnoticed" {
				open()
			}
			wantCode(t, <-done, "08007")
			if name == "unnoticed" {
				l.await("h1", "SELECT count(*)::text FROM t", "1")
			}
			l.lease(time.Hour)
			if got := value(t, l.client(), "1"); got != "1" {
				t.Error(got)
			}
		})
	}
}

// TestLeaseOfATransaction: it is lost, which is certain, for COMMIT was not sent.
func TestLeaseOfATransaction(t *testing.T) {
	l := newLeased(t, 0, nil)
	for name, end := range map[string]func(){"unnoticed": l.lapse, "noticed": func() { l.lease(0) }} {
		l.lease(time.Hour)
		conn := l.client()
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		end()
		err = tx.Commit(t.Context())
		if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code != "40001" || err == nil {
			t.Errorf("%s: error %v", name, err)
		}
		l.await("h1", ofClients("true"), "0")
		if n := l.ask("h1", "SELECT count(*)::text FROM t"); n != "0" {
			t.Errorf("%s: committed", name)
		}
	}
}

// TestLeaseOfACopy: nothing of it is handed over any more.
func TestLeaseOfACopy(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := conn.PgConn().CopyFrom(t.Context(), r, "COPY t FROM STDIN")
		done <- err
	}()
	if _, err := w.Write([]byte("1\n")); err != nil {
		t.Fatal(err)
	}
	l.await("h1", ofClients("query LIKE 'COPY%' AND wait_event = 'ClientRead'"), "1")
	l.lapse()
	go func() {
		_, err := w.Write([]byte("2\n"))
		w.CloseWithError(errors.Join(err, io.EOF))
	}()
	wantCode(t, <-done, "08007")
	l.await("h1", ofClients("true"), "0")
	if n := l.ask("h1", "SELECT count(*)::text FROM t"); n != "0" {
		t.Errorf("%s rows", n)
	}
}

// TestLeaseOfAPipeline: of several batches in flight none is answered any more.
func TestLeaseOfAPipeline(t *testing.T) {
	l := newLeased(t, 0, nil)
	open := l.shut("h1")
	p := l.client().PgConn().StartPipeline(t.Context())
	for _, sql := range []string{"INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 2 FROM " + waits, "INSERT INTO t VALUES (3)"} {
		p.SendQueryParams(sql, nil, nil, nil, nil)
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	l.await("h1", ofClients(waiting), "1")
	if r, err := p.GetResults(); err != nil {
		t.Fatal(err)
	} else if tag, err := r.(*pgconn.ResultReader).Close(); err != nil || tag.String() != "INSERT 0 1" {
		t.Errorf("the first one: %v, %v", tag, err)
	}
	l.lapse()
	open()
	err := error(nil)
	for err == nil {
		var r any
		r, err = p.GetResults()
		if rr, ok := r.(*pgconn.ResultReader); ok {
			if _, rerr := rr.Close(); rerr != nil {
				err = rerr
			}
		}
	}
	wantCode(t, err, "08007")
}

// TestLeaseOfALogin: nobody is logged in on the primary without a lease; who comes is
// held as long as the others.
func TestLeaseOfALogin(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Hold.Timeout = 200 * time.Millisecond })
	l.client() // its verifier is known now
	l.lease(0)
	l.await("h1", ofClients("true"), "0")
	_, err := pgx.Connect(t.Context(), appDSN(l.Server, ""))
	wantCode(t, err, "57P03")
	if n := l.ask("h1", ofClients("true")); n != "0" {
		t.Errorf("%s connections", n)
	}
}

// TestLeaseHoldTimeout: who was held for too long is told, and his session goes on.
func TestLeaseHoldTimeout(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Hold.Timeout = 200 * time.Millisecond })
	conn := l.client()
	l.lease(0)
	_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1)")
	wantCode(t, err, "57P03")
	l.lease(time.Hour)
	if got := value(t, conn, "SELECT count(*) FROM t"); got != "0" {
		t.Errorf("%s rows", got)
	}
}

// TestLeaseOfAReplicationClient: its stream ends with the lease.
func TestLeaseOfAReplicationClient(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) {
		cfg.Auth.HBAFile = writeFile(t, "host replication repl all scram-sha-256\nhost all all all scram-sha-256\n")
	})
	conn, err := pgconn.Connect(t.Context(), dsn(l.Addr(), pgtest.ReplUser, pgtest.Password(pgtest.ReplUser), "app", "replication=database"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	l.lapse()
	if rows, err := conn.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll(); err == nil {
		t.Errorf("answered without a lease: %v", rows)
	}
}

// TestLeaseReadsGoOn: standbys answer without a lease of the primary, also clients
// that come then.
func TestLeaseReadsGoOn(t *testing.T) {
	l := newLeased(t, 1, func(_ *Config, s *Server) {
		if s != nil {
			s.sessions.observed = func() map[string]cluster.Observation {
				return map[string]cluster.Observation{"h2": {Alive: true, Ready: true, Role: cluster.RoleStandby, Timeline: 1}}
			}
		}
	})
	conn := l.client()
	if got := value(t, conn, "SELECT count(*) FROM t"); got != "0" { // its home is somewhere now
		t.Error(got)
	}
	l.lease(0)
	l.await("h1", ofClients("true"), "0")
	for _, c := range []*pgx.Conn{conn, l.client()} {
		if got := value(t, c, "SELECT count(*) FROM t"); got != "0" {
			t.Error(got)
		}
	}
	if n := l.ask("h1", ofClients("true")); n != "0" {
		t.Errorf("%s connections to the primary", n)
	}
}

// TestLeasedConn: bytes that came while the lease was held are not given out after
// its end, and nothing is written.
func TestLeasedConn(t *testing.T) {
	server, client := tcpPair(t)
	st := newStage(testState("h:1"))
	tn := newTenure("h1", 1, st, st)
	conn, err := tn.guard(client)
	if err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	if _, err := server.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(conn, b[:5]); err != nil || string(b[:n]) != "first" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	if _, err := server.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	for quietSocket(conn) { // until it is in the buffer
	}
	st.lapse()
	if n, err := conn.Read(b[:]); n != 0 || !errors.Is(err, errNoLease) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if n, err := conn.Write([]byte("x")); n != 0 || !errors.Is(err, errNoLease) {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	if _, err := server.Read(b[:]); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) { // before the tenure ends
		t.Errorf("the server read: %v", err)
	}
	if err := writeAll(conn, [][]byte{{1}, {2}}); !errors.Is(err, errNoLease) {
		t.Errorf("wrote two pieces: %v", err)
	}
	st.lease(time.Hour)
	st.change(func(s *cluster.State) { s.Timeline++ })
	if _, err := conn.Write([]byte("x")); !errors.Is(err, errNoLease) {
		t.Errorf("wrote to the primary of another timeline: %v", err)
	}
	tn.end()
	if n, err := server.Read(b[:]); n != 0 || err == nil {
		t.Errorf("the server read %q, %v", b[:n], err)
	}
	_, late := tcpPair(t)
	if _, err := tn.guard(late); !errors.Is(err, errNoLease) {
		t.Errorf("a connection was added to a tenure that is over: %v", err)
	}
}

func tcpPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}
