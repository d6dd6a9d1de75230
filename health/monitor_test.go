package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer is one backend at the other end of net.Pipe: serve gets each
// connection after its startup message.
type fakeServer struct {
	serve atomic.Pointer[func(*pgproto3.Backend)] // nil: connections are refused
	dials atomic.Int64
}

func (f *fakeServer) be(serve func(*pgproto3.Backend)) {
	if serve == nil {
		f.serve.Store(nil)
		return
	}
	f.serve.Store(&serve)
}

func (f *fakeServer) config(string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig("host=h port=1 user=u database=d sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		f.dials.Add(1)
		serve := f.serve.Load()
		if serve == nil {
			return nil, syscall.ECONNREFUSED
		}
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			b := pgproto3.NewBackend(server, server)
			if _, err := b.ReceiveStartupMessage(); err == nil {
				(*serve)(b)
			}
		}()
		return client, nil
	}
	return cfg, nil
}

// hang never answers, and ends with the connection.
func hang(b *pgproto3.Backend) {
	for {
		if _, err := b.Receive(); err != nil {
			return
		}
	}
}

// refuse answers with a fatal error.
func refuse(code string) func(*pgproto3.Backend) {
	return func(b *pgproto3.Backend) {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: "not now"})
		_ = b.Flush() // a test that has hung up does not want it
	}
}

// answer lets the client in and answers each query with these rows.
func answer(tables ...[][]byte) func(*pgproto3.Backend) {
	return func(b *pgproto3.Backend) {
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		for b.Flush() == nil {
			m, err := b.Receive()
			if _, ok := m.(*pgproto3.Query); err != nil || !ok {
				return
			}
			for _, row := range tables {
				fields := make([]pgproto3.FieldDescription, len(row))
				b.Send(&pgproto3.RowDescription{Fields: fields})
				b.Send(&pgproto3.DataRow{Values: row})
				b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			}
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}
}

// primaryRows is what a primary answers to factsQuery.
func primaryRows() [][][]byte {
	facts := texts("0/3000100", "000000020000000000000003", "", "", "2", "", "77", "150018", "1700000000000000", "16777216", "8192", "ANY 1 (h2, h3)", "", "", "", "")
	for range outputSettings {
		facts = append(facts, []byte("x"))
	}
	return [][][]byte{facts, texts("h2", "10.0.0.2", "streaming", "sync", "")}
}

func texts(all ...string) [][]byte {
	out := make([][]byte, len(all))
	for i, s := range all {
		if s != "" {
			out[i] = []byte(s)
		}
	}
	return out
}

// running is a Monitor that runs.
type running struct {
	*Monitor
	changed <-chan struct{} // closed when next has something to return for
}

// next waits until the next probe was seen, the first one to begin with.
func (r *running) next() {
	<-r.changed
	r.changed = r.Changed()
}

// watch runs a Monitor of one backend "h1" in a bubble and returns it.
func watch(t *testing.T, cfg Config, conn ConnConfig) *running {
	primary := func() (string, uint32) { return "h1", 2 }
	m, err := New(cfg, []Target{{Name: "h1", Address: "h:1"}}, conn, primary, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	r := &running{m, m.Changed()} // taken before the first probe can be over
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return r
}

// pass lets that time go by in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// bubble runs f in synctest, with its cleanups.
func bubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

func TestProbeReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		f.be(answer(primaryRows()...))
		m := watch(t, Default(), f.config)
		m.next()
		o := m.Observations()["h1"]
		if !o.Alive || !o.Ready || o.Err != nil || o.Failures != 0 {
			t.Fatalf("%+v", o)
		}
		if o.Role != cluster.RolePrimary || o.Timeline != 2 || o.SystemID != 77 || o.LSN != 0x3000100 || o.Version != 150018 || o.Address != "h:1" || o.SyncNames != "ANY 1 (h2, h3)" {
			t.Errorf("%+v", o)
		}
		begin := time.Now()
		m.next()
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the next probe came after %v, want the interval", d)
		}
		if s := m.Stats("h1"); s.Total == 0 || s.Success != s.Total || s.Retry != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestProbeErrors: who answers is alive, who does not is not, and a server that
// accepts and says nothing is noticed after the timeout.
func TestProbeErrors(t *testing.T) {
	short := primaryRows()
	short[0] = short[0][:3]
	for _, c := range []struct {
		name  string
		serve func(*pgproto3.Backend)
		alive bool
		after time.Duration
	}{
		{"refused", nil, false, 0},
		{"starting up", refuse("57P03"), true, 0},
		{"too many connections", refuse("53300"), true, 0},
		{"hangs", hang, false, time.Second},
		{"closes", func(*pgproto3.Backend) {}, false, 0},
		{"hangs after the login", func(b *pgproto3.Backend) {
			b.Send(&pgproto3.AuthenticationOk{})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if b.Flush() == nil {
				hang(b)
			}
		}, false, time.Second},
		{"talks nonsense", answer(short...), false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var f fakeServer
				f.be(c.serve)
				begin := time.Now()
				m := watch(t, Default(), f.config)
				m.next()
				o := m.Observations()["h1"]
				if o.Ready || o.Err == nil || o.Alive != c.alive {
					t.Errorf("%+v", o)
				}
				if o.Refused != (c.serve == nil) {
					t.Errorf("refused %t", o.Refused)
				}
				if want := map[bool]int{false: 1}[c.alive]; o.Failures != want {
					t.Errorf("%d failures, want %d", o.Failures, want)
				}
				if d := time.Since(begin); d != c.after {
					t.Errorf("known after %v, want %v", d, c.after)
				}
			})
		})
	}
}

