package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/failover/installation"
)

// The targets.
const (
	Pgproxy = "pgproxy"
	Pgpool  = "pgpool"
)

// The kinds of disturbances.
const (
	failover   = "failover"   // kill -9 of the primary's postmaster
	switchover = "switchover" // by order
)

// startTimeout bounds the start of everything.
const startTimeout = 2 * time.Minute

// reportLines is how much of each log is shown when a run breaks off.
const reportLines = 60

// A machine that is slow for seconds must not look like a cluster that is broken, whose
// address moves. The death of a postmaster is seen by refused connections, and so
// nearly as fast as ever.
const (
	patientHealth   = "health: {timeout: 10s, retries: 2}\n"
	patientWatchdog = "lease: 5s\nheartbeat: 1s\nleader_lease: 500ms\n"
)

// Options say what to run.
type Options struct {
	Target   string                // what stands between clients and servers
	Programs installation.Programs // pgproxy's

	Clients     int           // in all; at least 16
	Pace        time.Duration // of each client, from the end of a statement to the next one
	Failovers   int
	Switchovers int

	Pool         string // pool.mode
	PoolSize     int
	Asynchronous bool   // no standby is waited for; else synchronous_standby_names is set
	Sections     string // further sections of pgproxy.yaml
	Patient      bool   // timers for a machine on which a member may get no processor for a second
	LogLevel     string

	Log    func(format string, args ...any)
	Events string // a file for all events, a JSON object on a line; "": none
	Logs   string // an existing directory for the logs of pgproxy; "": they are not kept
}

// target is an installation that clients are served by.
type target interface {
	rig() *rig.Cluster
	// promote orders a switchover and waits for its end.
	promote(ctx context.Context, to *rig.Host) error
	// mend does what an operator has to do after the loss of a primary, when another
	// one serves.
	mend(ctx context.Context, lost *rig.Host) error
	// settled tells what is missing to a state in which anything may happen again.
	settled(ctx context.Context, primary *rig.Host) error
	report(ctx context.Context) string
	close() error
}

// disturbance is what happened to the servers.
type disturbance struct {
	kind    string
	from    string // the host of the old primary
	to      string
	started time.Time
	over    time.Time // all clients are served again, and the cluster has settled
}

// Run starts everything, disturbs it, ends it and judges what the clients have seen.
// An error says that the run broke off; what the clients must not see is in the
// Result.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	dir, err := os.MkdirTemp("", "pgproxy-clients-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := Install(ctx, dir); err != nil {
		return nil, err
	}
	t, err := start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	r := &run{o: o, target: t, cluster: t.rig(), journal: newJournal()}
	err = r.run(ctx, dir)
	if o.Events != "" {
		err = errors.Join(err, r.journal.write(o.Events))
	}
	if o.Logs != "" {
		err = errors.Join(err, keepLogs(r.cluster, o.Logs))
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s\n%s", err, r.lastErrors(), t.report(context.WithoutCancel(ctx)))
	}
	return r.result(ctx)
}

// keepLogs copies the logs of the members.
func keepLogs(c *rig.Cluster, dir string) error {
	for _, h := range c.Hosts {
		content, err := os.ReadFile(h.MemberLog)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, h.Name+".log"), content, 0o644)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) { // pgpool's hosts have none
			return fmt.Errorf("keep log: %w", err)
		}
	}
	return nil
}

// start starts the target.
func start(ctx context.Context, o Options) (target, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	options := rig.Options{
		Settings: map[string]string{"max_connections": fmt.Sprint(100 + 2*o.Clients)},
		LogLevel: o.LogLevel,
	}
	if o.Patient {
		options.Watchdog = patientWatchdog
		o.Sections += patientHealth
	}
	switch o.Target {
	case Pgproxy:
		options.Sections = fmt.Sprintf("pool: {mode: %s, size: %d}\n%s", o.Pool, o.PoolSize, o.Sections)
		return startPgproxy(ctx, o.Programs, options)
	case Pgpool:
		options.Binary = o.Programs.Proxy // for the roles that setup-sql makes
		return startPgpool(ctx, options, o.Clients)
	default:
		return nil, fmt.Errorf("no target %q", o.Target)
	}
}

