package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// patience bounds everything that is waited for. It is no bar: those are of the
// measuring.
const patience = 90 * time.Second

// Scenario is one thing that happens to a cluster.
type Scenario struct {
	Name string
	What string

	// Arrange brings the cluster into the state that is to be broken; nil: any will do.
	Arrange func(ctx context.Context, r *Run) error
	// Break breaks it, checks what must happen, and returns when the service is there
	// again for the writer.
	Break func(ctx context.Context, r *Run) error
	// Mend ends what does not mend itself; nil: nothing is left to do.
	Mend func(ctx context.Context, r *Run) error

	Seamless bool          // no statement fails and no session is lost
	Lossless bool          // also what the old primary has acknowledged is there
	Bar      time.Duration // for the median of the longest gap; 0: none
	// GiveUp is when the writer gives a statement up; 0: after statementTimeout.
	GiveUp time.Duration
	// Rig changes the installation that the scenario needs, for itself alone; nil: any.
	Rig func(*rig.Options)
	// Servers is the least number that it needs; 0: two.
	Servers int
}

// Run is one execution of a scenario.
type Run struct {
	*rig.Cluster
	Writer *Writer
	Log    func(format string, args ...any)

	Primary *rig.Host // before it was broken
	Holder  *rig.Host // likewise
	Leader  *rig.Host
	At      time.Time // when it was broken; set by Broken

	quiet    time.Time // from when on the writer must notice nothing: who comes back disturbs nobody
	sessions int       // of the writer until then

	marks   []Mark
	readers []*Reader
	extra   []*Writer
	wait    sync.WaitGroup
	start   func(*Writer) // starts another one, that ends with the run
}

// Mark is something that a scenario measures beside the gap.
type Mark struct {
	What  string
	After time.Duration // since it was broken
}

// Result is what a run has shown.
type Result struct {
	Account Account
	Marks   []Mark
}

// String is a line for the account and one for the marks.
func (r *Result) String() string {
	var b strings.Builder
	b.WriteString(r.Account.String())
	for i, m := range r.Marks {
		sep := ", "
		if i == 0 {
			sep = "\n  "
		}
		fmt.Fprintf(&b, "%s%s after %.2f s", sep, m.What, m.After.Seconds())
	}
	return b.String()
}

// Execute runs the scenario on a cluster that is settled, and leaves it so. The
// number names the rows.
func (s *Scenario) Execute(ctx context.Context, c *rig.Cluster, number int, log func(format string, args ...any)) (_ Result, err error) {
	r := &Run{Cluster: c, Log: log}
	if err := r.settle(ctx); err != nil {
		return Result{}, fmt.Errorf("before: %w", err)
	}
	if s.Arrange != nil {
		if err := s.Arrange(ctx, r); err != nil {
			return Result{}, fmt.Errorf("arrange: %w", err)
		}
		if err := r.settle(ctx); err != nil {
			return Result{}, fmt.Errorf("arrange: %w", err)
		}
	}
	if err := r.look(ctx); err != nil {
		return Result{}, err
	}
	if err := r.prepareTable(ctx); err != nil {
		return Result{}, err
	}
	writing, stop := context.WithCancel(ctx)
	defer r.wait.Wait()
	defer stop()
	r.start = func(w *Writer) {
		r.extra = append(r.extra, w)
		r.wait.Go(func() { w.Run(writing) })
	}
	r.Writer = NewWriter(fmt.Sprintf("%s-%d-%d", s.Name, os.Getpid(), number), pace, func() *pgx.ConnConfig {
		return c.ClientConfig(c.VIP, rig.ProxyPort, connectTimeout)
	})
	r.Writer.giveUp = cmp.Or(s.GiveUp, statementTimeout)
	r.wait.Go(func() { r.Writer.Run(writing) })
	if s.Seamless {
		r.read(writing)
	}
	if err := r.awaitAcked(ctx, time.Now(), 20); err != nil {
		return Result{}, fmt.Errorf("before: %w", err)
	}
	r.At = time.Now()
	if err := s.Break(ctx, r); err != nil {
		return Result{}, err
	}
	if err := r.awaitAcked(ctx, time.Now(), 20); err != nil {
		return Result{}, fmt.Errorf("afterwards: %w", err)
	}
	r.quiet = time.Now()
	_, r.sessions, _ = r.Writer.Rows()
	if s.Mend != nil {
		if err := s.Mend(ctx, r); err != nil {
			return Result{}, fmt.Errorf("mend: %w", err)
		}
	}
	if err := r.settle(ctx); err != nil {
		return Result{}, fmt.Errorf("afterwards: %w", err)
	}
	r.mark("settled")
	if err := r.awaitAcked(ctx, time.Now(), 5); err != nil {
		return Result{}, fmt.Errorf("afterwards: %w", err)
	}
	stop()
	r.wait.Wait()
	return r.result(ctx, s)
}