// TestRetries: the probes that decide follow a fifth of an interval apart, the
// others an interval, and a server that is back starts at none.
func TestRetries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		begin := time.Now()
		m := watch(t, Config{Interval: time.Second, Timeout: time.Second, Retries: 2}, f.config)
		want := func(failures int, at time.Duration) {
			t.Helper()
			m.next()
			if o := m.Observations()["h1"]; o.Failures != failures || time.Since(begin) != at {
				t.Errorf("%d failures at %v, want %d at %v", o.Failures, time.Since(begin), failures, at)
			}
		}
		want(1, 0)
		want(2, 200*time.Millisecond)
		want(3, 400*time.Millisecond)
		want(4, 1400*time.Millisecond)
		f.be(answer(primaryRows()...))
		want(0, 2400*time.Millisecond)
		synctest.Wait()
		s := m.Stats("h1")
		if s.Total != 3 || s.Success != 1 || s.Fail != 2 || s.Retry != 2 || s.MaxRetry != 2 || s.AverageRetry() != 2.0/3 {
			t.Errorf("%+v", s)
		}
		if s.MaxDuration != 400*time.Millisecond || s.MinDuration != 0 || s.LastSuccess.Sub(s.LastFail) != time.Second || s.Last != s.LastSuccess {
			t.Errorf("%+v", s)
		}
	})
}

// TestPoke: a broken session has the server looked at now, a thousand of them
// not more often than pokeGap.
func TestPoke(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		f.be(answer(primaryRows()...))
		m := watch(t, Config{Interval: time.Hour, Timeout: time.Second}, f.config)
		m.next()
		pass(time.Minute)
		begin := time.Now()
		m.Poke("h1")
		m.Poke("nobody")
		m.next()
		if d := time.Since(begin); d != 0 {
			t.Errorf("probed after %v", d)
		}
		before := f.dials.Load()
		for range 1000 {
			m.Poke("h1")
			pass(time.Millisecond)
		}
		synctest.Wait()
		if n := f.dials.Load() - before; n < 18 || n > 20 {
			t.Errorf("%d probes in a second of pokes, want one each %v", n, pokeGap)
		}
	})
}

// TestPokeWhileProbing: a probe that was under way may have been sent before what
// is now wrong, so that another one follows it.
func TestPokeWhileProbing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		f.be(hang)
		m := watch(t, Config{Interval: time.Hour, Timeout: time.Second}, f.config)
		synctest.Wait()
		m.Poke("h1")
		m.next()
		m.next()
		if n := f.dials.Load(); n != 2 {
			t.Errorf("%d probes, want 2", n)
		}
	})
}

// TestProbe: a fresh look is of a probe that was sent after the question, though
// another one is under way, and those who ask at the same time share it.
func TestProbe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		f.be(hang)
		m := watch(t, Config{Interval: time.Hour, Timeout: time.Second, Retries: 0}, f.config)
		pass(400 * time.Millisecond)
		f.be(answer(primaryRows()...))
		begin := time.Now()
		looks := make(chan cluster.Observation)
		for range 10 {
			go func() {
				o, err := m.Probe(t.Context(), "h1")
				if err != nil {
					t.Error(err)
				}
				looks <- o
			}()
		}
		for range 10 {
			if o := <-looks; !o.Ready || o.At.Before(begin) {
				t.Errorf("%+v", o)
			}
		}
		// One probe for those who asked before it was sent, one for the others.
		if d, n := time.Since(begin), f.dials.Load(); d > pokeGap || n > 3 {
			t.Errorf("after %v with %d probes", d, n-1)
		}
		// The answer of the first probe is late: it says nothing any more.
		pass(time.Second)
		if o := m.Observations()["h1"]; !o.Ready {
			t.Errorf("%+v", o)
		}
	})
}

