package proxy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// testPatience bounds what waits for something that is certain to happen, on a machine that
// is busy.
const testPatience = time.Minute

// stage is the Cluster and the Lease of a Server under test.
type stage struct {
	mu struct {
		sync.Mutex
		state   *cluster.State
		until   time.Time
		changed chan struct{} // closed and replaced
	}
	nudged chan struct{} // of capacity 1
}

func newStage(state cluster.State) *stage {
	st := &stage{nudged: make(chan struct{}, 1)}
	st.mu.state, st.mu.changed = &state, make(chan struct{})
	st.mu.until = time.Now().Add(time.Hour)
	return st
}

func (st *stage) State() *cluster.State {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.mu.state
}

func (st *stage) Changed() <-chan struct{} {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.mu.changed
}

func (st *stage) Until(backend string) time.Time {
	st.mu.Lock()
	defer st.mu.Unlock()
	if backend != st.mu.state.Primary {
		return time.Time{}
	}
	return st.mu.until
}

func (st *stage) nudge() {
	select {
	case st.nudged <- struct{}{}:
	default:
	}
}

// lease makes the lease end in that time, and says so.
func (st *stage) lease(d time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.mu.until = time.Now().Add(d)
	close(st.mu.changed)
	st.mu.changed = make(chan struct{})
}

// lapse makes the lease one that has run out, and nobody looks at the clock by
// himself: so it is for a process that was paused.
func (st *stage) lapse() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.mu.until = time.Now().Add(-time.Second)
}

// change makes the next State.
func (st *stage) change(f func(s *cluster.State)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	next := *st.mu.state
	next.Backends = slices.Clone(next.Backends)
	next.Epoch++
	f(&next)
	st.mu.state = &next
	close(st.mu.changed)
	st.mu.changed = make(chan struct{})
}

// begin begins an operation in that phase, or takes it on.
func (st *stage) begin(id uint64, kind cluster.OperationKind, phase cluster.Phase) {
	st.change(func(s *cluster.State) {
		old := s.Primary
		if s.Operation != nil {
			old = s.Operation.Old
		}
		s.Operation = &cluster.Operation{ID: id, Kind: kind, Phase: phase, Old: old}
		if phase != cluster.PhaseDrain {
			s.Primary = ""
			s.Backend(old).Role = cluster.RoleUnknown
		}
	})
}

// adopt ends the operation with that primary.
func (st *stage) adopt(name string, timeline uint32) {
	st.change(func(s *cluster.State) {
		s.Operation, s.Primary, s.Timeline = nil, name, timeline
		s.Backend(name).Role = cluster.RolePrimary
	})
}

// leased is a Server in front of a real cluster, with a lease.
type leased struct {
	*Server
	*stage
	t  *testing.T
	pg *pgtest.Cluster
}

func newLeased(t *testing.T, standbys int, change func(*Config, *Server)) *leased {
	t.Helper()
	pg := pgtest.StartCluster(t, pgtest.Options{Standbys: standbys})
	var addresses []string
	for _, s := range pg.Servers {
		addresses = append(addresses, s.Address())
	}
	l := &leased{stage: newStage(testState(addresses...)), t: t, pg: pg}
	l.exec("h1", "postgres", lookupSQL)
	l.exec("h1", pgtest.AppDatabase, "CREATE TABLE t (n int PRIMARY KEY); ALTER TABLE t OWNER TO app")
	cfg := testConfig(t)
	cfg.Auth.HBAFile = ""
	cfg.Monitor = MonitorConfig{User: pgtest.MonitorUser, Database: "postgres"}
	cfg.Hold.Timeout, cfg.Pool.Wait = testPatience, testPatience
	if change != nil {
		change(&cfg, nil)
	}
	deps := Deps{
		MonitorPassword: pgtest.Password(pgtest.MonitorUser),
		Sampler:         noSampler{},
		HealthStats:     func(string) HealthStats { return HealthStats{} },
		Lease:           l.stage,
		Nudge:           l.nudge,
	}
	l.Server = serveTest(t, cfg, l.stage, deps, func(s *Server) {
		s.handle = s.serveSession
		s.pools.retry = time.Hour // what is held goes on when something happens, not because it asks
		if change != nil {
			change(&cfg, s)
		}
		var err error
		if s.auth, err = newAuthenticator(cfg.Auth, s.store, nil); err != nil {
			t.Fatal(err)
		}
	})
	return l
}

func (l *leased) exec(server, database, sql string) {
	l.t.Helper()
	if err := l.pg.Server(server).Exec(l.t.Context(), database, sql); err != nil {
		l.t.Fatal(err)
	}
}

// ask asks a server itself.
func (l *leased) ask(server, sql string) string {
	l.t.Helper()
	got, err := l.pg.Server(server).QueryValue(l.t.Context(), pgtest.AppDatabase, sql)
	if err != nil {
		l.t.Fatal(err)
	}
	return got
}

// await asks a server itself until it says so.
func (l *leased) await(server, sql, want string) {
	l.t.Helper()
	for deadline := time.Now().Add(testPatience); ; {
		got := l.ask(server, sql)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: %s is %s, want %s", server, sql, got, want)
		}
	}
}

// A statement with waits in its FROM waits while shut holds it, which waiting tells of its
// server process.
const (
	waits   = "pg_advisory_xact_lock(1)"
	waiting = "wait_event_type = 'Lock'"
)

// shut holds statements on a server until open is called, or the end of the test.
func (l *leased) shut(server string) (open func()) {
	l.t.Helper()
	conn, err := l.pg.Server(server).Conn(l.t.Context(), pgtest.AppDatabase, pgtest.Superuser)
	if err != nil {
		l.t.Fatal(err)
	}
	open = sync.OnceFunc(func() { _ = conn.Close(context.Background()) }) // and the lock is gone
	l.t.Cleanup(open)
	if _, err := conn.Exec(l.t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
		l.t.Fatal(err)
	}
	return open
}

// awaitNudge waits until that is so, looking when the Server says that something is.
func (l *leased) awaitNudge(what string, so func() bool) {
	l.t.Helper()
	late := time.After(testPatience)
	for !so() {
		select {
		case <-l.nudged:
		case <-late:
			l.t.Fatalf("not %s", what)
		}
	}
}

func (l *leased) client() *pgx.Conn { return connect(l.t, appDSN(l.Server, "")) }

// ofClients counts what clients have on a server; more is a condition.
func ofClients(more string) string {
	return "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'app' AND " + more
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != code {
		t.Errorf("error %v, want SQLSTATE %s", err, code)
	}
}

// held waits until so many sessions wait for a primary.
func (l *leased) held(n int) {
	l.t.Helper()
	for deadline := time.Now().Add(testPatience); ; {
		held := 0
		for _, s := range l.Sessions() {
			if s.State == "held" {
				held++
			}
		}
		if held == n {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%d sessions are held, want %d", held, n)
		}
	}
}
