package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// stormSessions run stormStatements statements each on few server connections. All but
// the spared ones are cancelled at random moments.
const (
	stormSessions   = 16
	stormSpared     = 4
	stormStatements = 150
)

// TestCancelStorm cancels sessions that share server connections: what is answered with
// 57014 must have been running while its own session was cancelled.
func TestCancelStorm(t *testing.T) {
	for _, mode := range []PoolMode{PoolSession, PoolTransaction} {
		for _, size := range []int{1, 2} {
			if mode == PoolSession && size == 1 {
				continue // there the size bounds idle connections only
			}
			t.Run(fmt.Sprintf("%s of %d", mode, size), func(t *testing.T) {
				l := newLeased(t, 0, func(cfg *Config, _ *Server) {
					cfg.Pool.Mode, cfg.Pool.Size, cfg.Pool.Wait = mode, size, time.Minute
				})
				storm(t, l)
			})
		}
	}
}

func storm(t *testing.T, l *leased) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	began := time.Now()
	var wg sync.WaitGroup
	var struck atomic.Int64
	for i := range stormSessions {
		s := &stormy{
			t: t, name: i, conn: l.client(), began: began,
			random: rand.New(rand.NewPCG(seed, uint64(i))),
		}
		ctx, stop := context.WithCancel(t.Context())
		if i >= stormSpared {
			random := rand.New(rand.NewPCG(seed, uint64(stormSessions+i)))
			wg.Go(func() { s.cancel(ctx, random) })
		}
		wg.Go(func() {
			defer stop()
			for range stormStatements {
				s.step()
			}
			struck.Add(int64(s.struck))
		})
	}
	wg.Wait()
	if struck.Load() == 0 {
		t.Error("no statement was ever cancelled")
	}
	t.Logf("%d statements were cancelled", struck.Load())
}

// stormy is one session of a storm and what is known of its cancels.
type stormy struct {
	t      *testing.T
	name   int
	conn   *pgx.Conn
	began  time.Time
	random *rand.Rand
	struck int

	mu struct {
		sync.Mutex
		cancels []span // the last one may be under way: then its end is zero
	}
}

// span is a time, since the storm began.
type span struct{ start, end time.Duration }

// cancel sends cancel requests until ctx ends.
func (s *stormy) cancel(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		pause := time.NewTimer(time.Duration(random.IntN(8000)) * time.Microsecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		s.mu.Lock()
		s.mu.cancels = append(s.mu.cancels, span{start: time.Since(s.began)})
		s.mu.Unlock()
		err := s.conn.PgConn().CancelRequest(context.WithoutCancel(ctx))
		s.mu.Lock()
		s.mu.cancels[len(s.mu.cancels)-1].end = time.Since(s.began)
		s.mu.Unlock()
		if err != nil {
			s.t.Errorf("session %d: cancel: %v", s.name, err)
			return
		}
	}
}

// cancelledIn reports that a cancel of the session was under way at some moment of that
// time.
func (s *stormy) cancelledIn(d span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.mu.cancels, func(c span) bool {
		return c.start < d.end && (c.end == 0 || c.end > d.start)
	})
}

// step runs a short statement, or a transaction of some.
func (s *stormy) step() {
	if s.random.IntN(3) > 0 {
		s.exec(s.statement())
		return
	}
	if !s.exec("BEGIN") {
		return
	}
	good := true
	for range 1 + s.random.IntN(3) {
		good = good && s.exec(s.statement())
	}
	if good && s.exec("COMMIT") {
		return
	}
	for range 100 { // it may be cancelled itself
		if s.exec("ROLLBACK") {
			return
		}
	}
	s.t.Errorf("session %d: no end of its transaction", s.name)
}

func (s *stormy) statement() string {
	switch s.random.IntN(3) {
	case 0:
		return fmt.Sprintf("SELECT pg_sleep(%f)", s.random.Float64()/200)
	case 1:
		return fmt.Sprintf("INSERT INTO t VALUES (%d) ON CONFLICT DO NOTHING", s.random.IntN(1000))
	}
	return fmt.Sprintf("SELECT count(*) FROM generate_series(1, %d)", s.random.IntN(8000))
}

// exec runs a statement, which nobody but the session itself may have cancelled.
func (s *stormy) exec(sql string) bool {
	d := span{start: time.Since(s.began)}
	_, err := s.conn.Exec(context.WithoutCancel(s.t.Context()), sql, pgx.QueryExecModeSimpleProtocol)
	d.end = time.Since(s.began)
	switch {
	case err == nil:
		return true
	case !isCanceled(err):
		s.t.Errorf("session %d: %s: %v", s.name, sql, err)
	case !s.cancelledIn(d):
		s.t.Errorf("session %d: %s: %v, and nobody has cancelled it", s.name, sql, err)
	default:
		s.struck++
	}
	return false
}