// TestProbeEnds: who asks is not left alone with a server that hangs, nor with a
// Monitor that has stopped.
func TestProbeEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		f.be(hang)
		m := watch(t, Config{Interval: time.Hour, Timeout: time.Second}, f.config)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := m.Probe(ctx, "h1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the time", err)
		}
		if _, err := m.Probe(t.Context(), "nobody"); err == nil {
			t.Error("a backend that nobody knows was probed")
		}
		begin := time.Now()
		o, err := m.Probe(t.Context(), "h1")
		if err != nil || o.Alive || time.Since(begin) < time.Second {
			t.Errorf("%+v, %v after %v", o, err, time.Since(begin))
		}
		p := newProber(Target{Name: "h1"}, &m.cfg, nil, slog.New(slog.DiscardHandler), nil)
		stopped := &Monitor{}
		stopped.watched.Store(&watched{probers: map[string]*prober{"h1": p}})
		ended, end := context.WithCancel(t.Context())
		end()
		p.run(ended)
		if _, err := stopped.Probe(t.Context(), "h1"); err == nil {
			t.Error("a Monitor that has stopped has probed")
		}
	})
}

// TestSights: ages instead of times, the text of the error, and what has ever been
// seen alive.
func TestSights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var f fakeServer
		m := watch(t, Config{Interval: time.Hour, Timeout: time.Second, Retries: 0}, f.config)
		if s := m.Sights(); len(s) != 0 {
			t.Errorf("not probed yet: %+v", s)
		}
		look := func() cluster.Sight {
			t.Helper()
			pass(time.Minute)
			if _, err := m.Probe(t.Context(), "h1"); err != nil {
				t.Fatal(err)
			}
			pass(time.Minute)
			s := m.Sights()
			if len(s) != 1 || s[0].Age != time.Minute {
				t.Fatalf("%+v", s)
			}
			return s[0]
		}
		if s := look(); s.Seen || s.Alive || !s.Refused || s.Failures == 0 || s.Error == "" {
			t.Errorf("refused: %+v", s)
		}
		f.be(answer(primaryRows()...))
		if s := look(); !s.Seen || !s.Ready || s.Role != cluster.RolePrimary || s.SyncNames == "" || s.Error != "" {
			t.Errorf("ready: %+v", s)
		}
		f.be(hang)
		if s := look(); !s.Seen || s.Alive || s.Refused || s.Took != time.Second || s.Failures != 1 {
			t.Errorf("hung: %+v", s)
		}
	})
}

// TestSkipped: what is wrong on our side says nothing about the backend.
func TestSkipped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn := func(string) (*pgconn.Config, error) { return nil, errors.New("no password file") }
		m := watch(t, Default(), conn)
		m.next()
		m.next()
		synctest.Wait()
		if o := m.Observations()["h1"]; o.Failures != 0 || o.Ready || o.Err == nil {
			t.Errorf("%+v", o)
		}
		if s := m.Sights(); len(s) != 0 {
			t.Errorf("reported %+v", s)
		}
		if s := m.Stats("h1"); s.Skip != 2 || s.Total != 2 || s.Fail != 0 || s.LastSkip.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := newMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	m.observe(map[string]cluster.Observation{
		"p": {Alive: true, Ready: true, Role: cluster.RolePrimary},
		"s": {Alive: true, Ready: true, Role: cluster.RoleStandby, LagBytes: 5, LagSeconds: 2.5},
		"d": {},
	})
	m.observe(map[string]cluster.Observation{"s2": {Ready: true, Role: cluster.RoleStandby}})
	m.observe(map[string]cluster.Observation{"s2": {}})
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range all {
		for _, x := range f.GetMetric() {
			got[fmt.Sprintf("%s{%s}", f.GetName(), x.GetLabel()[0].GetValue())] = x.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"pgproxy_backend_up{p}": 1, "pgproxy_backend_up{s}": 1, "pgproxy_backend_up{d}": 0, "pgproxy_backend_up{s2}": 0,
		"pgproxy_backend_primary{p}": 1, "pgproxy_backend_primary{s}": 0, "pgproxy_backend_primary{d}": 0, "pgproxy_backend_primary{s2}": 0,
		"pgproxy_replication_lag_bytes{s}": 5, "pgproxy_replication_lag_seconds{s}": 2.5,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}