type run struct {
	o       Options
	target  target
	cluster *rig.Cluster
	journal *journal

	clients      int         // the number of them
	holders      []*rig.Host // who has the address
	began        time.Time   // all were connected and served
	disturbances []disturbance
}

// run runs the clients and disturbs them.
func (r *run) run(ctx context.Context, dir string) (err error) {
	primary, err := r.awaitPrimary(ctx)
	if err != nil {
		return err
	}
	if _, err := primary.QueryApp(ctx, "SET ROLE "+pgtest.AppUser+";"+schema); err != nil {
		return err
	}
	if !r.o.Asynchronous {
		if err := r.synchronous(ctx); err != nil {
			return err
		}
	}
	if r.holders, err = r.cluster.Holders(); err != nil {
		return err
	}
	started := time.Now()
	shares := divide(r.o.Clients, r.o.Pace.Seconds())
	for _, s := range shares {
		s.each(func(string, int) { r.clients++ })
	}
	cr, err := startCrowd(ctx, r.cluster, dir, shares, r.journal)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cr.end()) }()
	if err := r.journal.awaitServed(ctx, cr.names, started); err != nil {
		return fmt.Errorf("before: %w", err)
	}
	r.began = time.Now()
	r.o.Log("%d clients are served after %.1f s", r.clients, time.Since(started).Seconds())
	if err := r.disturbAll(ctx, cr); err != nil {
		return r.addressMoved(err)
	}
	return r.addressMoved(nil)
}

func (r *run) disturbAll(ctx context.Context, cr *crowd) error {
	for i := range max(r.o.Failovers, r.o.Switchovers) {
		if i < r.o.Failovers {
			if err := r.disturb(ctx, cr, failover); err != nil {
				return fmt.Errorf("failover %d: %w", i+1, err)
			}
		}
		if i < r.o.Switchovers {
			if err := r.disturb(ctx, cr, switchover); err != nil {
				return fmt.Errorf("switchover %d: %w", i+1, err)
			}
		}
	}
	return nil
}

// addressMoved tells that the address is not where it was. What clients have seen is
// then no matter of primaries: with the address went their connections.
func (r *run) addressMoved(err error) error {
	holders, holdersErr := r.cluster.Holders()
	if holdersErr != nil || slices.Equal(holders, r.holders) {
		return errors.Join(err, holdersErr)
	}
	return errors.Join(errors.New("the address has moved, and with it went the clients' connections: is the machine too slow?"), err)
}

// synchronous sets a synchronous standby by hand, on every server: each of them may be
// the primary one day.
func (r *run) synchronous(ctx context.Context) error {
	for _, h := range r.cluster.Servers() {
		for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (h1, h2, h3)'", "SELECT pg_reload_conf()"} {
			if err := h.Exec(ctx, sql); err != nil {
				return err
			}
		}
	}
	if r.o.Target != Pgproxy {
		return nil
	}
	// Until one is recorded as synchronous nobody may be promoted.
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return rig.Poll(ctx, "a synchronous standby is recorded", func(ctx context.Context) error {
		leader := r.cluster.Leader(ctx)
		if leader == nil {
			return errors.New("there is no leader")
		}
		events, err := leader.PCP(ctx, "events")
		if err == nil && !strings.Contains(events, "synchronous: first 1 of [h") {
			err = fmt.Errorf("not among the events: %s", events)
		}
		return err
	})
}

// disturb replaces the primary in one way or the other, and waits until all is well.
func (r *run) disturb(ctx context.Context, cr *crowd, kind string) error {
	// Some time in which nothing happens: each client has been served twice.
	for range 2 {
		if err := r.journal.awaitServed(ctx, cr.names, time.Now()); err != nil {
			return fmt.Errorf("before: %w", err)
		}
	}
	primary, err := r.awaitPrimary(ctx)
	if err != nil {
		return err
	}
	d := disturbance{kind: kind, from: primary.Name, started: time.Now()}
	next := r.other(primary)
	if kind == failover {
		err = primary.KillServer()
	} else {
		err = r.target.promote(ctx, next)
	}
	if err != nil {
		return err
	}
	err = eventually(ctx, "another server is the primary", func(ctx context.Context) error {
		next, err = r.primary(ctx)
		if err == nil && next == primary {
			err = errors.New("it is the old one")
		}
		return err
	})
	if err != nil {
		return err
	}
	d.to = next.Name
	if err := r.journal.awaitServed(ctx, cr.names, time.Now()); err != nil {
		return err
	}
	if kind == failover {
		if err := r.target.mend(ctx, primary); err != nil {
			return err
		}
	}
	err = eventually(ctx, "the cluster has settled", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return r.target.settled(ctx, next)
	})
	if err != nil {
		return err
	}
	if err := r.journal.awaitServed(ctx, cr.names, time.Now()); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	d.over = time.Now()
	r.disturbances = append(r.disturbances, d)
	r.o.Log("%s %s from %s to %s, settled after %.1f s", d.started.UTC().Format(stamp), kind, d.from, d.to, d.over.Sub(d.started).Seconds())
	return nil
}

