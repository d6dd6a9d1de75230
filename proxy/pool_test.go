package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// poolTest is a pools over one fake server, which answers every query with
// CommandComplete and ReadyForQuery unless answer says otherwise.
type poolTest struct {
	*pools
	t       *testing.T
	cluster *cluster.Log
	server  *fakeServer

	mu struct {
		sync.Mutex
		queries []string
		conns   []net.Conn // of the server's side
		answer  func(sql string) []byte
	}
}

func newPoolTest(t *testing.T, cfg PoolConfig, limit int) *poolTest {
	t.Helper()
	pt := &poolTest{t: t}
	pt.server = newFakeServer(t, pt.serve)
	state := testState(pt.server.address)
	state.Backends[0].MaxConnections = limit
	pt.cluster = cluster.NewLog(state)
	pt.pools = newPools(cfg, pt.cluster, slog.New(slog.DiscardHandler))
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	pt.login = d.login
	t.Cleanup(pt.shutdown)
	return pt
}

func (pt *poolTest) serve(conn net.Conn) {
	pt.mu.Lock()
	pt.mu.conns = append(pt.mu.conns, conn)
	pt.mu.Unlock()
	greet(conn)
	var buf []byte
	for {
		typ, body, err := readMessage(conn, &buf, 1<<16)
		if err != nil || typ != pgwire.Query {
			return
		}
		sql := strings.TrimRight(string(body), "\x00")
		pt.mu.Lock()
		pt.mu.queries = append(pt.mu.queries, sql)
		answer := pt.mu.answer
		pt.mu.Unlock()
		out := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, sql), pgwire.TxIdle)
		if answer != nil {
			out = answer(sql)
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

func (pt *poolTest) queries() []string {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return slices.Clone(pt.mu.queries)
}

// answers makes the server answer every query with what f returns.
func (pt *poolTest) answers(f func(sql string) []byte) {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.mu.answer = f
}

func (pt *poolTest) backend() cluster.Backend { return pt.cluster.State().Backends[0] }

func (pt *poolTest) get(user string) *serverConn {
	pt.t.Helper()
	sc, err := pt.acquire(pt.t.Context(), pt.backend(), testClient(user))
	if err != nil {
		pt.t.Fatal(err)
	}
	return sc
}

// counts returns how many connections the pools have in all, and how many of them
// are idle.
func (pt *poolTest) counts() (open, idle int) {
	pt.pools.mu.Lock()
	defer pt.pools.mu.Unlock()
	for _, bp := range pt.pools.mu.byName {
		open += bp.open
		for _, g := range bp.groups {
			idle += len(g.idle)
		}
	}
	return open, idle
}

func (pt *poolTest) wantCounts(open, idle int) {
	pt.t.Helper()
	if o, i := pt.counts(); o != open || i != idle {
		pt.t.Fatalf("%d open and %d idle, want %d and %d", o, i, open, idle)
	}
}

func TestPoolReusesTheLastOne(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	a, b := pt.get("u"), pt.get("u")
	if !a.fresh || !b.fresh || a.id == b.id {
		t.Fatalf("ids %d, %d", a.id, b.id)
	}
	pt.release(a, true)
	pt.release(b, true)
	pt.release(b, true) // ends no other loan
	pt.wantCounts(2, 2)
	again := pt.get("u")
	if again.id != b.id || again.fresh {
		t.Errorf("got %d, want %d, released last", again.id, b.id)
	}
	if other := pt.get("v"); other.id == a.id {
		t.Error("a connection of another user was lent")
	}
	if n := len(pt.queries()); n != 0 {
		t.Errorf("%d queries although every session left it clean", n)
	}
}

func TestPoolKey(t *testing.T) {
	base := testClient("u")
	same := testClient("u")
	if keyOf(base) != keyOf(same) {
		t.Error("equal clients have different keys")
	}
	for _, change := range []func(c *client){
		func(c *client) { c.user = "v" },
		func(c *client) { c.database = "d" },
		func(c *client) { c.params = []pgwire.Parameter{{Name: "a", Value: "b"}} },
	} {
		c := testClient("u")
		change(c)
		if keyOf(c) == keyOf(base) {
			t.Errorf("%+v has the same key", c)
		}
	}
	c := testClient("u")
	c.replication = pgwire.ReplicationDatabase
	if keyOf(c) != "" {
		t.Error("a replication connection would be kept")
	}
}

func TestPoolCleansWhatIsNotClean(t *testing.T) {
	for name, tc := range map[string]struct {
		tx      byte
		clean   bool
		changed bool
		queries []string
	}{
		"dirty":          {tx: 'I', queries: []string{"DISCARD ALL"}},
		"in transaction": {tx: 'T', clean: true, queries: []string{"ROLLBACK", "DISCARD ALL"}},
		"failed":         {tx: 'E', queries: []string{"ROLLBACK", "DISCARD ALL"}},
		"setting":        {tx: 'I', clean: true, changed: true, queries: []string{"DISCARD ALL"}},
	} {
		t.Run(name, func(t *testing.T) {
			pt := newPoolTest(t, DefaultPool(), 0)
			pt.answers(func(sql string) []byte {
				b := pgwire.AppendParameterStatus(nil, "TimeZone", "UTC")
				return pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(b, sql), pgwire.TxIdle)
			})
			sc := pt.get("u")
			sc.tx = tc.tx
			if tc.changed {
				sc.noteParameter("TimeZone", "Mars")
			}
			pt.release(sc, tc.clean)
			pt.background.Wait()
			pt.wantCounts(1, 1)
			if got := pt.queries(); !slices.Equal(got, tc.queries) {
				t.Errorf("queries %q, want %q", got, tc.queries)
			}
			if again := pt.get("u"); again.id != sc.id {
				t.Error("the clean connection was not used again")
			}
		})
	}
}

