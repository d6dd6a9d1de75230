package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// BenchmarkTryRelease is what each transaction costs in the pools while an idle
// connection is there: of a busy pool, and with the look at a socket that was idle for long.
func BenchmarkTryRelease(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				greet(conn)
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	for _, look := range []bool{true, false} {
		name := "busy"
		if look {
			name = "looking"
		}
		b.Run(name, func(b *testing.B) {
			log := cluster.NewLog(testState(l.Addr().String()))
			cfg := DefaultPool()
			cfg.Mode = PoolTransaction
			p := newPools(cfg, log, slog.New(slog.DiscardHandler))
			defer p.shutdown()
			tls, err := newBackTLS(BackendTLSConfig{Mode: SSLDisable})
			if err != nil {
				b.Fatal(err)
			}
			p.login = newDialer(&dialRules{tls: tls}).login
			backend, c := log.State().Backends[0], testClient("u")
			sc, err := p.acquire(b.Context(), backend, c)
			if err != nil {
				b.Fatal(err)
			}
			p.release(sc, true)
			b.ReportAllocs()
			for b.Loop() {
				if look {
					sc.idleSince = time.Time{}
				}
				sc := p.try(backend, c)
				if sc == nil {
					b.Fatal("no idle connection")
				}
				p.release(sc, true)
			}
		})
	}
}

// BenchmarkQueue is what a transaction costs in the pools while five thousand clients
// share fifty connections.
func BenchmarkQueue(b *testing.B) {
	cfg := DefaultPool()
	cfg.Mode, cfg.Size, cfg.Wait = PoolTransaction, 50, time.Hour
	pp := newPipePools(cfg, nil, testState("h:1"))
	defer pp.shutdown()
	const clients = 5000
	backend := pp.backend(0)
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			c := testClient("u")
			for left.Add(-1) >= 0 {
				sc := pp.try(backend, c)
				if sc == nil {
					var err error
					if sc, err = pp.acquire(b.Context(), backend, c); err != nil {
						b.Error(err)
						return
					}
				}
				runtime.Gosched() // a transaction
				pp.release(sc, true)
			}
		})
	}
	all.Wait()
}

// BenchmarkFailover is how long ten thousand sessions of a hundred users, who wait for
// connections to a primary, keep the pools when it is lost and when there is another.
func BenchmarkFailover(b *testing.B) {
	cfg := DefaultPool()
	cfg.Mode, cfg.Size, cfg.Wait = PoolTransaction, 1, time.Hour
	hold := DefaultHold()
	hold.Timeout = time.Hour
	for b.Loop() {
		b.StopTimer()
		pp := newPipePools(cfg, nil, testState("h:1", "h:2"))
		pp.holdWith(hold)
		pp.set(func() { pp.mu.gate = make(chan struct{}) }) // no login ends
		ctx, stop := context.WithCancel(b.Context())
		var all sync.WaitGroup
		for i := range 10_000 {
			all.Go(func() { _, _ = pp.acquirePrimary(ctx, testClient(fmt.Sprint(i%100))) })
		}
		for pp.waiters() < 10_000-cfg.Connects {
			runtime.Gosched()
		}
		b.StartTimer()
		pp.stage.begin(1, cluster.Failover, cluster.PhaseBarrier)
		pp.locked(pp.follow)
		pp.stage.adopt("h2", 2)
		pp.locked(pp.follow)
		b.StopTimer()
		stop()
		all.Wait()
		pp.shutdown()
		b.StartTimer()
	}
}

// waiters counts all who wait for something.
func (pp *pipePools) waiters() int {
	n := pp.heldClients()
	for _, g := range pp.groupsInUse() {
		n += g.Waiting
	}
	return n
}
