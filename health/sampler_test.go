package health

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// prepared serves the extended protocol: each execution of a prepared statement
// is answered with one row, after that function returned it.
func prepared(execute func(statement string) [][]byte) func(*pgproto3.Backend) {
	return func(b *pgproto3.Backend) {
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		statement := ""
		for b.Flush() == nil {
			m, err := b.Receive()
			if err != nil {
				return
			}
			switch m := m.(type) {
			case *pgproto3.Parse:
				b.Send(&pgproto3.ParseComplete{})
				b.Send(&pgproto3.ParameterDescription{})
			case *pgproto3.Bind:
				statement = m.PreparedStatement
				b.Send(&pgproto3.BindComplete{})
			case *pgproto3.Describe:
				b.Send(&pgproto3.RowDescription{Fields: make([]pgproto3.FieldDescription, 4)})
			case *pgproto3.Execute:
				b.Send(&pgproto3.DataRow{Values: execute(statement)})
				b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			case *pgproto3.Sync:
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case *pgproto3.Terminate:
				return
			}
		}
	}
}

// pair is a primary "p" and a standby "s" whose positions the test sets.
type pair struct {
	*Sampler
	p, s   fakeServer
	before func() // called when the primary's query has arrived

	mu struct {
		sync.Mutex
		primary, standby cluster.LSN
		asked            map[string]int
		promoted         bool
	}
}

func newPair(t *testing.T) *pair {
	w := &pair{before: func() {}}
	w.mu.asked = map[string]int{}
	w.p.be(prepared(func(name string) [][]byte {
		w.before()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.mu.asked["p "+name]++
		return texts(w.mu.primary.String(), "000000030000000000000001", "16777216", "8192")
	}))
	w.s.be(prepared(func(name string) [][]byte {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.mu.asked["s "+name]++
		return texts(w.mu.standby.String(), "3", map[bool]string{false: "t", true: "f"}[w.mu.promoted])
	}))
	conn := func(backend string) (*pgconn.Config, error) {
		if backend == "p" {
			return w.p.config(backend)
		}
		return w.s.config(backend)
	}
	w.Sampler = newSampler(time.Second, []Target{{Name: "p"}, {Name: "s"}}, conn,
		func() (string, uint32) { return "p", 3 }, func(string) {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

func (w *pair) set(primary, standby cluster.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.primary, w.mu.standby = primary, standby
}

// asked returns how often each statement was run on each server.
func (w *pair) asked() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.mu.asked)
}

// TestRoundKeepsThePromiseOfMark: a round that was under way when Mark returned
// does not count, one that was requested later does.
func TestRoundKeepsThePromiseOfMark(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPair(t)
		arrived, goOn := make(chan struct{}), make(chan struct{})
		w.before = func() { arrived <- struct{}{}; <-goOn }
		w.set(100, 100)
		w.Request()
		<-arrived
		mark := w.Mark() // a write was answered now; the query of the round is out
		w.set(200, 100)
		w.Request()
		goOn <- struct{}{}
		<-arrived
		if n := w.Samples(); n.Round == 0 || n.Round > mark {
			t.Errorf("mark %d, but the round under way then is %d", mark, n.Round)
		}
		goOn <- struct{}{}
		synctest.Wait()
		if n := w.Samples(); n.Round <= mark || n.LSN != 200 || n.Timeline != 3 || n.Primary != "p" {
			t.Errorf("mark %d, then %+v", mark, n)
		}
		w.before = func() {}
	})
}

// TestRequestsShareRounds: however many ask, a round each sampleGap; nobody asks,
// nothing is sent.
func TestRequestsShareRounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPair(t)
		w.set(100, 100)
		pass(time.Minute)
		if got := w.asked(); got != "map[]" {
			t.Errorf("nobody asked, but: %s", got)
		}
		for range 1000 {
			for range 10 {
				w.Request()
			}
			pass(time.Millisecond)
		}
		pass(time.Minute)
		w.mu.Lock()
		n := w.mu.asked["p primary"]
		w.mu.Unlock()
		if n < 99 || n > 102 {
			t.Errorf("%d rounds in a second, want one each %v", n, sampleGap)
		}
		if uint64(n) != w.Mark() {
			t.Errorf("%d rounds were started, Mark says %d", n, w.Mark())
		}
	})
}

// TestLaggingStandbyIsPolled: until it has caught up, without the primary being
// asked again, and not for ever.
func TestLaggingStandbyIsPolled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPair(t)
		w.set(200, 100)
		w.Request()
		pass(time.Second)
		w.set(200, 200)
		pass(2 * sampleGap)
		if r := replayed(w.Samples(), "s"); r.LSN != 200 || r.Timeline != 3 {
			t.Errorf("%+v", r)
		}
		was := w.asked()
		pass(time.Second)
		if got := w.asked(); got != was {
			t.Errorf("asked on after it had caught up: %s, then %s", was, got)
		}
		w.set(300, 200)
		w.Request()
		pass(samplePoll + sampleGap)
		was = w.asked()
		pass(time.Minute)
		if got := w.asked(); got != was {
			t.Errorf("asked on when nobody waited any more: %s, then %s", was, got)
		}
	})
}

// TestSamplesAreForgotten: when a connection ends between two questions, and when
// a standby is promoted.
func TestSamplesAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPair(t)
		w.set(100, 100)
		known := func() bool { return replayed(w.Samples(), "s").Backend != "" }
		w.Request()
		synctest.Wait()
		if !known() {
			t.Fatal("nothing is known of the standby")
		}
		w.forget("s")
		synctest.Wait()
		if known() {
			t.Error("not forgotten")
		}
		pass(sampleGap)
		w.Request()
		synctest.Wait()
		if !known() || w.s.dials.Load() != 2 {
			t.Errorf("known %t, %d connections: what was said on the old one may not count", known(), w.s.dials.Load())
		}
		w.mu.Lock()
		w.mu.promoted = true
		w.mu.Unlock()
		pass(sampleGap)
		w.Request()
		synctest.Wait()
		if known() {
			t.Error("the standby was promoted, but still counts")
		}
	})
}

// TestUnreachableStandbyIsLeftAlone: it costs one attempt each sampleWait, and the
// primary's samples are not kept waiting.
func TestUnreachableStandbyIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPair(t)
		w.set(100, 100)
		w.s.be(nil)
		for range 200 {
			mark := w.Mark()
			w.Request()
			pass(sampleGap)
			if w.Samples().Round <= mark {
				t.Fatalf("no sample after %v", sampleGap)
			}
		}
		if n := w.s.dials.Load(); n < 3 || n > 5 {
			t.Errorf("%d attempts in 2 s, want one each %v", n, sampleWait)
		}
	})
}
