package watchdog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/watchdog/lease"
)

const (
	// writeTimeout is how long a write to the leader's own log may take. Heartbeats do
	// not touch the disk: a leader whose disk hangs would lead for ever.
	writeTimeout = 2 * time.Second
	// writeGrace is the part of it that is kept for a second look.
	writeGrace = 500 * time.Millisecond
	// writeInterval is how often an idle leader writes something to find that out.
	writeInterval = 3 * time.Second
)

// leadership is one time that this member leads. All of it is forgotten when it ends.
type leadership struct {
	w     *Watchdog
	n     *node
	term  uint64
	since time.Time // when this process saw that it leads
	over  <-chan struct{}
	end   context.CancelFunc
	wg    sync.WaitGroup
	round rounds
	work  chan struct{} // of one place: membership may have to change
	wrote bool          // an entry of this leadership was committed and applied; of run

	mu struct {
		sync.Mutex
		grantor  *lease.Grantor
		members  map[string]*heard // by name
		hardware []string          // of all links ever reported, sorted
		joining  map[string]joinRequest
	}
}

// heard is what a leader has from one member.
type heard struct {
	report    cluster.Reported
	id        string
	address   string // where it says that it listens
	boot      string
	seq       uint64 // of its last request
	reportSeq uint64 // of report
	previous  string // boot of the process before, whose late requests are dropped
	connected time.Time
}

// followLeader keeps up with who leads. It reads what raft tells at once: raft waits
// for that.
func (w *Watchdog) followLeader(ctx context.Context) {
	n := w.node.Load()
	var l *leadership
	var starting sync.WaitGroup
	defer starting.Wait()
	stop := func() {
		if l == nil {
			return
		}
		l.end()
		w.leader.CompareAndSwap(l, nil)
		w.log.Info("watchdog: leads no more", "term", l.term)
		l = nil
	}
	defer stop()
	var known string
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-n.notify:
			stop()
			if leads {
				leading, end := context.WithCancel(ctx)
				begun := w.newLeadership(n, leading.Done(), end)
				starting.Go(func() { begun.run(leading) })
				l = begun
			}
		case <-n.observed:
			_, id := n.raft.LeaderWithID()
			if name := nameOf(id); name != known {
				known = name
				w.sayLeader(name, n.raft.CurrentTerm())
			}
		}
		w.leaderChanged.fire()
		w.Nudge()
	}
}

// sayLeader logs who leads; this member's own leadership is logged when it may act.
func (w *Watchdog) sayLeader(name string, term uint64) {
	switch name {
	case "":
		w.log.Warn("watchdog: nobody leads", "term", term)
	case w.deps.Name:
	default:
		w.log.Info("watchdog: follows", "leader", name, "term", term)
	}
}

func (w *Watchdog) newLeadership(n *node, over <-chan struct{}, end context.CancelFunc) *leadership {
	l := &leadership{
		w: w, n: n, over: over, end: end, term: n.raft.CurrentTerm(), since: time.Now(),
		work: make(chan struct{}, 1),
	}
	l.round.wake = make(chan struct{}, 1)
	l.mu.grantor = lease.NewGrantor(w.cfg.Lease, l.term, l.since)
	l.mu.members = map[string]*heard{}
	l.mu.joining = map[string]joinRequest{}
	return l
}

// run is the leadership until ctx ends. Nothing is granted or answered before the
// State has all that earlier leaders committed, which the first barrier shows.
func (l *leadership) run(ctx context.Context) {
	defer l.wg.Wait()
	if !l.writes(ctx) {
		return
	}
	w := l.w
	w.leader.Store(l)
	if ctx.Err() != nil { // it ended meanwhile
		w.leader.CompareAndSwap(l, nil)
		return
	}
	w.log.Info("watchdog: leads", "term", l.term, "epoch", w.State().Epoch)
	w.leaderChanged.fire()
	w.Nudge()
	l.wg.Go(func() { l.runRounds(ctx) })
	l.wg.Go(func() { l.runMembership(ctx) })
	t := time.NewTicker(writeInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if !l.writes(ctx) {
				return
			}
		}
	}
}

// writes tells whether an entry of this leadership could be committed. When it could
// not and raft still leads, this member ends: another can write. A process that was
// paused finds its timer over at once, so it tries once more before it believes that.
func (l *leadership) writes(ctx context.Context) bool {
	ok, hangs := l.write(ctx, writeTimeout-writeGrace)
	if hangs {
		ok, hangs = l.write(ctx, writeGrace)
	}
	if hangs {
		l.w.fail(fmt.Errorf("this member leads, and could not write to its log within %v", writeTimeout))
	}
	return ok
}

// write commits an entry; hangs: it was not committed in time, and raft still leads.
func (l *leadership) write(ctx context.Context, within time.Duration) (ok, hangs bool) {
	done := make(chan error, 1)
	// Not waited for at the end: it may hang with the disk. Shutdown of raft ends it.
	go func() { done <- l.n.raft.Barrier(within).Error() }()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return false, false
	case err := <-done:
		switch {
		case err == nil:
			l.wrote = true
			return l.n.leads(l.term), false
		case errors.Is(err, raft.ErrLeadershipTransferInProgress):
			if l.wrote {
				return true, false
			}
			select { // one that an earlier leadership began ends within that
			case <-ctx.Done():
				return false, false
			case <-time.After(l.w.cfg.Heartbeat):
				return l.write(ctx, within)
			}
		case !errors.Is(err, raft.ErrEnqueueTimeout):
			return false, false // raft says so itself soon
		}
	case <-timeout.C:
	}
	return false, l.n.leads(l.term)
}

// Leading returns the term of this member's leadership and since when it leads. ok
// Leading returns the term of this member's leadership and since when it leads. ok
// is false when it does not, or when its State may lack what an earlier leader wrote.
func (w *Watchdog) Leading() (term uint64, since time.Time, ok bool) {
	l := w.leader.Load()
	if l == nil {
		return 0, time.Time{}, false
	}
	return l.term, l.since, true
}

// LeaderChanged returns a channel that is closed when another member leads, or none,
// or this one begins or ends to.
func (w *Watchdog) LeaderChanged() <-chan struct{} { return w.leaderChanged.wait() }

// leaderAddress returns where the leader is, as raft knows it; "" none.
func (w *Watchdog) leaderAddress() raft.ServerAddress {
	n := w.node.Load()
	if n == nil {
		return ""
	}
	a, _ := n.raft.LeaderWithID()
	return a
}

// quorum tells whether this member knows a leader, which only a majority makes.
func (w *Watchdog) quorum() bool { return w.leaderAddress() != "" }

// Transfer hands the leadership to another member. The caller drops the virtual
// addresses first: for a moment two members may think that they lead.
func (w *Watchdog) Transfer(ctx context.Context) error {
	n := w.node.Load()
	if n == nil || w.leader.Load() == nil || len(n.servers()) < 2 {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- n.raft.LeadershipTransfer().Error() }() // ends by itself after one election timeout
	select {
	case <-ctx.Done():
		return fmt.Errorf("hand over the leadership: %w", ctx.Err())
	case err := <-done:
		if err != nil {
			return fmt.Errorf("hand over the leadership: %w", err)
		}
		return nil
	}
}
