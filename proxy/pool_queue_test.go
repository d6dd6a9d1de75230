package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// pipePools is a pools whose logins make pipes, for bubbles of synctest.
type pipePools struct {
	*pools
	stage *stage

	mu struct {
		sync.Mutex
		logins, under, most int
		gate                chan struct{} // not nil: a login waits for it
		fail                error
		users               []string // whose logins have begun, in order
	}
}

func newPipePools(cfg PoolConfig, limits []LimitConfig, state cluster.State) *pipePools {
	pp := &pipePools{stage: newStage(state)}
	pp.stage.lease(1000 * time.Hour)
	pp.pools = newPools(cfg, pp.stage, slog.New(slog.DiscardHandler))
	pp.lease = pp.stage
	pp.configure(cfg, limits)
	pp.login = pp.pipe
	return pp
}

func (pp *pipePools) pipe(ctx context.Context, b cluster.Backend, _ *tenure, c *client) (*link, error) {
	pp.mu.Lock()
	pp.mu.logins++
	pp.mu.under++
	pp.mu.most = max(pp.mu.most, pp.mu.under)
	pp.mu.users = append(pp.mu.users, c.user)
	gate, fail := pp.mu.gate, pp.mu.fail
	pp.mu.Unlock()
	defer func() {
		pp.mu.Lock()
		pp.mu.under--
		pp.mu.Unlock()
	}()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if fail != nil {
		return nil, fail
	}
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	return &link{
		Conn: near, raw: near, backend: b.Name, user: c.user, database: c.database,
		params: []pgwire.Parameter{{Name: "a", Value: "b"}}, check: func() bool { return true },
	}, nil
}

func (pp *pipePools) set(f func()) {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	f()
}

func (pp *pipePools) backend(i int) cluster.Backend { return pp.stage.State().Backends[i] }

// want is one acquire in the background.
type want struct {
	user string
	sc   *serverConn
	err  error
	done atomic.Bool
	stop context.CancelFunc
}

func (pp *pipePools) ask(c *client, acquire func(ctx context.Context) (*serverConn, error)) *want {
	ctx, stop := context.WithCancel(context.Background())
	w := &want{user: c.user, stop: stop}
	go func() {
		w.sc, w.err = acquire(ctx)
		w.done.Store(true)
		stop()
	}()
	synctest.Wait()
	return w
}

func (pp *pipePools) wantOn(i int, c *client) *want {
	return pp.ask(c, func(ctx context.Context) (*serverConn, error) { return pp.acquire(ctx, pp.backend(i), c) })
}

func (pp *pipePools) wantPrimary(user string) *want {
	c := testClient(user)
	return pp.ask(c, func(ctx context.Context) (*serverConn, error) { return pp.acquirePrimary(ctx, c) })
}

func transactionPool() PoolConfig {
	cfg := DefaultPool()
	cfg.Mode, cfg.Size, cfg.Wait = PoolTransaction, 2, 10*time.Second
	return cfg
}

// app is a client with an application_name of its own: a key of its own.
func app(user, name string) *client {
	c := testClient(user)
	c.params = []pgwire.Parameter{{Name: "application_name", Value: name}}
	return c
}

// oneBackend is a cluster of a primary that takes no more than limit connections.
func oneBackend(limit int) cluster.State {
	s := testState("h:1")
	s.Backends[0].MaxConnections = limit
	return s
}

func TestPoolSizeBoundsAllKeysOfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp := newPipePools(transactionPool(), nil, oneBackend(0))
		defer pp.shutdown()
		a, b := pp.wantOn(0, app("u", "a")), pp.wantOn(0, app("u", "b"))
		third := pp.wantOn(0, app("u", "c"))
		fourth := pp.wantOn(0, app("u", "a"))
		if !a.done.Load() || !b.done.Load() || third.done.Load() || fourth.done.Load() {
			t.Fatal("pool.size does not hold")
		}
		other := pp.wantOn(0, testClient("v"))
		if !other.done.Load() {
			t.Error("another user waits behind them")
		}
		pp.release(a.sc, true)
		synctest.Wait()
		if !third.done.Load() || fourth.done.Load() || third.sc.id == a.sc.id {
			t.Error("the first in line was not served by making room")
		}
		pp.release(third.sc, true)
		synctest.Wait()
		if !fourth.done.Load() {
			t.Error("the second in line was not served")
		}
		for _, w := range []*want{b, fourth, other} {
			pp.release(w.sc, true)
		}
	})
}

