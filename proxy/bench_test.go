package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// BenchmarkBatch sends a statement for the primary through a session and reads the
// answer, one after the other, over loopback.
func BenchmarkBatch(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	answer := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, "SELECT 1"), pgwire.TxIdle)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				greet(conn)
				buf := make([]byte, 1024)
				for {
					if _, err := conn.Read(buf); err != nil {
						return
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	state := testState(l.Addr().String())
	cfg := Config{BackendTLS: BackendTLSConfig{Mode: SSLDisable}, Pool: DefaultPool(), Balance: lb.Default(), Hold: DefaultHold()}
	cfg.Balance.Mode = lb.ModeOff
	s, err := New(cfg, Deps{
		Cluster: cluster.NewLog(state), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Observations: func() map[string]cluster.Observation { return nil }, Poke: func(string) {}, GoesOn: func(context.Context, string, uint64) bool { return false }, Sampler: noSampler{},
	})
	if err != nil {
		b.Fatal(err)
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer front.Close()
	client, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	conn, err := front.Accept()
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	c := testClient("u")
	c.conn, c.raw = conn, conn
	go func() { ended <- s.serveSession(context.Background(), c) }()
	var buf []byte
	for typ := byte(0); typ != pgwire.ReadyForQuery; {
		if typ, _, err = readMessage(client, &buf, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
	query := pgwire.AppendQuery(nil, "INSERT INTO t VALUES (1)")
	in := make([]byte, len(answer))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(query); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, in); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	conn.Close()
	<-ended
}

// BenchmarkHolds is what each batch costs three times: before the core takes it,
// before it is written, and after its answer was read.
func BenchmarkHolds(b *testing.B) {
	log := cluster.NewLog(testState("h:1"))
	t := newTenure("h1", 1, log, always{time.Now().Add(time.Hour)})
	for b.Loop() {
		if !t.holds() {
			b.Fatal("does not hold")
		}
	}
}