func TestPoolClosesWhatCannotBeCleaned(t *testing.T) {
	ready := pgwire.AppendReadyForQuery(nil, pgwire.TxIdle)
	for name, answer := range map[string][]byte{
		"error":       append(pgwire.AppendError(nil, "ERROR", "25001", "no", "", ""), ready...),
		"transaction": pgwire.AppendReadyForQuery(nil, pgwire.TxInTransaction),
		"setting":     append(pgwire.AppendParameterStatus(nil, "TimeZone", "Mars"), ready...),
		"garbage":     {0, 0xff, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			pt := newPoolTest(t, DefaultPool(), 0)
			pt.answers(func(string) []byte { return answer })
			pt.release(pt.get("u"), false)
			pt.background.Wait()
			pt.wantCounts(0, 0)
		})
	}
}

func TestPoolDoesNotLendWhatTheServerHasTouched(t *testing.T) {
	for name, touch := range map[string]func(conn net.Conn){
		"closed":  func(conn net.Conn) { conn.Close() },
		"reset":   func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0); conn.Close() },
		"message": func(conn net.Conn) { _, _ = conn.Write(pgwire.AppendParameterStatus(nil, "a", "b")) },
	} {
		t.Run(name, func(t *testing.T) {
			pt := newPoolTest(t, DefaultPool(), 1)
			poked := ""
			pt.poke = func(backend string) { poked = backend }
			sc := pt.get("u")
			pt.release(sc, true)
			pt.mu.Lock()
			conn := pt.mu.conns[0]
			pt.mu.Unlock()
			touch(conn)
			for quietSocket(sc.raw) { // until it has crossed the loopback
			}
			if again := pt.get("u"); again.id == sc.id {
				t.Error("it was lent")
			}
			if poked != "h1" {
				t.Error("health was not asked to look")
			}
			pt.wantCounts(1, 0)
		})
	}
}

func TestPoolWaitsInOrder(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 1)
	held := pt.get("u")
	const waiters = 5
	var order []string
	var done sync.WaitGroup
	for i := range waiters {
		user := []string{"u", "v"}[i%2]
		done.Go(func() {
			sc, err := pt.acquire(t.Context(), pt.backend(), testClient(user))
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, string(rune('0'+i))) // the one that has the connection
			pt.release(sc, true)
		})
		pt.awaitWaiters(i + 1)
	}
	pt.release(held, true)
	done.Wait()
	if got := strings.Join(order, ""); got != "01234" {
		t.Errorf("order %s", got)
	}
	pt.wantCounts(1, 1)
	// u, v, u, v, u: a connection of the other user had to go each time.
	if n := pt.server.dials.Load(); n != waiters {
		t.Errorf("%d connections were opened, want %d", n, waiters)
	}
}

// awaitWaiters waits until n acquires wait.
func (pt *poolTest) awaitWaiters(n int) {
	for {
		pt.pools.mu.Lock()
		bp := pt.pools.mu.byName["h1"]
		got := bp.logins.Len()
		for _, g := range bp.groups {
			got += g.waiting.Len()
		}
		pt.pools.mu.Unlock()
		if got == n {
			return
		}
		runtime.Gosched()
	}
}

