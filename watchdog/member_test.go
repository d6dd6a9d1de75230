package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/identity"
)

var secret = []byte("n0JSmWv3oXzPzMqzZ9nHqmEwIuN9V0b7V0aDq0xLw1k=")

// patience bounds every wait of these tests; what they wait for takes milliseconds to
// some seconds on a machine that is busy.
const patience = 30 * time.Second

// group is some members on the loopback interface.
type group struct {
	t       *testing.T
	cfg     Config
	members map[string]*member
}

// member is one of them, running or not.
type member struct {
	*Watchdog
	g      *group
	name   string
	dir    string
	deps   Deps
	tune   func(*Config)   // nil: as the group has it
	before func(*Watchdog) // called between New and Run
	report atomic.Pointer[cluster.Report]
	in     faults // of connections that others made
	out    faults // of connections that it made
	cancel context.CancelFunc
	ended  chan error // nil: not running
	probes atomic.Int32
}

// newGroup makes members of those names, which are not running yet.
func newGroup(t *testing.T, names ...string) *group {
	t.Helper()
	g := &group{t: t, cfg: Default(), members: map[string]*member{}}
	// No change of leader that a test has not made, on a machine that is busy.
	g.cfg.Heartbeat, g.cfg.LeaderLease = 500*time.Millisecond, 500*time.Millisecond
	root := t.TempDir()
	for _, name := range names {
		g.cfg.Members = append(g.cfg.Members, Member{Name: name, Address: freeAddress(t)})
		g.members[name] = &member{g: g, name: name, dir: filepath.Join(root, name)}
	}
	t.Cleanup(func() {
		for _, m := range g.members {
			m.stop()
		}
	})
	return g
}

// freeAddress returns one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testLogger(name string) *slog.Logger {
	out := io.Discard
	level := slog.LevelInfo
	if os.Getenv("WATCHDOG_LOG") != "" { // to look at a failing test
		out, level = os.Stderr, slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})).With("member", name)
}

// start makes every member of those names run, all without a name.
func (g *group) start(names ...string) {
	g.t.Helper()
	if len(names) == 0 {
		for name := range g.members {
			names = append(names, name)
		}
	}
	for _, name := range names {
		g.members[name].start()
	}
}

func (m *member) start() {
	t := m.g.t
	t.Helper()
	id, err := identity.New(secret, m.name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := m.g.cfg
	if m.tune != nil {
		m.tune(&cfg)
	}
	if own := cfg.member(m.name); own != nil {
		cfg.Listen = own.Address
	}
	deps := m.deps
	deps.Name, deps.DataDir, deps.Identity = m.name, m.dir, id
	if cfg.alone() {
		deps.Identity = nil
	}
	deps.Logger, deps.Registerer = testLogger(m.name), prometheus.NewRegistry()
	if deps.Report == nil {
		deps.Report = func() cluster.Report {
			if r := m.report.Load(); r != nil {
				return *r
			}
			return cluster.Report{}
		}
	}
	if deps.Probe == nil {
		deps.Probe = func(context.Context, string) { m.probes.Add(1) }
	}
	if m.Watchdog, err = New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	dial := m.dialer
	m.dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		return m.out.wrap(c, err)
	}
	m.seam = func(c net.Conn) net.Conn {
		c, _ = m.in.wrap(c, nil)
		return c
	}
	if m.before != nil {
		m.before(m.Watchdog)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	m.cancel, m.ended = cancel, ended
	go func() { ended <- m.Run(ctx) }()
}

// stop ends the member and returns what Run did.
func (m *member) stop() error {
	if m.ended == nil {
		return nil
	}
	m.heal()
	m.cancel()
	select {
	case err := <-m.ended:
		m.ended = nil
		return err
	case <-time.After(patience):
		m.g.t.Errorf("%s does not end", m.name)
		m.ended = nil
		return nil
	}
}

// ends waits until Run returns by itself.
func (m *member) ends() error {
	m.g.t.Helper()
	select {
	case err := <-m.ended:
		m.ended = nil
		return err
	case <-time.After(patience):
		m.g.t.Fatalf("%s does not end", m.name)
		return nil
	}
}

// cutOff pulls the member's cable.
func (m *member) cutOff() {
	m.in.cutOff()
	m.out.cutOff()
}

func (m *member) heal() {
	m.in.heal()
	m.out.heal()
}

// leader waits until one of the running members leads and returns it.
func (g *group) leader() *member {
	g.t.Helper()
	var leader *member
	g.until("somebody leads", func() bool {
		leader = nil
		for _, m := range g.running() {
			if _, _, ok := m.Leading(); ok {
				leader = m
			}
		}
		return leader != nil
	})
	return leader
}

func (g *group) running() []*member {
	var all []*member
	for _, m := range g.members {
		if m.ended != nil {
			all = append(all, m)
		}
	}
	return all
}

// followers returns the running members but that one.
func (g *group) followers(leader *member) []*member {
	var all []*member
	for _, m := range g.running() {
		if m != leader {
			all = append(all, m)
		}
	}
	return all
}

// until polls for a condition of the members, which have many events.
func (g *group) until(what string, is func() bool) {
	g.t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !is() {
		select {
		case <-poll.C:
		case <-late.C:
			g.t.Fatalf("after %v not yet: %s", patience, what)
		}
	}
}

func (g *group) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	g.t.Cleanup(cancel)
	return ctx
}

