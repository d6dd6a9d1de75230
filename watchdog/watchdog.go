package watchdog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/identity"
	"github.com/pgproxy/pgproxy/watchdog/lease"
)

// Deps is what a Watchdog is told by the parts around it.
type Deps struct {
	Name     string             // of this member
	DataDir  string             // holds raft.db and snapshots
	Identity *identity.Identity // nil: alone
	Witness  bool

	// Report returns what this member has to say, made anew for each call. Member,
	// Witness, Format and Epoch are filled in here. nil: nothing.
	Report func() cluster.Report
	// Probe has that backend, and the local server, looked at afresh, and returns
	// when that is done or ctx ends. nil: there is nothing to look with.
	Probe func(ctx context.Context, backend string)
	// Cancel cancels what runs for the client's session of that key, if it is this
	// member's; when it returns true the server has been told. nil: there are no clients.
	Cancel func(ctx context.Context, pid uint32, secret []byte) bool

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// ErrNoLeader is returned when no leader was found in time.
var ErrNoLeader = errors.New("no member leads: there is no majority")

// ErrNotLeader is returned by a member that was asked for what only the leader does.
var ErrNotLeader = errors.New("this member does not lead")

// ErrNotMember is returned to one whom the leader does not know as a member.
var ErrNotMember = errors.New("not a member of the watchdog")

// Watchdog is one member.
type Watchdog struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	caller  *caller
	boot    string // of this process, so that its requests can be told from those of the one before

	// Where connections begin, those of raft are handed to it, and its log is: tests
	// put faults there.
	dialer   func(ctx context.Context, network, address string) (net.Conn, error)
	seam     func(net.Conn) net.Conn
	raftDial dialFunc
	logStore func(raft.LogStore) raft.LogStore

	node      atomic.Pointer[node]       // nil before Run has opened it
	leader    atomic.Pointer[leadership] // nil: this member does not lead, or may not act on it yet
	state     atomic.Pointer[cluster.State]
	holder    atomic.Pointer[lease.Holder]
	hardware  atomic.Pointer[[]string]
	removed   atomic.Bool // the leader says that this is no member
	ready     chan struct{}
	readyOnce sync.Once
	failed    chan error    // the first reason to end
	nudged    chan struct{} // of one place
	seq       atomic.Uint64 // of the reports of this process
	cancels   sync.Map      // member -> chan struct{}: questions of CancelElsewhere under way

	changed, leaseChanged, leaderChanged, reportsChanged signal

	// mu orders what is applied and what is granted, so that a member that has
	// applied a barrier holds no lease from before it.
	mu struct {
		sync.Mutex
		pending *taken // a grant whose epoch is not applied yet
	}
}

// taken is a grant and the instant at which it was asked for.
type taken struct {
	grant lease.Grant
	asked time.Time
}

// New returns a member that has opened nothing yet.
func New(cfg Config, deps Deps) (*Watchdog, error) {
	if err := checkName(deps.Name); err != nil {
		return nil, err
	}
	if err := cfg.Validate(deps.Name); err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	if cfg.alone() != (deps.Identity == nil) {
		return nil, errors.New("watchdog: an identity is for those who are not alone")
	}
	w := &Watchdog{
		cfg: cfg, deps: deps, log: deps.Logger, boot: newNonce(),
		ready: make(chan struct{}), failed: make(chan error, 1), nudged: make(chan struct{}, 1),
		seam:     func(c net.Conn) net.Conn { return c },
		logStore: func(s raft.LogStore) raft.LogStore { return s },
	}
	w.raftDial = w.dial
	w.dialer = (&net.Dialer{KeepAlive: 5 * time.Second}).DialContext
	w.caller = newCaller(w.dial)
	w.state.Store(&cluster.State{})
	w.holder.Store(&lease.Holder{})
	var err error
	w.metrics, err = newMetrics(deps.Registerer, func() bool { return w.leader.Load() != nil }, w.quorum)
	return w, err
}

// Run is a member until ctx ends. It returns an error when the member must not go
// on: its data is damaged or newer than this program, or its disk does not answer
// while it leads.
func (w *Watchdog) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	under, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	var wg sync.WaitGroup
	in, err := w.listen(under, &wg)
	if err != nil {
		return err
	}
	n, err := w.open(in)
	if err != nil {
		stop()
		wg.Wait()
		return err
	}
	w.node.Store(n)
	if in != nil {
		wg.Go(func() { w.serve(under, in.calls) })
	}
	var parts sync.WaitGroup
	for _, part := range []func(context.Context){w.followLeader, w.requestLeases, w.watchMembers} {
		parts.Go(func() { part(ctx) })
	}

	select {
	case <-ctx.Done():
	case err = <-w.failed:
		w.log.Error("watchdog: this member ends", "err", err)
		n.silence()
	}
	cancel()
	// raft goes first: what it does needs the connections. It is not waited for when
	// its disk does not answer.
	closed := n.close()
	if !errors.Is(closed, errHung) {
		parts.Wait()
	}
	stop()
	w.caller.close()
	wg.Wait()
	return errors.Join(err, closed)
}

// listen opens the port and starts to accept. nil: this member is alone.
func (w *Watchdog) listen(ctx context.Context, wg *sync.WaitGroup) (*listener, error) {
	if w.cfg.alone() {
		return nil, nil
	}
	port, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listenAddress(w.cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("open watchdog.listen: %w", err)
	}
	in := newListener(port, w.deps.Identity, w.log)
	wg.Go(func() {
		if err := in.run(ctx, w.seam); err != nil {
			w.fail(err)
		}
	})
	return in, nil
}

// listenAddress turns the file's "*:9000" into what package net understands.
func listenAddress(s string) string {
	if len(s) > 1 && s[:2] == "*:" {
		return s[1:]
	}
	return s
}

// fail ends Run with the first error that it is called with.
func (w *Watchdog) fail(err error) {
	select {
	case w.failed <- err:
	default:
	}
}

// Ready is closed when the State is known: this member has applied what its leader
// had when they met.
func (w *Watchdog) Ready() <-chan struct{} { return w.ready }

// State returns the State in force here. It is shared: nobody may write to it.
func (w *Watchdog) State() *cluster.State { return w.state.Load() }

// Changed returns a channel that is closed when a State newer than the present one
// is in force. Who takes the channel first and the State afterwards misses nothing.
func (w *Watchdog) Changed() <-chan struct{} { return w.changed.wait() }

// publish puts s in force. The lease loses first what s takes from it: who sees a
// barrier in State finds no lease from before it.
func (w *Watchdog) publish(s cluster.State) {
	w.mu.Lock()
	before := *w.holder.Load()
	after := before.Apply(&s)
	w.holder.Store(&after)
	w.state.Store(&s)
	if p := w.mu.pending; p != nil && s.Epoch >= p.grant.Epoch {
		w.mu.pending = nil
		after = after.Take(p.grant, p.asked, &s)
		w.holder.Store(&after)
	}
	w.mu.Unlock()
	w.changed.fire()
	if after != before {
		w.leaseChanged.fire()
	}
	w.Nudge() // the leader may wait for this member to have it
}