func TestPoolNamesTheBound(t *testing.T) {
	connects := transactionPool()
	connects.Connects, connects.Size = 1, 3
	for name, tc := range map[string]struct {
		cfg    PoolConfig
		limits []LimitConfig
		max    int
		stuck  bool // no login ends
		bound  string
	}{
		"size":     {cfg: transactionPool(), bound: "pool.size 2"},
		"limit":    {cfg: transactionPool(), limits: []LimitConfig{{User: "w"}, {User: "u", MaxConnections: 1}}, bound: `limits.max_connections 1 for user "u"`},
		"backend":  {cfg: transactionPool(), max: 1, bound: "backends.max_connections 1"},
		"connects": {cfg: connects, stuck: true, bound: "pool.connects 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pp := newPipePools(tc.cfg, tc.limits, oneBackend(tc.max))
				defer pp.shutdown()
				if tc.stuck {
					pp.set(func() { pp.mu.gate = make(chan struct{}) })
				}
				var all []*want
				for range 3 {
					all = append(all, pp.wantOn(0, testClient("u")))
				}
				last := all[2]
				advance(10*time.Second - 1)
				if last.done.Load() {
					t.Fatalf("early: %v", last.err)
				}
				advance(time.Nanosecond)
				text := `pgproxy: no server connection to "h1" for database "u", user "u" within 10s: ` + tc.bound
				if r, ok := errors.AsType[*Refusal](last.err); !ok || r.Code != "53300" || r.Message != text {
					t.Errorf("error %v, want %s", last.err, text)
				}
				for _, w := range all {
					w.stop()
					synctest.Wait()
					if w.sc != nil {
						w.sc.Close()
					}
				}
			})
		})
	}
}

func TestPoolConnectsBoundsLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultPool()
		cfg.Connects = 2
		pp := newPipePools(cfg, nil, oneBackend(0))
		defer pp.shutdown()
		first := pp.wantOn(0, testClient("u"))
		gate := make(chan struct{})
		pp.set(func() { pp.mu.gate = gate })
		var all []*want
		for range 5 {
			all = append(all, pp.wantOn(0, testClient("u")))
		}
		pp.release(first.sc, true)
		synctest.Wait()
		if !all[2].done.Load() || all[2].sc.id != first.sc.id {
			t.Error("the first who waits for a login to begin should have got the idle connection")
		}
		close(gate)
		synctest.Wait()
		for _, w := range all {
			if !w.done.Load() || w.err != nil {
				t.Fatalf("not served: %v", w.err)
			}
			pp.release(w.sc, true)
		}
		if pp.mu.most != 2 {
			t.Errorf("%d logins at once, want 2", pp.mu.most)
		}
	})
}

func TestPoolTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp := newPipePools(transactionPool(), nil, oneBackend(0))
		defer pp.shutdown()
		c, b := testClient("u"), pp.backend(0)
		if pp.try(b, c) != nil {
			t.Error("a connection from nowhere")
		}
		w := pp.wantOn(0, c)
		id, uses := w.sc.id, w.sc.uses
		pp.release(w.sc, true)
		sc := pp.acquireExact(t.Context(), b, c, id, uses)
		if sc == nil || sc.id != id || sc.fresh {
			t.Fatal("nobody has used it since")
		}
		pp.release(sc, true)
		if pp.acquireExact(t.Context(), b, c, id, uses) != nil {
			t.Error("it has been used since")
		}
		if pp.try(b, testClient("v")) != nil {
			t.Error("another user's connection")
		}
		if sc = pp.try(b, c); sc == nil || pp.try(b, c) != nil {
			t.Error("there was one idle connection")
		}
		pp.release(sc, true)
		pp.stage.change(func(s *cluster.State) { s.Operation = &cluster.Operation{ID: 1, Phase: cluster.PhaseDrain} })
		if pp.try(b, c) != nil {
			t.Error("something begins on a primary that is being replaced")
		}
		if sc, err := pp.acquire(t.Context(), b, c); err != nil {
			t.Error(err)
		} else {
			sc.Close()
		}
	})
}

func TestPoolKeepsWhatIsCarried(t *testing.T) {
	pt := newPoolTest(t, DefaultPool(), 0)
	sc := pt.get("u")
	sc.carried = &session.Carried{}
	pt.release(sc, true)
	sc = pt.get("u")
	if sc.carried == nil {
		t.Error("it was lost")
	}
	pt.release(sc, false)
	pt.background.Wait()
	if sc = pt.get("u"); sc.carried != nil {
		t.Error("it was kept although the server has forgotten it")
	}
}

func TestPoolReconfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := transactionPool()
		pp := newPipePools(cfg, nil, oneBackend(0))
		defer pp.shutdown()
		var all []*want
		for range 5 {
			all = append(all, pp.wantOn(0, testClient("u")))
		}
		served := func() (n int) {
			synctest.Wait()
			for _, w := range all {
				if w.done.Load() && w.err == nil {
					n++
				}
			}
			return n
		}
		cfg.Size = 4
		pp.configure(cfg, nil)
		if n := served(); n != 4 {
			t.Fatalf("%d served, want 4", n)
		}
		cfg.Size = 1
		pp.configure(cfg, []LimitConfig{{MaxConnections: 3}})
		for _, w := range all[:3] {
			pp.release(w.sc, true)
		}
		if n := served(); n != 4 || pp.count()["h1"] != [4]int{0, 1, 0, 0} {
			t.Fatalf("%d served, %v, want the last one to wait still", n, pp.count())
		}
		pp.release(all[3].sc, true)
		if n := served(); n != 5 {
			t.Fatalf("%d served, want 5", n)
		}
		pp.release(all[4].sc, true)
	})
}

func TestPoolLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultPool()
		cfg.Lifetime, cfg.Idle = time.Hour, 10*time.Hour
		pp := newPipePools(cfg, nil, oneBackend(0))
		ctx, stop := context.WithCancel(t.Context())
		go pp.run(ctx)
		lent, idle := pp.wantOn(0, testClient("u")), pp.wantOn(0, testClient("u"))
		pp.release(idle.sc, true)
		advance(53 * time.Minute)
		if n := pp.count()["h1"]; n != [4]int{1, 1, 0, 0} {
			t.Errorf("%v before nine tenths of the lifetime", n)
		}
		advance(10 * time.Minute)
		if n := pp.count()["h1"]; n != [4]int{0, 1, 0, 0} {
			t.Errorf("%v: the idle one is older than its lifetime", n)
		}
		pp.release(lent.sc, true)
		if n := pp.count()["h1"]; n != [4]int{} {
			t.Errorf("%v: the lent one was to be closed when it came back", n)
		}
		stop()
		synctest.Wait()
	})
}

func TestPoolGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp := newPipePools(transactionPool(), nil, oneBackend(0))
		defer pp.shutdown()
		b := pp.backend(0)
		greet := func(user string) []pgwire.Parameter {
			known, err := pp.greeting(t.Context(), b, testClient(user))
			if err != nil {
				t.Fatal(err)
			}
			return known.params
		}
		first := greet("u")
		sc := pp.try(b, testClient("u")) // nothing is idle now
		if again := greet("u"); &again[0] != &first[0] || pp.mu.logins != 1 {
			t.Error("a server was asked again")
		}
		advance(11 * time.Second)
		if again := greet("u"); &again[0] != &first[0] || pp.mu.logins != 2 {
			t.Errorf("%d logins, want a second one for the old answer", pp.mu.logins)
		}
		greet("v")
		if pp.mu.logins != 3 {
			t.Error("another user was told the same")
		}
		sc.Close()
	})
}

func TestPoolMin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := transactionPool()
		cfg.Size, cfg.Min, cfg.Connects, cfg.Idle = 4, 3, 2, 10*time.Minute
		state := testState("h:1", "h:2")
		pp := newPipePools(cfg, nil, state)
		ctx, stop := context.WithCancel(t.Context())
		go pp.run(ctx)
		w := pp.wantOn(0, testClient("u"))
		if n := pp.count()["h1"]; n != [4]int{3, 1, 0, 0} || pp.mu.most > 2 {
			t.Errorf("%v, %d logins at once; want three opened ahead, two at once", n, pp.mu.most)
		}
		second := pp.wantOn(0, testClient("u"))
		if n := pp.count()["h1"]; n != [4]int{2, 2, 0, 0} {
			t.Errorf("%v: more than pool.size", n)
		}
		second.sc.Close()
		synctest.Wait()
		pp.stage.change(func(s *cluster.State) {
			s.Primary, s.Timeline = "h2", 2
			s.Backends[0].Role, s.Backends[0].Status = cluster.RoleUnknown, cluster.StatusDown
			s.Backends[1].Role = cluster.RolePrimary
		})
		synctest.Wait()
		if n := pp.count()["h2"]; n != [4]int{3, 0, 0, 0} {
			t.Errorf("%v on the new primary, before anybody came", n)
		}
		w.sc.Close()
		advance(time.Hour)
		if n := pp.count()["h2"]; n != [4]int{} {
			t.Errorf("%v although nobody has come for an hour", n)
		}
		stop()
		synctest.Wait()
	})
}
