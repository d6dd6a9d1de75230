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
	"github.com/pgproxy/pgproxy/proxy/session"
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
	s := benchServer(b, lb.ModeOff, testState(l.Addr().String()), nil)
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

// benchServer is a Server that is not run.
func benchServer(b *testing.B, mode lb.Mode, state cluster.State, observations map[string]cluster.Observation) *Server {
	cfg := Config{BackendTLS: BackendTLSConfig{Mode: SSLDisable}, Pool: DefaultPool(), Balance: lb.Default(), Hold: DefaultHold()}
	cfg.Balance.Mode = mode
	s, err := New(cfg, Deps{
		Cluster: cluster.NewLog(state), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Observations: func() map[string]cluster.Observation { return observations }, Poke: func(string) {},
		GoesOn: func(context.Context, string, uint64) bool { return false }, Sampler: noSampler{},
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkEnvironment is all that the core asks and tells in two turns of a transaction of
// one statement, with the state that sessions share: with -cpu 1,2 alone and beside another
// session.
func BenchmarkEnvironment(b *testing.B) {
	state := testState("h1:1")
	state.Backends = append(state.Backends, cluster.Backend{Name: "h2", Address: "h2:1", Weight: 1, Status: cluster.StatusUp, Role: cluster.RoleStandby})
	sh := benchServer(b, lb.ModeStatement, state, map[string]cluster.Observation{
		"h2": {Alive: true, Ready: true, Role: cluster.RoleStandby, Timeline: 1},
	}).sessions
	sh.route()
	for _, c := range []struct {
		name, text, tag string
		slot            session.Slot
	}{
		{"read", "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;", "SELECT 1", session.Standby},
		{"write", "UPDATE pgbench_accounts SET abalance = abalance + -2345 WHERE aid = 1234567;", "UPDATE 1", session.Primary},
	} {
		b.Run(c.name, func(b *testing.B) {
			text, tag := []byte(c.text), []byte(c.tag)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				s := &clientSession{shared: sh, client: testClient("u"), id: sh.lastID.Add(1)}
				e := newSessionEnv(sh, s)
				e.catalog.current.Store(lb.NewCatalog(nil, nil))
				s.mu.servers[c.slot] = &attachedServer{loan: &serverConn{link: &link{backend: "h2"}}}
				for pb.Next() {
					e.Classify(text)
					if c.slot == session.Standby {
						e.Choose("", false, lb.ToAny)
						e.Floors()
						e.Samples()
					}
					e.Routed(c.slot)
					s.clock.note(e.time(), stateIdle, stateActive, false)
					e.tick(0)
					e.Completed(c.slot, tag)
					e.Mark()
					e.Answered(c.slot)
					if c.slot == session.Primary {
						e.Wrote()
					}
					s.clock.note(e.time(), stateActive, stateIdle, false)
					e.tick(0)
				}
			})
		})
	}
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