// Broken notes the instant of the breaking, where it is later than the start of Break.
func (r *Run) Broken() { r.At = time.Now() }

// mark notes that something has come about.
func (r *Run) mark(what string) { r.marks = append(r.marks, Mark{what, time.Since(r.At)}) }

// look finds out who is who.
func (r *Run) look(ctx context.Context) error {
	primaries := r.Primaries(ctx)
	holders, err := r.Holders()
	r.Leader = r.Cluster.Leader(ctx)
	if err != nil || len(primaries) != 1 || len(holders) != 1 || r.Leader == nil {
		return fmt.Errorf("look: %d primaries, %d holders, leader %v (%w)", len(primaries), len(holders), r.Leader != nil, err)
	}
	r.Primary, r.Holder = primaries[0], holders[0]
	r.Log("primary %s, holder %s, leader %s", r.Primary.Name, r.Holder.Name, r.Leader.Name)
	return nil
}

// prepareTable makes the table, as a client.
func (r *Run) prepareTable(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, r.ClientConfig(r.VIP, rig.ProxyPort, connectTimeout))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", r.VIP, err)
	}
	defer hangUp(conn)
	if _, err := conn.Exec(ctx, table); err != nil {
		return fmt.Errorf("make table: %w", err)
	}
	return nil
}

func (r *Run) awaitAcked(ctx context.Context, after time.Time, count int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return r.Writer.AwaitAcked(ctx, after, count)
}

// back waits until the writer is served again after the breaking.
func (r *Run) back(ctx context.Context) error {
	if err := r.awaitAcked(ctx, r.At, 1); err != nil {
		return err
	}
	r.mark("first acknowledged")
	return nil
}

// eventually repeats a question until it is answered without an error, for patience at
// most.
func eventually(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return rig.Poll(ctx, what, ask)
}

// settle waits until everything is as it should be.
func (r *Run) settle(ctx context.Context) error {
	return eventually(ctx, "the cluster has settled", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return r.settled(ctx)
	})
}

// settled tells what is missing: one primary from which all others stream, one
// holder of the address, a leader, and nodes that the holder calls up.
func (r *Run) settled(ctx context.Context) error {
	for _, h := range r.Hosts {
		if len(h.MemberProcesses()) != 1 {
			return fmt.Errorf("%d pgproxies run on %s", len(h.MemberProcesses()), h.Name)
		}
	}
	primaries := r.Primaries(ctx)
	if len(primaries) != 1 {
		return fmt.Errorf("%d servers are primaries: %s", len(primaries), names(primaries))
	}
	streaming, err := primaries[0].Query(ctx,
		"SELECT string_agg(DISTINCT application_name, ' ' ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming'")
	if err != nil {
		return err
	}
	for _, h := range r.Servers() {
		if h != primaries[0] && !strings.Contains(" "+streaming+" ", " "+h.Name+" ") {
			return fmt.Errorf("%s does not stream from %s; [%s] do", h.Name, primaries[0].Name, streaming)
		}
	}
	holders, err := r.Holders()
	if err != nil {
		return err
	}
	if len(holders) != 1 {
		return fmt.Errorf("%d hosts have the address: %s", len(holders), names(holders))
	}
	if r.Cluster.Leader(ctx) == nil {
		return errors.New("no member leads")
	}
	nodes, err := r.Nodes(ctx)
	if err != nil {
		return err
	}
	return nodesSettled(nodes, primaries[0])
}

func nodesSettled(nodes []rig.Node, primary *rig.Host) error {
	for _, n := range nodes {
		isPrimary := strings.HasPrefix(n.Address, primary.IP+":")
		if n.Status != "up" || isPrimary != (n.Role == "primary") || !isPrimary && n.Replication != "streaming" {
			return fmt.Errorf("the holder shows %s as %s, %s, %q", n.Address, n.Status, n.Role, n.Replication)
		}
	}
	return nil
}

func names(hosts []*rig.Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return strings.Join(all, ", ")
}

