package watchdog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/watchdog/lease"
)

// leaseRequest asks for a lease and tells what the member sees.
type leaseRequest struct {
	ID      string         `json:"id"`      // of the server
	Address string         `json:"address"` // where it listens; "" alone
	Boot    string         `json:"boot"`    // of the process
	Seq     uint64         `json:"seq"`     // rises with each request of the process
	Nudge   bool           `json:"nudge,omitempty"`
	Report  cluster.Report `json:"report"`
}

// leaseAnswer grants one.
type leaseAnswer struct {
	Grant    lease.Grant `json:"grant"`
	Hardware []string    `json:"hardware,omitempty"` // addresses of all members' links
}

// requestLeases asks the leader for a lease four times in L, at once when something
// is new, and soon again after a failure.
func (w *Watchdog) requestLeases(ctx context.Context) {
	interval := w.cfg.Lease / 4
	t := time.NewTimer(0)
	defer t.Stop()
	nudge := true
	for {
		asked := time.Now()
		err := w.requestLease(ctx, nudge, asked)
		next := interval
		if err == nil {
			nudge = false
		} else if !errors.Is(err, ErrNoLeader) { // a new leader is a nudge
			next = interval / 8
		}
		t.Reset(max(next-time.Since(asked), interval/16))
		select {
		case <-ctx.Done():
			return
		case <-w.nudged:
			nudge = true
		case <-t.C:
		}
	}
}

// requestLease makes one request. It has a timeout that leaves time for a second one
// within L, and is given up when another member leads.
func (w *Watchdog) requestLease(ctx context.Context, nudge bool, asked time.Time) error {
	to := w.leaderAddress()
	if to == "" {
		return ErrNoLeader
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Lease/2)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() { w.whileLeads(ctx, cancel, to) })
	n := w.node.Load()
	q := leaseRequest{ID: n.id, Boot: w.boot, Seq: w.seq.Add(1), Nudge: nudge, Report: w.report()}
	if m := w.cfg.member(w.deps.Name); m != nil {
		q.Address = m.Address
	}
	answer, err := ask(ctx, w, "lease", q, func(ctx context.Context, l *leadership) (leaseAnswer, error) {
		return l.lease(ctx, w.deps.Name, q)
	})
	w.noteMembership(err)
	if err != nil {
		return err
	}
	w.hardware.Store(&answer.Hardware)
	w.take(answer.Grant, asked)
	return nil
}

