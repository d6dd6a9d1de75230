package pcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/identity"
)

// dialEnv makes the test's program a client of that socket and nothing else.
const dialEnv = "PGPROXY_PCP_TEST_DIAL"

func TestMain(m *testing.M) {
	if socket := os.Getenv(dialEnv); socket != "" {
		c, err := NewClient(Target{Socket: socket})
		if err == nil {
			_, err = c.Detach(context.Background(), "h2")
		}
		fmt.Println(err)
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	testSecret = "the members' secret of these tests"
	testToken  = "the operators' token of these tests"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fixture is a server of member h1 with everything it stands on. h1 is the primary
// of three, h4 has no agent; h1 holds the address, w is a witness.
type fixture struct {
	*testing.T
	log    *cluster.Log
	deps   Deps
	cfg    Config
	server *Server
	logged *records

	mu struct {
		sync.Mutex
		reports map[string]cluster.Reported
		ages    map[string]time.Duration // of the reports
		status  WatchdogStatus
	}
	stopped atomic.Bool
	killed  atomic.Uint64
	running atomic.Int64 // transactions on the primary while it is paused
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, log: cluster.NewLog(cluster.State{}), logged: &records{}}
	f.apply(cluster.Command{Kind: cluster.KindConfigure, Addresses: []string{"10.77.0.100/24"}, Backends: []cluster.Spec{
		{Name: "h1", Address: "10.77.0.11:5432", Weight: 1, Agent: "h1"},
		{Name: "h2", Address: "10.77.0.12:5432", Weight: 1, Agent: "h2"},
		{Name: "h3", Address: "10.77.0.13:5432", Weight: 2, Agent: "h3"},
		{Name: "h4", Address: "10.77.0.14:5432"},
	}})
	f.apply(cluster.Command{Kind: cluster.KindAdoptPrimary, Backend: "h1", Timeline: 3, SystemID: 7})
	for _, name := range []string{"h2", "h3", "h4"} {
		f.apply(cluster.Command{Kind: cluster.KindSetStatus, Backend: name, Status: cluster.StatusUp})
		f.apply(cluster.Command{Kind: cluster.KindSetRole, Backend: name, Role: cluster.RoleStandby})
	}
	f.apply(cluster.Command{Kind: cluster.KindHold, Address: "10.77.0.100/24", Member: "h1"})
	f.mu.status = WatchdogStatus{Leader: "h2", Term: 5, Quorum: true, Members: []MemberStatus{
		{Name: "h1", Address: "10.77.0.11:9000", State: "follower"},
		{Name: "h2", Address: "10.77.0.12:9000", State: "leader"},
		{Name: "h3", Address: "10.77.0.13:9000", State: "lost"},
		{Name: "w", Address: "10.77.0.15:9000", State: "follower", Witness: true},
	}}
	f.mu.reports = make(map[string]cluster.Reported)
	for _, name := range []string{"h1", "h2", "h3"} {
		f.local(name, cluster.Local{Server: cluster.ServerStandby, Timeline: 3})
	}
	f.report("w", func(r *cluster.Reported) { r.Witness = true })
	dir, err := os.MkdirTemp("", "pcp") // a path of t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f.cfg = Config{UnixSocket: filepath.Join(dir, "pcp.sock")}
	f.deps = f.newDeps()
	return f
}

func (f *fixture) newDeps() Deps {
	known := make(chan struct{})
	close(known)
	return Deps{
		Member: "h1", Managed: true, Cluster: f.log, Ready: known,
		Reports: func(context.Context) (map[string]cluster.Reported, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			reports := make(map[string]cluster.Reported)
			for name, r := range f.mu.reports {
				r.At = time.Now().Add(-f.mu.ages[name])
				reports[name] = r
			}
			return reports, nil
		},
		Watchdog: func() WatchdogStatus {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.mu.status
		},
		AddMember: func(_ context.Context, name, _ string, _ bool) error {
			if name == "refused" {
				return errors.New("it speaks another format")
			}
			return nil
		},
		RemoveMember: func(context.Context, string) error { return nil },
		Observations: func() map[string]cluster.Observation { return testObservations() },
		Checks: func(string) Checks {
			return Checks{Total: 10, Success: 9, Fail: 1, MaxDuration: 0.5, MinDuration: 0.001, AverageDuration: 0.01}
		},
		Pools: func() []Pool {
			return []Pool{{Backend: "h1", Database: "app", User: "alice", Idle: 1, Used: 2, Waiting: 3, Size: 50}}
		},
		Sessions: func() []Session {
			return []Session{{ID: 7, User: "alice", Database: "app", Client: "10.77.0.1:40000", State: "idle", Began: testTime, Pinned: []Pin{{"LISTEN", "UNLISTEN *"}}}}
		},
		Kill: func(id uint64) error {
			if id != 7 {
				return fmt.Errorf("no session %d", id)
			}
			f.killed.Store(id)
			return nil
		},
		Paused:     func() (bool, int) { return f.log.State().Paused != nil, int(f.running.Load()) },
		Stop:       func() { f.stopped.Store(true) },
		Logger:     slog.New(f.logged),
		Registerer: prometheus.NewRegistry(),
	}
}

func testObservations() map[string]cluster.Observation {
	of := func(name, address string, o cluster.Observation) cluster.Observation {
		o.Backend, o.Address, o.At, o.ProbeDuration = name, address, testTime, 1500*time.Microsecond
		return o
	}
	return map[string]cluster.Observation{
		"h1": of("h1", "10.77.0.11:5432", cluster.Observation{
			Alive: true, Ready: true, Role: cluster.RolePrimary, Timeline: 3, LSN: 0x5000000, SystemID: 7,
		}),
		"h2": of("h2", "10.77.0.12:5432", cluster.Observation{
			Alive: true, Ready: true, Role: cluster.RoleStandby, Timeline: 3, LSN: 0x4FFFF00, LagBytes: 256, LagSeconds: 0.25,
			ReplicaState: "streaming", SyncState: "async",
		}),
		"h3": of("h3", "10.77.0.13:5432", cluster.Observation{Err: errors.New("connection refused"), Failures: 2}),
	}
}

// apply changes the cluster as the leader would.
func (f *fixture) apply(c cluster.Command) *cluster.State {
	f.Helper()
	c.At = testTime
	next, err := f.log.Propose(f.Context(), c)
	if err != nil {
		f.Error(err)
	}
	return &next
}

// advance makes the next step of the operation under way.
func (f *fixture) advance(c cluster.Command) {
	f.Helper()
	c.Expect = f.log.State().Epoch
	f.apply(c)
}

// report changes the leader's table.
func (f *fixture) report(member string, change func(*cluster.Reported)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.mu.reports[member]
	r.Member, r.Links = member, []cluster.Link{{Address: "10.77.0.100/24", Carrier: true, Gateway: true}}
	change(&r)
	f.mu.reports[member] = r
}

// age lets a member's last report be older than that.
func (f *fixture) age(member string, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.ages = map[string]time.Duration{member: age + time.Millisecond}
}

func (f *fixture) local(member string, l cluster.Local) {
	l.Backend = member
	f.report(member, func(r *cluster.Reported) { r.Local = &l })
}

// start runs the server until the test ends or stop is called.
func (f *fixture) start() (stop func()) {
	f.Helper()
	var err error
	if f.server, err = New(f.cfg, f.deps); err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.server.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	f.Cleanup(stop)
	return stop
}

// address waits until the listener is open.
func (f *fixture) address(network string) net.Addr {
	f.Helper()
	late := time.After(time.Minute)
	for {
		f.server.mu.Lock()
		address, opened := f.server.mu.addresses[network], f.server.mu.opened
		f.server.mu.Unlock()
		if address != nil {
			return address
		}
		select {
		case <-opened:
		case <-late:
			f.Fatalf("the listener on %s is not open; logged: %v", network, f.logged.all())
		}
	}
}

// client connects to the socket.
func (f *fixture) client() *Client {
	f.Helper()
	return f.clientOf(Target{Socket: f.address("unix").String()})
}

// remote connects over TCP with the content of a file as secret or as token.
func (f *fixture) remote(secret, token string) *Client {
	f.Helper()
	address := f.address("tcp").(*net.TCPAddr)
	t := Target{Host: "127.0.0.1", Port: address.Port}
	if secret != "" {
		t.SecretFile = f.file(secret + "\n")
	}
	if token != "" {
		t.TokenFile = f.file(token + "\n")
	}
	return f.clientOf(t)
}

func (f *fixture) clientOf(t Target) *Client {
	f.Helper()
	c, err := NewClient(t)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	return c
}

func (f *fixture) file(content string) string {
	f.Helper()
	path := filepath.Join(f.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.Fatal(err)
	}
	return path
}

func memberTLS(t *testing.T, secret string) *tls.Config {
	t.Helper()
	id, err := identity.New([]byte(secret), "h1")
	if err != nil {
		t.Fatal(err)
	}
	return id.ServerTLS(Protocol)
}

// records is a log that can be read.
type records struct {
	mu    sync.Mutex
	lines []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	line := rec.Message
	rec.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	return nil
}

func (r *records) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}
