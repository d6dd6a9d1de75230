package watchdog

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Reports returns the last report of each member, this one included, when it leads;
// else nil. At is by this member's clock.
func (w *Watchdog) Reports() map[string]cluster.Reported {
	l := w.leader.Load()
	if l == nil {
		return nil
	}
	return l.reports()
}

func (l *leadership) reports() map[string]cluster.Reported {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]cluster.Reported, len(l.mu.members))
	for name, h := range l.mu.members {
		out[name] = h.report
	}
	return out
}

// ReportsChanged returns a channel that is closed when a report came in that says
// something new, or that its member sent at once. What only ages or grows is not new.
func (w *Watchdog) ReportsChanged() <-chan struct{} { return w.reportsChanged.wait() }

// reportsAnswer is the leader's reports on their way. Ages, not times, cross the
// network.
type reportsAnswer struct {
	Reports []agedReport `json:"reports"`
}

type agedReport struct {
	cluster.Report
	ReportAge time.Duration `json:"report_age"`
}

// AllReports returns the leader's Reports at any member, At by this member's clock.
func (w *Watchdog) AllReports(ctx context.Context) (map[string]cluster.Reported, error) {
	answer, err := ask(ctx, w, "reports", struct{}{}, func(_ context.Context, l *leadership) (reportsAnswer, error) {
		return l.agedReports(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("get reports: %w", err)
	}
	now := time.Now()
	out := make(map[string]cluster.Reported, len(answer.Reports))
	for _, r := range answer.Reports {
		out[r.Member] = cluster.Reported{Report: r.Report, At: now.Add(-r.ReportAge)}
	}
	return out, nil
}

func (l *leadership) agedReports() reportsAnswer {
	var answer reportsAnswer
	now := time.Now()
	for _, r := range l.reports() {
		answer.Reports = append(answer.Reports, agedReport{r.Report, now.Sub(r.At)})
	}
	return answer
}

// Voters returns the members that vote, sorted.
func (w *Watchdog) Voters() []string {
	n := w.node.Load()
	if n == nil {
		return nil
	}
	var names []string
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			names = append(names, w.memberOf(string(s.ID)))
		}
	}
	slices.Sort(names)
	return names
}

// memberOf returns the member of a server's id. A lone member may have got another
// name since its incarnation began.
func (w *Watchdog) memberOf(id string) string {
	if n := w.node.Load(); n != nil && id == n.id {
		return w.deps.Name
	}
	return nameOf(id)
}

// probeRequest asks a member to look at a backend afresh.
type probeRequest struct {
	To      string `json:"to"`
	Backend string `json:"backend"`
}

// Ask has all voters look at that backend, and at their own servers, afresh; their
// Reports are here when it returns. It returns nil when all have answered; else an
// error that names who has not, when ctx ends.
func (w *Watchdog) Ask(ctx context.Context, backend string) error {
	l := w.leader.Load()
	if l == nil {
		return ErrNotLeader
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var missing []string
	for _, s := range l.n.servers() {
		if s.Suffrage != raft.Voter {
			continue
		}
		wg.Go(func() {
			if err := l.probe(ctx, s, backend); err != nil {
				mu.Lock()
				missing = append(missing, w.memberOf(string(s.ID)))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("ask members about %s: no answer of %s", backend, strings.Join(missing, ", "))
	}
	return nil
}

// probe has one member look, and keeps what it says.
func (l *leadership) probe(ctx context.Context, s raft.Server, backend string) error {
	q := probeRequest{To: string(s.ID), Backend: backend}
	var answer leaseRequest
	var err error
	if string(s.ID) == l.n.id {
		answer, err = l.w.look(ctx, q)
	} else {
		err = l.w.caller.call(ctx, s.Address, "probe", q, &answer)
	}
	if err != nil {
		return err
	}
	l.note(l.w.memberOf(string(s.ID)), answer)
	return nil
}

// look is the member's side of Ask.
func (w *Watchdog) look(ctx context.Context, q probeRequest) (leaseRequest, error) {
	n := w.node.Load()
	if q.To != n.id {
		return leaseRequest{}, fmt.Errorf("the question is for %s, this is %s", q.To, n.id)
	}
	if w.deps.Probe != nil {
		w.deps.Probe(ctx, q.Backend)
	}
	if ctx.Err() != nil {
		return leaseRequest{}, errors.New("the look was not finished in time")
	}
	seq := w.seq.Add(1)
	return leaseRequest{ID: n.id, Boot: w.boot, Seq: seq, Report: w.report()}, nil
}

// note keeps a report that came as an answer. It says nothing about leases: what it
// says is barred comes with a request too, in order.
func (l *leadership) note(member string, q leaseRequest) {
	q.Report.Member = member
	l.mu.Lock()
	h := l.mu.members[member]
	if h == nil {
		h = &heard{boot: q.Boot, id: q.ID}
		l.mu.members[member] = h
	}
	newer := h.boot == q.Boot && q.Seq > h.reportSeq
	if newer {
		h.reportSeq = q.Seq
		h.report = cluster.Reported{Report: q.Report, At: time.Now()}
	}
	l.mu.Unlock()
	if newer {
		l.w.reportsChanged.fire()
	}
}

// differs tells whether a report says something that the last one did not. Ages,
// durations, and positions and counts that only grow, are no news.
func differs(a, b cluster.Report) bool { return !reflect.DeepEqual(settled(a), settled(b)) }

// settled returns r without what changes all the time.
func settled(r cluster.Report) cluster.Report {
	r.Sights = slices.Clone(r.Sights)
	for i := range r.Sights {
		s := &r.Sights[i]
		s.Age, s.Took, s.LSN, s.LagBytes = 0, 0, 0, 0
		s.PostmasterAt = s.PostmasterAt.UTC().Round(0)
	}
	if r.Local != nil {
		local := *r.Local
		local.Age, local.End, local.Progress, local.Detail = 0, 0, 0, ""
		local.Slots = slices.Clone(local.Slots)
		for i := range local.Slots {
			local.Slots[i].Held = 0
		}
		r.Local = &local
	}
	return r
}
