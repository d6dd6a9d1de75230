package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// stage is the Cluster and the Lease of a Server under test.
type stage struct {
	mu struct {
		sync.Mutex
		state   *cluster.State
		until   time.Time
		changed chan struct{} // closed and replaced
	}
	nudged chan struct{} // of capacity 1
}

func newStage(state cluster.State) *stage {
	st := &stage{nudged: make(chan struct{}, 1)}
	st.mu.state, st.mu.changed = &state, make(chan struct{})
	st.mu.until = time.Now().Add(time.Hour)
	return st
}

func (st *stage) State() *cluster.State {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.mu.state
}

func (st *stage) Changed() <-chan struct{} {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.mu.changed
}

func (st *stage) Until(backend string) time.Time {
	st.mu.Lock()
	defer st.mu.Unlock()
	if backend != st.mu.state.Primary {
		return time.Time{}
	}
	return st.mu.until
}

func (st *stage) nudge() {
	select {
	case st.nudged <- struct{}{}:
	default:
	}
}

// lease makes the lease end in that time, and says so.
func (st *stage) lease(d time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.mu.until = time.Now().Add(d)
	close(st.mu.changed)
	st.mu.changed = make(chan struct{})
}

// lapse makes the lease one that has run out, and nobody looks at the clock by
// himself: so it is for a process that was paused.
func (st *stage) lapse() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.mu.until = time.Now().Add(-time.Second)
}

// change makes the next State.
func (st *stage) change(f func(s *cluster.State)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	next := *st.mu.state
	next.Backends = slices.Clone(next.Backends)
	next.Epoch++
	f(&next)
	st.mu.state = &next
	close(st.mu.changed)
	st.mu.changed = make(chan struct{})
}

// begin begins an operation in that phase, or takes it on.
func (st *stage) begin(id uint64, kind cluster.OperationKind, phase cluster.Phase) {
	st.change(func(s *cluster.State) {
		old := s.Primary
		if s.Operation != nil {
			old = s.Operation.Old
		}
		s.Operation = &cluster.Operation{ID: id, Kind: kind, Phase: phase, Old: old}
		if phase != cluster.PhaseDrain {
			s.Primary = ""
			s.Backend(old).Role = cluster.RoleUnknown
		}
	})
}

// adopt ends the operation with that primary.
func (st *stage) adopt(name string, timeline uint32) {
	st.change(func(s *cluster.State) {
		s.Operation, s.Primary, s.Timeline = nil, name, timeline
		s.Backend(name).Role = cluster.RolePrimary
	})
}

// leased is a Server in front of a real cluster, with a lease.
type leased struct {
	*Server
	*stage
	t  *testing.T
	pg *pgtest.Cluster
}

func newLeased(t *testing.T, standbys int, change func(*Config, *Server)) *leased {
	t.Helper()
	pg := pgtest.StartCluster(t, pgtest.Options{Standbys: standbys})
	var addresses []string
	for _, s := range pg.Servers {
		addresses = append(addresses, s.Address())
	}
	l := &leased{stage: newStage(testState(addresses...)), t: t, pg: pg}
	l.exec("h1", "postgres", lookupSQL)
	l.exec("h1", pgtest.AppDatabase, "CREATE TABLE t (n int PRIMARY KEY); ALTER TABLE t OWNER TO app")
	cfg := testConfig(t)
	cfg.Auth.HBAFile = ""
	cfg.Monitor = MonitorConfig{User: pgtest.MonitorUser, Database: "postgres"}
	cfg.Hold.Timeout = 10 * time.Second
	if change != nil {
		change(&cfg, nil)
	}
	deps := Deps{
		MonitorPassword: pgtest.Password(pgtest.MonitorUser),
		Sampler:         noSampler{},
		HealthStats:     func(string) HealthStats { return HealthStats{} },
		Lease:           l.stage,
		Nudge:           l.nudge,
	}
	l.Server = serveTest(t, cfg, l.stage, deps, func(s *Server) {
		s.handle = s.serveSession
		s.sessions.retry = time.Hour // what is held goes on when something happens, not because it asks
		if change != nil {
			change(&cfg, s)
		}
		var err error
		if s.auth, err = newAuthenticator(cfg.Auth, s.store, nil); err != nil {
			t.Fatal(err)
		}
	})
	return l
}