// whileLeads cancels when another server than that leads. It ends with ctx.
func (w *Watchdog) whileLeads(ctx context.Context, cancel context.CancelFunc, leader raft.ServerAddress) {
	for {
		changed := w.leaderChanged.wait()
		if w.leaderAddress() != leader {
			cancel()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// noteMembership says once that the leader knows this member no more.
func (w *Watchdog) noteMembership(err error) {
	if err == nil {
		w.removed.Store(false)
		return
	}
	if errors.Is(err, ErrNotMember) && !w.removed.Swap(true) && !w.node.Load().empty() {
		w.log.Warn("watchdog: the leader does not know this member: it was removed; remove its data_dir and add it again")
	}
}

// report makes this member's report.
func (w *Watchdog) report() cluster.Report {
	var r cluster.Report
	epoch := w.State().Epoch // before: what the report says is not older than that
	if w.deps.Report != nil {
		r = w.deps.Report()
	}
	r.Member, r.Witness, r.Format, r.Epoch = w.deps.Name, w.deps.Witness, cluster.Format, epoch
	return r
}

// take takes a grant. One whose epoch is not applied yet gives the right to hold
// addresses now, and the primary when the epoch comes.
func (w *Watchdog) take(g lease.Grant, asked time.Time) {
	w.mu.Lock()
	s := w.state.Load()
	before := *w.holder.Load()
	after := before.Take(g, asked, s)
	w.holder.Store(&after)
	known := s.Epoch >= g.Epoch
	if known {
		w.mu.pending = nil
	} else {
		w.mu.pending = &taken{g, asked}
	}
	w.mu.Unlock()
	if known {
		w.readyOnce.Do(func() { close(w.ready) })
	}
	if after != before {
		w.leaseChanged.fire()
	}
}

// Until returns until when this member may use that backend as the primary; the
// zero time: not now. It is to be compared with a fresh reading of the clock each
// time bytes are handed over, and after each receive (S1).
func (w *Watchdog) Until(backend string) time.Time {
	h := w.holder.Load()
	primary, timeline := h.Primary()
	if primary != backend {
		return time.Time{}
	}
	return h.Until(backend, timeline)
}

// Held returns until when this member's lease itself runs, with or without a primary:
// so long it may hold virtual addresses.
func (w *Watchdog) Held() time.Time { return w.holder.Load().Held() }

// LeaseChanged returns a channel that is closed when Until or Held have changed. That
// they have passed is for the clock to say.
func (w *Watchdog) LeaseChanged() <-chan struct{} { return w.leaseChanged.wait() }

// Nudge sends a report to the leader now.
func (w *Watchdog) Nudge() { poke(w.nudged) }

// Hardware returns the hardware addresses of all members' links, as the leader knows
// them.
func (w *Watchdog) Hardware() []string {
	if p := w.hardware.Load(); p != nil {
		return *p
	}
	return nil
}

// lease answers a member's request (S1): after a round that began after the request
// came in, and with the State that is applied after it.
func (l *leadership) lease(ctx context.Context, member string, q leaseRequest) (leaseAnswer, error) {
	if err := l.admit(member, q); err != nil {
		return leaseAnswer{}, err
	}
	r, err := l.confirm(ctx)
	if err != nil {
		return leaseAnswer{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.mu.members[member]; h == nil || h.boot != q.Boot || h.seq != q.Seq {
		return leaseAnswer{}, fmt.Errorf("a later request of %s has come", member)
	}
	g, err := l.mu.grantor.Grant(member, l.w.State(), r.sent, time.Now())
	if err != nil {
		return leaseAnswer{}, err
	}
	return leaseAnswer{Grant: g, Hardware: l.mu.hardware}, nil
}

// admit takes the report of a request, unless it is no member's or a later one came
// before it.
func (l *leadership) admit(member string, q leaseRequest) error {
	if l.n.server(q.ID) == nil || nameOf(q.ID) != member && !l.w.cfg.alone() {
		return fmt.Errorf("%s: %w", q.ID, ErrNotMember)
	}
	q.Report.Member = member
	l.mu.Lock()
	h := l.mu.members[member]
	if h == nil {
		h = &heard{boot: q.Boot}
		l.mu.members[member] = h
	}
	if h.boot != q.Boot && q.Boot != h.previous {
		h.previous, h.boot, h.seq, h.reportSeq = h.boot, q.Boot, 0, 0
	}
	if h.boot != q.Boot || q.Seq <= h.seq {
		l.mu.Unlock()
		return fmt.Errorf("a later request of %s has come", member)
	}
	news := q.Nudge || differs(h.report.Report, q.Report)
	moved := h.id != q.ID || h.address != q.Address
	now := time.Now()
	h.seq, h.id, h.address, h.connected = q.Seq, q.ID, q.Address, now
	if q.Seq > h.reportSeq {
		h.reportSeq = q.Seq
		h.report = cluster.Reported{Report: q.Report, At: now}
	}
	l.mu.grantor.Acknowledge(member, q.Report.Barred)
	l.addHardware(q.Report.Links)
	l.mu.Unlock()
	if news {
		l.w.reportsChanged.fire()
	}
	if moved {
		poke(l.work)
	}
	return nil
}

// addHardware remembers the addresses of links; l.mu is held. The slice is shared
// with answers and never changed in place.
func (l *leadership) addHardware(links []cluster.Link) {
	for _, link := range links {
		if at, known := slices.BinarySearch(l.mu.hardware, link.Hardware); !known && link.Hardware != "" {
			l.mu.hardware = slices.Insert(slices.Clone(l.mu.hardware), at, link.Hardware)
		}
	}
}

// Barred tells whether no member can hold a lease on the primary that op replaces
// (S2), and if not, when to ask again at the latest. op must be of this member's State
// and barred. While this member does not lead it is never done.
func (w *Watchdog) Barred(op *cluster.Operation) (done bool, wait time.Duration) {
	l := w.leader.Load()
	if l == nil {
		return false, lease.Stretched(w.cfg.Lease)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.grantor.Barred(op, time.Now())
}

// Missing returns the members that Barred still waits for, for logs.
func (w *Watchdog) Missing(op *cluster.Operation) []string {
	l := w.leader.Load()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.grantor.Missing(op, time.Now())
}