func TestPoolRefusesAfterWait(t *testing.T) {
	cfg := DefaultPool()
	cfg.Wait = time.Millisecond
	pt := newPoolTest(t, cfg, 1)
	pt.get("u")
	_, err := pt.acquire(t.Context(), pt.backend(), testClient("v"))
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || refusal.Code != "53300" ||
		refusal.Message != `pgproxy: no server connection to "h1" for database "v", user "v" within 1ms: backends.max_connections 1` {
		t.Errorf("error %v", err)
	}
	pt.awaitWaiters(0)
}

func TestPoolMakesRoom(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 2)
	a, b := pt.get("a"), pt.get("b")
	pt.release(a, true)
	pt.release(b, true)
	pt.get("c")
	pt.wantCounts(2, 1)
	if again := pt.get("b"); again.id != b.id {
		t.Error("the one idle for longest should have gone")
	}
}

func TestPoolSlotIsFreedByClose(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 1)
	sc := pt.get("u")
	sc.Close()
	sc.Close()
	pt.wantCounts(0, 0)
	pt.release(sc, true) // too late
	pt.wantCounts(0, 0)
	pt.get("v")
}

func TestPoolSlotIsFreedByAFailedLogin(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 1)
	login := pt.login
	pt.login = func(context.Context, cluster.Backend, *tenure, *client) (*link, error) { return nil, errors.New("no") }
	if _, err := pt.acquire(t.Context(), pt.backend(), testClient("u")); err == nil {
		t.Fatal("no error")
	}
	pt.login = login
	pt.get("u")
}

func TestPoolSizeAndIdle(t *testing.T) {
	cfg := DefaultPool()
	cfg.Size = 1
	pt := newPoolTest(t, cfg, 0)
	a, b := pt.get("u"), pt.get("u")
	pt.release(a, true)
	pt.release(b, true)
	pt.wantCounts(1, 1)
	if again := pt.get("u"); again.id != b.id {
		t.Error("the older one should have gone")
	}
	pt.release(pt.get("v"), true)
	pt.locked(pt.expire)
	pt.wantCounts(2, 1)
	cfg.Idle = 0
	pt.configure(cfg, nil)
	pt.locked(pt.expire)
	pt.wantCounts(1, 0)
}

// change changes the cluster.
func (pt *poolTest) change(f func(s *cluster.State)) {
	pt.t.Helper()
	next := *pt.cluster.State()
	next.Backends = slices.Clone(next.Backends)
	f(&next)
	pt.pools.cluster = cluster.NewLog(next)
	pt.locked(pt.follow)
}

func TestPoolFollowsTheCluster(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(s *cluster.State)
		hard   bool
	}{
		"removed":    {func(s *cluster.State) { s.Backends, s.Primary = nil, "" }, true},
		"down":       {func(s *cluster.State) { s.Backends[0].Status = cluster.StatusDown }, false},
		"recovering": {func(s *cluster.State) { s.Backends[0].Status = cluster.StatusRecovering }, true},
		"demoted":    {func(s *cluster.State) { s.Primary = "" }, true},
		"moved":      {func(s *cluster.State) { s.Backends[0].Address = "127.0.0.1:1" }, true},
		"detached":   {func(s *cluster.State) { s.Backends[0].Status = cluster.StatusDetached }, false},
	} {
		t.Run(name, func(t *testing.T) {
			pt := newPoolTest(t, DefaultPool(), 0)
			lent, idle := pt.get("u"), pt.get("u")
			pt.release(idle, true)
			pt.change(tc.change)
			var b [1]byte
			if tc.hard {
				if _, err := lent.Read(b[:]); !errors.Is(err, net.ErrClosed) {
					t.Errorf("lent connection: %v", err)
				}
				lent.Close()
			} else {
				if _, err := lent.Write(pgwire.AppendQuery(nil, "SELECT 1")); err != nil {
					t.Errorf("lent connection: %v", err)
				}
				pt.release(lent, true)
			}
			pt.wantCounts(0, 0)
		})
	}
}

func TestPoolClosesAStandbyThatWentDown(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	pt.change(func(s *cluster.State) { s.Primary, s.Backends[0].Role = "", cluster.RoleStandby })
	lent, err := pt.acquire(t.Context(), *pt.pools.cluster.State().Backend("h1"), testClient("u"))
	if err != nil {
		t.Fatal(err)
	}
	pt.change(func(s *cluster.State) { s.Primary, s.Backends[0].Status = "", cluster.StatusDown })
	var b [1]byte
	if _, err := lent.Read(b[:]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("lent connection: %v", err)
	}
	lent.Close()
	pt.wantCounts(0, 0)
}