// configure is a command that gives the cluster some backends.
func configure(names ...string) cluster.Command {
	c := cluster.Command{Kind: cluster.KindConfigure, At: time.Now()}
	for i, n := range names {
		c.Backends = append(c.Backends, cluster.Spec{Name: n, Address: fmt.Sprintf("10.0.0.%d:5432", i+1)})
	}
	return c
}

func adopt(backend string) cluster.Command {
	return cluster.Command{Kind: cluster.KindAdoptPrimary, At: time.Now(), Backend: backend, Timeline: 1, SystemID: 7}
}

// propose proposes and fails the test when that is refused.
func (m *member) propose(c cluster.Command) cluster.State {
	m.g.t.Helper()
	for {
		s, err := m.Propose(m.g.context(), c)
		if errors.Is(err, raft.ErrLeadershipLost) {
			continue // the commands of these tests may be applied twice
		}
		if err != nil {
			m.g.t.Fatalf("%s: %v", m.name, err)
		}
		return s
	}
}

// leases waits until that member may use the backend as the primary.
func (m *member) leases(backend string) {
	m.g.t.Helper()
	m.g.until(m.name+" has a lease on "+backend, func() bool { return time.Now().Before(m.Until(backend)) })
}

// faults is a member's network in one direction of connecting. Cut, what it sends
// goes nowhere, as when a cable is pulled, and what it is sent comes late.
type faults struct {
	mu     sync.Mutex
	lossy  bool          // what is written is lost
	healed chan struct{} // what is read comes when it is closed; nil: at once
}

func (f *faults) cutOff() { f.hold(true) }

// holdAnswers keeps back what is read, and lets through what is written.
func (f *faults) holdAnswers() { f.hold(false) }

func (f *faults) hold(lossy bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lossy, f.healed = lossy, make(chan struct{})
}

func (f *faults) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.healed != nil {
		close(f.healed)
		f.lossy, f.healed = false, nil
	}
}

func (f *faults) gate() (lossy bool, healed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lossy, f.healed
}

func (f *faults) wrap(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &faultyConn{Conn: c, f: f, closed: make(chan struct{})}, nil
}

// faultyConn is a connection that its faults hold up in both directions.
type faultyConn struct {
	net.Conn
	f      *faults
	once   sync.Once
	closed chan struct{}
}

// Read holds back what comes while there is a fault.
func (c *faultyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for {
		_, healed := c.f.gate()
		if healed == nil || err != nil {
			return n, err
		}
		select {
		case <-healed:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
}

// Write loses what is written while the member is cut off.
func (c *faultyConn) Write(b []byte) (int, error) {
	if lossy, _ := c.f.gate(); lossy {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *faultyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// slowDisk is a log whose writes hang from some instant on.
type slowDisk struct {
	raft.LogStore
	hangs   atomic.Bool
	release chan struct{}
}

func (d *slowDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *slowDisk) StoreLogs(l []*raft.Log) error {
	if d.hangs.Load() {
		<-d.release
	}
	return d.LogStore.StoreLogs(l)
}