func (l *leased) exec(server, database, sql string) {
	l.t.Helper()
	if err := l.pg.Server(server).Exec(l.t.Context(), database, sql); err != nil {
		l.t.Fatal(err)
	}
}

// ask asks a server itself.
func (l *leased) ask(server, sql string) string {
	l.t.Helper()
	got, err := l.pg.Server(server).QueryValue(l.t.Context(), pgtest.AppDatabase, sql)
	if err != nil {
		l.t.Fatal(err)
	}
	return got
}

// await asks a server itself until it says so.
func (l *leased) await(server, sql, want string) {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		got := l.ask(server, sql)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: %s is %s, want %s", server, sql, got, want)
		}
	}
}

// awaitNudge waits until that is so, looking when the Server says that something is.
func (l *leased) awaitNudge(what string, so func() bool) {
	l.t.Helper()
	late := time.After(10 * time.Second)
	for !so() {
		select {
		case <-l.nudged:
		case <-late:
			l.t.Fatalf("not %s", what)
		}
	}
}

func (l *leased) client() *pgx.Conn { return connect(l.t, appDSN(l.Server, "")) }

// ofClients counts what clients have on a server; more is a condition.
func ofClients(more string) string {
	return "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'app' AND " + more
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != code {
		t.Errorf("error %v, want SQLSTATE %s", err, code)
	}
}

// held waits until so many sessions wait for a primary.
func (l *leased) held(n int) {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		held := 0
		for _, s := range l.Sessions() {
			if s.State == "held" {
				held++
			}
		}
		if held == n {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%d sessions are held, want %d", held, n)
		}
	}
}

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
	for name, tc := range map[string]struct {
		sql  string
		code string
		end  func(*leased)
	}{
		"unnoticed": {"INSERT INTO t SELECT 1 FROM pg_sleep(0.5)", "08007", (*leased).lapse},
		"noticed":   {"INSERT INTO t SELECT 1 FROM pg_sleep(600)", "08007", func(l *leased) { l.lease(0) }},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLeased(t, 0, nil)
			conn := l.client()
			done := make(chan error)
			go func() {
				_, err := conn.Exec(t.Context(), tc.sql)
				done <- err
			}()
			l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")
			tc.end(l)
			wantCode(t, <-done, tc.code)
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
	p := l.client().PgConn().StartPipeline(t.Context())
	for _, sql := range []string{"INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 2 FROM pg_sleep(0.5)", "INSERT INTO t VALUES (3)"} {
		p.SendQueryParams(sql, nil, nil, nil, nil)
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")
	if r, err := p.GetResults(); err != nil {
		t.Fatal(err)
	} else if tag, err := r.(*pgconn.ResultReader).Close(); err != nil || tag.String() != "INSERT 0 1" {
		t.Errorf("the first one: %v, %v", tag, err)
	}
	l.lapse()
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

// watchedConn fails the test when bytes go out whose writing began while that was
// forbidden. That Close waits for those under way is a property of internal/poll.
type watchedConn struct {
	net.Conn
	forbidden *atomic.Bool
	writes    *atomic.Int64
	bad       func()
}

func (c *watchedConn) Write(b []byte) (int, error) {
	late := c.forbidden.Load()
	n, err := c.Conn.Write(b)
	if late && n > 0 {
		c.bad()
	}
	c.writes.Add(1)
	return n, err
}

// TestBarrierOrder: once a barrier is acknowledged, no byte goes to the old primary,
// with sessions, logins, cleanings, COPY and replies under way, with and without TLS.
func TestBarrierOrder(t *testing.T) {
	for _, mode := range []SSLMode{SSLDisable, SSLRequire} {
		t.Run(string(mode), func(t *testing.T) { testBarrierOrder(t, mode) })
	}
}

func testBarrierOrder(t *testing.T, mode SSLMode) {
	var forbidden atomic.Bool
	var writes atomic.Int64
	l := newLeased(t, 0, func(cfg *Config, s *Server) {
		cfg.BackendTLS.Mode = mode
		cfg.Auth.Cache = time.Millisecond // so that the auth query runs, too
		if s != nil {
			s.dialer.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &watchedConn{conn, &forbidden, &writes, func() {
					t.Error("a write to the old primary after the barrier")
				}}, nil
			}
		}
	})
	if mode == SSLRequire {
		enableTLS(t, l.pg.Primary(), newAuthority(t), "127.0.0.1")
	}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for i := range 8 {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				conn, err := pgx.Connect(ctx, appDSN(l.Server, ""))
				if err != nil {
					continue
				}
				for range 1 + n%20 {
					if _, err = conn.Exec(ctx, fmt.Sprintf("INSERT INTO t VALUES (%d) ON CONFLICT DO NOTHING", n)); err != nil {
						break
					}
					if i%2 == 0 {
						if _, err = conn.Exec(ctx, "SET application_name = 'x'"); err != nil { // so that it is cleaned
							break
						}
					}
				}
				conn.Close(context.WithoutCancel(ctx))
			}
		})
	}
	for round := range uint64(15) {
		for begin, late := writes.Load(), time.Now().Add(20*time.Second); writes.Load() < begin+200; {
			if time.Now().After(late) {
				t.Fatal("the clients do not get on")
			}
			<-time.After(time.Millisecond)
		}
		id := round + 10
		l.begin(id, cluster.Failover, cluster.PhaseBarrier)
		l.awaitNudge("barred", func() bool { return l.Barred() == id })
		forbidden.Store(true)
		<-time.After(20 * time.Millisecond) // for those that would write
		forbidden.Store(false)
		l.adopt("h1", uint32(round)+2)
	}
}