// awaitPrimary waits until there is one that says so in time.
func (r *run) awaitPrimary(ctx context.Context) (primary *rig.Host, err error) {
	err = eventually(ctx, "there is a primary", func(ctx context.Context) (err error) {
		primary, err = r.primary(ctx)
		return err
	})
	return primary, err
}

// primary returns the server that is the only one which is not in recovery.
func (r *run) primary(ctx context.Context) (*rig.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	all := r.cluster.Primaries(ctx)
	if len(all) != 1 {
		return nil, fmt.Errorf("%d servers are primaries", len(all))
	}
	return all[0], nil
}

// other returns the server that follows a server in the order of the file.
func (r *run) other(h *rig.Host) *rig.Host {
	servers := r.cluster.Servers()
	for i, s := range servers {
		if s == h {
			return servers[(i+1)%len(servers)]
		}
	}
	panic("BUG: the primary is no server of the cluster")
}

// lastErrors are the last events that have failed, for a run that breaks off.
func (r *run) lastErrors() string {
	var b strings.Builder
	all := r.journal.all()
	shown := 0
	for i := len(all) - 1; i >= 0 && shown < 20; i-- {
		if all[i].Failed {
			fmt.Fprintln(&b, &all[i])
			shown++
		}
	}
	return b.String()
}

// streaming tells which servers do not stream from the primary.
func streaming(ctx context.Context, c *rig.Cluster, primary *rig.Host) error {
	names, err := primary.Query(ctx, "SELECT string_agg(DISTINCT application_name, ' ') FROM pg_stat_replication WHERE state = 'streaming'")
	if err != nil {
		return err
	}
	for _, h := range c.Servers() {
		if h != primary && !strings.Contains(" "+names+" ", " "+h.Name+" ") {
			return fmt.Errorf("%s does not stream from %s, only %q", h.Name, primary.Name, names)
		}
	}
	return nil
}

// pgproxyTarget is the ordinary installation: a pgproxy on each host.
type pgproxyTarget struct{ in *installation.Installation }

func startPgproxy(ctx context.Context, p installation.Programs, o rig.Options) (target, error) {
	in, err := installation.Start(ctx, p, o)
	if err != nil {
		return nil, err
	}
	return &pgproxyTarget{in}, nil
}

func (t *pgproxyTarget) rig() *rig.Cluster { return t.in.Cluster }

func (t *pgproxyTarget) promote(ctx context.Context, to *rig.Host) error {
	_, err := to.PCP(ctx, "promote", to.Name)
	return err
}

// mend does nothing: the lost server comes back by itself.
func (t *pgproxyTarget) mend(context.Context, *rig.Host) error { return nil }

func (t *pgproxyTarget) settled(ctx context.Context, primary *rig.Host) error {
	if err := streaming(ctx, t.in.Cluster, primary); err != nil {
		return err
	}
	nodes, err := t.in.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		isPrimary := strings.HasPrefix(n.Address, primary.IP+":")
		if n.Status != "up" || isPrimary != (n.Role == "primary") || !isPrimary && n.Replication != "streaming" {
			return fmt.Errorf("the holder shows %s as %s, %s, %q", n.Address, n.Status, n.Role, n.Replication)
		}
	}
	return nil
}

func (t *pgproxyTarget) report(ctx context.Context) string { return t.in.Report(ctx, reportLines) }

func (t *pgproxyTarget) close() error { return t.in.Close() }