// result accounts for the rows on the primary, and compares the standbys with it.
func (r *Run) result(ctx context.Context, s *Scenario) (Result, error) {
	primaries := r.Primaries(ctx)
	if len(primaries) != 1 {
		return Result{}, fmt.Errorf("%d servers are primaries: %s", len(primaries), names(primaries))
	}
	primary := primaries[0]
	res := Result{Marks: r.marks}
	var errs []error
	writers := append([]*Writer{r.Writer}, r.extra...)
	first := r.firstOfNext(writers)
	for _, w := range writers {
		a, err := r.account(ctx, w, primary)
		if err != nil {
			return res, err
		}
		if w == r.Writer {
			res.Account = a
		}
		errs = append(errs, r.judge(s, w, &a, first))
	}
	if err := r.sameEverywhere(ctx, primary); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, r.disturbed())
	for _, reader := range r.readers {
		errs = append(errs, reader.judge())
	}
	return res, errors.Join(errs...)
}

// judge says what a writer's account must not have. What the old primary has
// acknowledged may be lost, as replication is asynchronous: but only until the first
// acknowledgement of another one, for from then on it must not have acknowledged
// anything.
func (r *Run) judge(s *Scenario, w *Writer, a *Account, first time.Time) error {
	var errs []error
	old := r.Primary.IP + "/"
	for _, row := range a.Lost {
		if s.Lossless || !strings.HasPrefix(row.Server, old) || row.Done.After(first) {
			errs = append(errs, fmt.Errorf("row %d of %s is lost, that %s acknowledged at %s; the next primary did so from %s on",
				row.ID, w.name, row.Server, row.Done.Format(stamp), first.Format(stamp)))
		}
	}
	for _, row := range a.Ghosts {
		errs = append(errs, fmt.Errorf("row %d of %s is there, whose client was told at %s: %w", row.ID, w.name, row.Done.Format(stamp), row.Err))
	}
	if s.Seamless && w == r.Writer && len(a.Failed)+len(a.Unknown)+a.Sessions > 0 {
		errs = append(errs, fmt.Errorf("clients have noticed: %s", a))
	}
	return errors.Join(errs[:min(len(errs), 10)]...)
}

// disturbed tells what the writer has noticed of the mending: nothing is broken then,
// and what comes back takes nothing from those who have taken over.
func (r *Run) disturbed() error {
	rows, sessions, refused := r.Writer.Rows()
	for _, row := range rows {
		if row.Sent.After(r.quiet) && row.Outcome != Acked {
			return fmt.Errorf("row %d, sent %s, long after the service was back: %w", row.ID, row.Sent.Format(stamp), row.Err)
		}
	}
	if sessions > r.sessions {
		return fmt.Errorf("%d sessions were lost long after the service was back; refused: %v", sessions-r.sessions, refused)
	}
	return nil
}

// stamp is the form of instants in messages, that of the logs.
const stamp = "15:04:05.000"

// firstOfNext returns when the first row was acknowledged by another server than the
// old primary, after it was broken; far in the future where none was.
func (r *Run) firstOfNext(writers []*Writer) time.Time {
	first := time.Now().Add(time.Hour)
	for _, w := range writers {
		rows, _, _ := w.Rows()
		for _, row := range rows {
			if row.Outcome == Acked && row.Done.After(r.At) && !strings.HasPrefix(row.Server, r.Primary.IP+"/") && row.Done.Before(first) {
				first = row.Done
			}
		}
	}
	return first
}

// account compares a writer's rows with those that are there.
func (r *Run) account(ctx context.Context, w *Writer, primary *rig.Host) (Account, error) {
	present := map[int64]bool{}
	text, err := primary.QueryApp(ctx, fmt.Sprintf("SELECT string_agg(id::text, ' ') FROM rows WHERE writer = '%s'", w.name))
	if err != nil {
		return Account{}, err
	}
	for _, word := range strings.Fields(text) {
		var id int64
		if _, err := fmt.Sscan(word, &id); err != nil {
			return Account{}, fmt.Errorf("read rows: %w", err)
		}
		present[id] = true
	}
	rows, sessions, refused := w.Rows()
	a := newAccount(rows, r.At, present)
	a.Sessions, a.Refused = max(0, sessions-1), refused
	return a, nil
}

// sameEverywhere compares the number and the sum of all rows on all servers.
func (r *Run) sameEverywhere(ctx context.Context, primary *rig.Host) error {
	const q = "SELECT count(*) || ' ' || coalesce(sum(hashtext(writer || id)), 0) FROM rows"
	want, err := primary.QueryApp(ctx, q)
	if err != nil {
		return err
	}
	for _, h := range r.Servers() {
		err := eventually(ctx, h.Name+" has the rows of "+primary.Name, func(ctx context.Context) error {
			got, err := h.QueryApp(ctx, q)
			if err == nil && got != want {
				err = fmt.Errorf("%s, want %s", got, want)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
