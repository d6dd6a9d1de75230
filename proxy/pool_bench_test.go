package proxy

import (
	"io"
	"log/slog"
	"net"
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
