package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

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
		for begin, late := writes.Load(), time.Now().Add(testPatience); writes.Load() < begin+200; {
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
	open := l.shut("h1")
	worked := l.run(working, "INSERT INTO t SELECT 1 FROM "+waits)
	l.await("h1", ofClients(waiting), "1")

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
	open()
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
	l.held(2)
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
	send(t, hijack(t, l.client()), pgwire.AppendQuery(nil, "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)"))
	l.await("h1", ofClients("wait_event = 'ClientWrite'"), "1")
	if err := l.Kill(l.Sessions()[0].ID); err != nil {
		t.Fatal(err)
	}
	l.await("h1", ofClients("true"), "0")
}