// TestDrain: what runs ends, what comes is held, and runs on the new primary as soon
// as there is one.
func TestDrain(t *testing.T) {
	l := newLeased(t, 1, func(cfg *Config, _ *Server) { cfg.Balance.Mode = "off" })
	ctx := t.Context()
	running, idle, working := l.client(), l.client(), l.client()
	tx, err := running.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Exec(ctx, "SET application_name = 'idle'"); err != nil {
		t.Fatal(err)
	}
	worked := make(chan error, 1)
	go func() {
		_, err := working.Exec(ctx, "INSERT INTO t SELECT 1 FROM pg_sleep(0.5)")
		worked <- err
	}()
	l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")

	l.begin(7, cluster.Switchover, cluster.PhaseDrain)
	held := make(chan error, 2)
	go func() {
		_, err := idle.Exec(ctx, "INSERT INTO t VALUES (2)")
		held <- err
	}()
	go func() {
		conn, err := pgx.Connect(ctx, appDSN(l.Server, ""))
		if err == nil {
			_, err = conn.Exec(ctx, "INSERT INTO t VALUES (3)")
			err = errors.Join(err, conn.Close(ctx))
		}
		held <- err
	}()
	if err := <-worked; err != nil {
		t.Errorf("the statement that ran: %v", err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO t VALUES (4)"); err != nil {
		t.Errorf("the transaction that was open: %v", err)
	}
	if l.Drained() != 0 {
		t.Error("drained while a transaction is open")
	}
	if err := tx.Commit(ctx); err != nil {
		t.Errorf("the transaction that was open: %v", err)
	}
	l.awaitNudge("drained", func() bool { return l.Drained() == 7 })
	l.held(1)
	if got := l.ask("h1", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"); got != "1 4" {
		t.Errorf("rows %s", got)
	}

	if err := l.pg.WaitForCatchup(ctx); err != nil {
		t.Fatal(err)
	}
	l.begin(7, cluster.Switchover, cluster.PhaseBarrier)
	l.awaitNudge("barred", func() bool { return l.Barred() == 7 })
	l.await("h1", ofClients("true"), "0")
	if err := l.pg.Promote(ctx, "h2"); err != nil {
		t.Fatal(err)
	}
	l.adopt("h2", 2)
	for range 2 {
		if err := <-held; err != nil {
			t.Errorf("a statement that was held: %v", err)
		}
	}
	l.await("h2", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t", "1 2 3 4")
	if got := value(t, idle, "current_setting('application_name')"); got != "idle" {
		t.Errorf("application_name %q", got)
	}
}

// TestDrainIsGivenUp: what was held goes on on the same primary.
func TestDrainIsGivenUp(t *testing.T) {
	l := newLeased(t, 0, nil)
	ctx := t.Context()
	plain, bound := l.client(), l.client()
	if _, err := bound.Exec(ctx, "CREATE TEMP TABLE x (n int)"); err != nil {
		t.Fatal(err)
	}
	l.begin(7, cluster.Switchover, cluster.PhaseDrain)
	l.awaitNudge("drained", func() bool { return l.Drained() == 7 })
	done := make(chan error, 2)
	for _, q := range []struct {
		conn *pgx.Conn
		sql  string
	}{{plain, "INSERT INTO t VALUES (1)"}, {bound, "INSERT INTO x VALUES (1)"}} {
		go func() {
			_, err := q.conn.Exec(ctx, q.sql)
			done <- err
		}()
	}
	l.held(1)
	select {
	case err := <-done:
		t.Errorf("not held: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l.change(func(s *cluster.State) { s.Operation = nil })
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if l.Barred() != 0 {
		t.Errorf("barred for %d", l.Barred())
	}
}

// TestBarrierFreesHungConnections: a primary that hangs, with connections that are
// full, keeps nobody waiting.
func TestBarrierFreesHungConnections(t *testing.T) {
	l := newLeased(t, 0, nil)
	idle, writing := l.client(), l.client()
	primary := l.pg.Primary()
	if err := primary.Pause(); err != nil {
		t.Fatal(err)
	}
	resume := sync.OnceFunc(func() {
		if err := primary.Continue(); err != nil {
			t.Error(err)
		}
	})
	defer resume()
	done := make(chan error, 2)
	go func() {
		_, err := idle.Exec(t.Context(), "INSERT INTO t VALUES (1)")
		done <- err
	}()
	go func() {
		_, err := writing.PgConn().CopyFrom(t.Context(), endlessRows{}, "COPY t FROM STDIN")
		done <- err
	}()
	login := make(chan error, 1)
	go func() {
		conn, err := pgx.Connect(t.Context(), appDSN(l.Server, "application_name=new"))
		if err == nil {
			err = conn.Close(t.Context())
		}
		login <- err
	}()
	for busy := 0; busy < 2; {
		busy = 0
		for _, s := range l.Sessions() {
			if s.State == "active" {
				busy++
			}
		}
	}
	began := time.Now()
	l.begin(3, cluster.Failover, cluster.PhaseBarrier)
	l.awaitNudge("barred", func() bool { return l.Barred() == 3 })
	for range 2 {
		wantCode(t, <-done, "08007")
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	resume()
	l.adopt("h1", 1)
	if err := <-login; err != nil {
		t.Error(err)
	}
}

// endlessRows is input for COPY.
type endlessRows struct{}

func (endlessRows) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = "1\n"[i%2]
	}
	return len(b) &^ 1, nil
}

func TestOperatorsView(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	if got := value(t, conn, "1"); got != "1" { // now it is listed
		t.Error(got)
	}
	all := l.Sessions()
	if len(all) != 1 || all[0].User != "app" || all[0].Database != "app" || all[0].State != "idle" ||
		!slices.Equal(all[0].Backends, []string{"h1"}) || all[0].Client == "" || all[0].Began.IsZero() {
		t.Errorf("%+v", all)
	}
	if p := l.Pools(); len(p) != 1 || p[0] != (PoolInfo{Backend: "h1", Database: "app", User: "app", Used: 1}) {
		t.Errorf("%+v", p)
	}
	done := make(chan error)
	go func() {
		_, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)")
		done <- err
	}()
	l.await("h1", ofClients("wait_event = 'PgSleep'"), "1")
	if err := l.Kill(all[0].ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-done, "57P01")
	l.await("h1", ofClients("wait_event = 'PgSleep'"), "0")
	if err := l.Kill(all[0].ID + 1); !errors.Is(err, ErrNoSession) {
		t.Errorf("error %v", err)
	}
}

// TestKillAClientThatDoesNotRead: nothing waits for it.
func TestKillAClientThatDoesNotRead(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	hijacked, err := conn.PgConn().Hijack()
	if err != nil {
		t.Fatal(err)
	}
	defer hijacked.Conn.Close()
	if _, err := hijacked.Conn.Write(pgwire.AppendQuery(nil, "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)")); err != nil {
		t.Fatal(err)
	}
	l.await("h1", ofClients("wait_event = 'ClientWrite'"), "1")
	if err := l.Kill(l.Sessions()[0].ID); err != nil {
		t.Fatal(err)
	}
	l.await("h1", ofClients("true"), "0")
}