// A connection that was lent when its server was a standby belongs to no tenure.
func TestPoolClosesTheStandbysConnectionsOfADeposedPrimary(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	pt.change(func(s *cluster.State) { s.Primary, s.Backends[0].Role = "", cluster.RoleStandby })
	lent, err := pt.acquire(t.Context(), *pt.pools.cluster.State().Backend("h1"), testClient("u"))
	if err != nil {
		t.Fatal(err)
	}
	pt.change(func(s *cluster.State) { s.Primary, s.Backends[0].Role = "h1", cluster.RolePrimary })
	if _, err := lent.Write(pgwire.AppendQuery(nil, "SELECT 1")); err != nil {
		t.Errorf("after the promotion: %v", err)
	}
	pt.change(func(s *cluster.State) { s.Primary, s.Backends[0].Role = "", cluster.RoleUnknown })
	if _, err := lent.Write(pgwire.AppendQuery(nil, "SELECT 1")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("behind the barrier: %v", err)
	}
	lent.Close()
	pt.wantCounts(0, 0)
}

func TestPoolWaitersLearnThatTheBackendIsGone(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 1)
	pt.get("u")
	failed := make(chan error)
	b := pt.backend()
	go func() {
		_, err := pt.acquire(t.Context(), b, testClient("u"))
		failed <- err
	}()
	pt.awaitWaiters(1)
	pt.change(func(s *cluster.State) { s.Backends[0].Status = cluster.StatusDown })
	if err := <-failed; !errors.Is(err, errBackendGone) {
		t.Errorf("error %v", err)
	}
	pt.change(func(s *cluster.State) { s.Backends, s.Primary = nil, "" })
	if _, err := pt.acquire(t.Context(), b, testClient("u")); !errors.Is(err, errBackendGone) {
		t.Errorf("error %v", err)
	}
}

func TestPoolLoginEndsWithItsBackend(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	logging := make(chan struct{})
	pt.login = func(ctx context.Context, _ cluster.Backend, _ *tenure, _ *client) (*link, error) {
		close(logging)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	go func() {
		<-logging
		pt.change(func(s *cluster.State) { s.Backends[0].Status = cluster.StatusDown })
	}()
	if _, err := pt.acquire(t.Context(), pt.backend(), testClient("u")); !errors.Is(err, errBackendGone) {
		t.Errorf("error %v", err)
	}
	pt.wantCounts(0, 0)
}

func TestPoolDoesNotLendDuringCancel(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	sc := pt.get("u")
	if !sc.beginCancel() {
		t.Fatal("cancel refused")
	}
	pt.release(sc, true)
	if sc.beginCancel() {
		t.Error("the loan has ended")
	}
	pt.wantCounts(1, 0)
	if other := pt.get("u"); other.id == sc.id {
		t.Error("lent although a cancel is under way")
	}
	sc.endCancel(false)
	pt.background.Wait()
	if got := pt.queries(); !slices.Equal(got, []string{""}) {
		t.Errorf("queries %q: a late cancel must hit an empty query", got)
	}
	again := pt.get("u")
	if again.id != sc.id {
		t.Error("not reused")
	}
	again.beginCancel()
	again.endCancel(false)
	pt.release(again, true)
	pt.background.Wait()
	if got := pt.queries(); !slices.Equal(got, []string{"", ""}) {
		t.Errorf("queries %q: the signal may be on its way when the request has been answered", got)
	}
}

func TestPoolKeepsNoConnectionThatALostCancelMayHit(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	for _, late := range []bool{false, true} {
		sc := pt.get("u")
		if !sc.beginCancel() {
			t.Fatal("cancel refused")
		}
		if !late {
			sc.endCancel(true)
		}
		pt.release(sc, true)
		if late {
			sc.endCancel(true)
		}
		pt.background.Wait()
		pt.wantCounts(0, 0)
	}
}

func TestPoolUnderLoad(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 3)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				sc, err := pt.acquire(t.Context(), pt.backend(), testClient([]string{"u", "v", "w"}[(i+n)%3]))
				if err != nil {
					t.Error(err)
					return
				}
				switch n % 5 {
				case 0:
					sc.Close()
				case 1:
					pt.release(sc, false)
				default:
					pt.release(sc, true)
				}
			}
		})
	}
	all.Wait()
	pt.background.Wait()
	if open, idle := pt.counts(); open != idle || open > 3 {
		t.Errorf("%d open, %d idle", open, idle)
	}
}
