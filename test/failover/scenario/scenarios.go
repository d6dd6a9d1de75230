package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// All returns the scenarios in the order in which they are best run.
func All() []Scenario {
	return []Scenario{
		{
			Name: "kill-primary", What: "kill -9 of the primary's postmaster",
			Break: killPrimary, Bar: time.Second,
		},
		{
			Name: "kill-leader", What: "kill -9 of the pgproxy that leads and holds the address",
			Arrange: leaderHolds, Break: killLeader, Mend: restartMembers, Lossless: true, Bar: 1500 * time.Millisecond,
		},
		{
			Name: "freeze-leader", What: "SIGSTOP of the pgproxy that leads and holds the address",
			Arrange: leaderHolds, Break: freezeLeader, Mend: thawLeader, Lossless: true, Bar: 3 * time.Second,
			// The kernel of the frozen holder has acknowledged what the client sent: nothing
			// but its own deadline tells it to look elsewhere.
			GiveUp: 2 * time.Second,
		},
		{
			Name: "cut-host", What: "the host of the primary and of the leading holder is cut off",
			Arrange: allOnOne, Break: cutHost, Mend: healHost, Bar: 3 * time.Second,
		},
		{
			Name: "freeze-primary", What: "SIGSTOP of all processes of the primary",
			Break: freezePrimary, Bar: 4 * time.Second,
		},
		{
			Name: "freeze-postmaster", What: "SIGSTOP of the primary's postmaster alone",
			Break: freezePostmaster,
		},
		{
			Name: "kill-standby", What: "kill -9 of a standby's postmaster",
			Break: killStandby, Seamless: true, Lossless: true,
		},
		{
			Name: "change-leader", What: "the leader, that does not hold the address, is killed",
			Arrange: leaderHoldsNot, Break: changeLeader, Mend: restartMembers, Seamless: true, Lossless: true,
		},
		{
			Name: "promote", What: "pgproxy-pcp promote of a standby",
			Break: switchover, Seamless: true, Lossless: true, Bar: 2 * time.Second,
		},
		{
			Name: "kill-twice", What: "kill -9 of the primary, and of the next one at its first acknowledged row",
			Break: killTwice, Servers: 3,
		},
		{
			Name: "stop-cleanly", What: "the operator restarts the primary by pg_ctl",
			Break: restartCleanly, Lossless: true,
		},
		{
			Name: "pause-leader", What: "the leader is stopped for 5 s under load, while another takes over and switches the primary",
			Arrange: leaderApart, Break: pauseLeader, Lossless: true, Servers: 3,
		},
		{
			Name: "pause-host", What: "the leader and the primary beside it are stopped for 5 s under load, while others take over",
			Arrange: allOnOne, Break: pauseHost,
		},
		{
			Name: "recover-deleted", What: "a standby's data directory is deleted, pgproxy-pcp recover",
			Break: recoverDeleted, Seamless: true, Lossless: true,
		},
		{
			Name: "recover-tablespace", What: "a standby's data directory and tablespace are deleted, pgproxy-pcp recover",
			Rig: func(o *rig.Options) { o.Space, o.Outside = true, true }, Break: recoverTablespace, Seamless: true, Lossless: true,
		},
		{
			Name: "recover-interrupted", What: "recover, and kill -9 of the pgproxy that carries it out half-way",
			Break: recoverInterrupted, Mend: restartMembers, Lossless: true,
		},
		{
			Name: "forgetful-member", What: "a member's data_dir is deleted; it rejoins, then the primary is killed",
			Break: forgetfulMember, Mend: restartMembers,
		},
		{
			Name: "fence", What: "the primary's host is cut off until its agent fences it",
			Arrange: allOnOne, Break: fence, Mend: healHost,
		},
	}
}

// Find returns the scenario of that name.
func Find(name string) (Scenario, error) {
	var all []string
	for _, s := range All() {
		if s.Name == name {
			return s, nil
		}
		all = append(all, s.Name)
	}
	return Scenario{}, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(all, ", "))
}

func killPrimary(ctx context.Context, r *Run) error {
	if err := r.Primary.KillServer(); err != nil {
		return err
	}
	return r.failedOver(ctx)
}

// failedOver waits until a server that was not the primary serves the writer.
func (r *Run) failedOver(ctx context.Context) error {
	if err := r.back(ctx); err != nil {
		return err
	}
	return eventually(ctx, "another server is the primary", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for _, h := range r.Primaries(ctx) {
			if h != r.Primary {
				return nil
			}
		}
		return errors.New("none is")
	})
}

func freezePrimary(ctx context.Context, r *Run) error {
	if err := r.Primary.FreezeServer(); err != nil {
		return err
	}
	return r.failedOver(ctx) // its agent ends the frozen processes by itself
}

func freezePostmaster(ctx context.Context, r *Run) error {
	if err := r.Primary.FreezePostmaster(); err != nil {
		return err
	}
	// The writer's session lives on until the probes have failed.
	return eventually(ctx, "another server is the primary", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for _, h := range r.Primaries(ctx) {
			if h != r.Primary {
				r.mark("another is the primary")
				return nil
			}
		}
		return errors.New("none is")
	})
}

func killLeader(ctx context.Context, r *Run) error {
	if err := r.Leader.KillMember(); err != nil {
		return err
	}
	return r.addressGone(ctx)
}

func freezeLeader(ctx context.Context, r *Run) error {
	if err := r.Leader.FreezeMember(); err != nil {
		return err
	}
	return r.addressGone(ctx)
}

func thawLeader(_ context.Context, r *Run) error { return r.Leader.ThawMember() }

// addressGone waits until the writer is served again, and the kernel of the old
// holder's host has lost the address, whatever its pgproxy does.
func (r *Run) addressGone(ctx context.Context) error {
	gone := make(chan error, 1)
	var after time.Duration
	go func() {
		gone <- eventually(ctx, "the address is gone from "+r.Holder.Name, func(context.Context) error {
			has, err := r.Holder.Holds()
			if err == nil && has {
				err = errors.New("its kernel has it")
			}
			after = time.Since(r.At)
			return err
		})
	}()
	err := r.back(ctx)
	if err := errors.Join(err, <-gone); err != nil {
		return err
	}
	r.marks = append(r.marks, Mark{"address gone from the old holder", after})
	return nil
}

// restartMembers starts the members that do not run, as systemd would.
func restartMembers(_ context.Context, r *Run) error {
	for _, h := range r.Hosts {
		if len(h.MemberProcesses()) == 0 {
			if err := h.StartMember(); err != nil {
				return err
			}
		}
	}
	return nil
}

// lease is how long a member may route after it was cut off (L of the design).
const lease = time.Second

// cutHost cuts the host off, and looks that no write sent to it after its lease is
// acknowledged there.
func cutHost(ctx context.Context, r *Run) error {
	island := r.island()
	if err := island.AwaitAcked(ctx, time.Time{}, 1); err != nil {
		return err
	}
	r.Broken()
	if err := r.Primary.Net.Cut(); err != nil {
		return err
	}
	if err := r.addressGone(ctx); err != nil {
		return err
	}
	return r.islandSilent(island)
}

// island starts a writer on the primary's host, to the pgproxy there.
func (r *Run) island() *Writer {
	host := r.Primary
	w := NewWriter(r.Writer.name+"-island", pace, func() *pgx.ConnConfig {
		cfg := r.ClientConfig(host.IP, rig.ProxyPort, connectTimeout)
		cfg.DialFunc = host.Net.DialContext
		return cfg
	})
	r.start(w)
	return w
}

// islandSilent tells which rows the old primary has acknowledged that it must not.
func (r *Run) islandSilent(island *Writer) error {
	rows, _, _ := island.Rows()
	for _, row := range rows {
		if row.Outcome == Acked && row.Sent.After(r.At.Add(lease)) && strings.HasPrefix(row.Server, r.Primary.IP+"/") {
			return fmt.Errorf("row %d was acknowledged by the cut-off primary %s, sent %s after the cut", row.ID, row.Server, row.Sent.Sub(r.At))
		}
	}
	return nil
}

// healHost lets the cut-off server have written something of its own before.
func healHost(ctx context.Context, r *Run) error {
	if r.Primary.ServerRuns() {
		// It may be fenced by now: then it refuses.
		const own = `INSERT INTO rows (writer, id) SELECT 'nobody''s', 1 WHERE NOT pg_is_in_recovery()`
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := r.Primary.QueryApp(asking, own)
		cancel()
		r.Log("a row that only %s has: %v", r.Primary.Name, err)
	}
	if err := r.Primary.Net.Heal(); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	for _, h := range r.Servers() {
		if n, err := h.QueryApp(ctx, `SELECT count(*) FROM rows WHERE writer = 'nobody''s'`); err != nil || n != "0" {
			return fmt.Errorf("%s rows on %s that only the cut-off primary had (%w)", n, h.Name, err)
		}
	}
	return nil
}

// fence waits until the cut-off server is a standby.
func fence(ctx context.Context, r *Run) error {
	if err := r.Primary.Net.Cut(); err != nil {
		return err
	}
	if err := r.failedOver(ctx); err != nil {
		return err
	}
	err := eventually(ctx, r.Primary.Name+" is fenced", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if value, err := r.Primary.Query(ctx, "SELECT pg_is_in_recovery()"); err != nil || value != "t" {
			return fmt.Errorf("in recovery: %q (%w)", value, err)
		}
		return nil
	})
	r.mark("fenced")
	return err
}

func killStandby(ctx context.Context, r *Run) error {
	standby := r.standby()
	if err := standby.KillServer(); err != nil {
		return err
	}
	if err := r.back(ctx); err != nil {
		return err
	}
	// Its agent starts it again.
	return eventually(ctx, standby.Name+" runs again", func(context.Context) error {
		if !standby.ServerRuns() {
			return errors.New("it does not")
		}
		return nil
	})
}

// standby returns the last one.
func (r *Run) standby() *rig.Host {
	var last *rig.Host
	for _, h := range r.Servers() {
		if h != r.Primary {
			last = h
		}
	}
	return last
}

func changeLeader(ctx context.Context, r *Run) error {
	if err := r.Leader.KillMember(); err != nil {
		return err
	}
	err := eventually(ctx, "another member leads", func(ctx context.Context) error {
		if h := r.Cluster.Leader(ctx); h == nil || h == r.Leader {
			return errors.New("none does")
		}
		return nil
	})
	r.mark("another leads")
	if err != nil {
		return err
	}
	return r.awaitAcked(ctx, time.Now(), 40) // two seconds under the new one
}

func switchover(ctx context.Context, r *Run) error {
	return r.promote(ctx, r.standby(), r.Holder)
}

// promote makes a host's server the primary by an operator's order to a member.
func (r *Run) promote(ctx context.Context, to, at *rig.Host) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := at.PCP(ctx, "promote", to.Name); err != nil {
		return err
	}
	r.mark("promoted")
	if p := r.Primaries(ctx); len(p) != 1 || p[0] != to {
		return fmt.Errorf("after promote %s the primaries are: %s", to.Name, names(p))
	}
	return nil
}

func killTwice(ctx context.Context, r *Run) error {
	if err := killPrimary(ctx, r); err != nil {
		return err
	}
	var next *rig.Host
	for _, h := range r.Primaries(ctx) {
		if h != r.Primary {
			next = h
		}
	}
	if next == nil {
		return errors.New("no new primary")
	}
	// A row that the second one acknowledges and cannot send is lost as one of the
	// first would be.
	if err := eventually(ctx, "another server streams from "+next.Name, func(ctx context.Context) error {
		n, err := next.Query(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
		if err == nil && n == "0" {
			err = errors.New("none does")
		}
		return err
	}); err != nil {
		return err
	}
	r.Primary = next
	r.Broken()
	return killPrimary(ctx, r)
}

func restartCleanly(ctx context.Context, r *Run) error {
	if err := r.Primary.StopServer(ctx, "fast"); err != nil {
		return err
	}
	// Its agent may be faster; what counts is that it serves again.
	if err := r.Primary.StartServer(ctx); err != nil {
		r.Log("start by the operator: %v", err)
	}
	return r.back(ctx)
}

// load starts writers to the leader, at a high rate.
func (r *Run) load(ctx context.Context) error {
	for i := range 4 {
		w := NewWriter(fmt.Sprintf("%s-load%d", r.Writer.name, i), 2*time.Millisecond, func() *pgx.ConnConfig {
			return r.ClientConfig(r.Leader.IP, rig.ProxyPort, connectTimeout)
		})
		r.start(w)
		if err := w.AwaitAcked(ctx, time.Time{}, 50); err != nil {
			return err
		}
	}
	return nil
}

// pause is how long a process is stopped.
const pause = 5 * time.Second

// pauseLeader stops the leader, has the primary switched meanwhile, and continues
// it: nothing it then forwards may be of the time before.
func pauseLeader(ctx context.Context, r *Run) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	r.Broken()
	if err := r.Leader.FreezeMember(); err != nil {
		return err
	}
	thaw := time.NewTimer(pause)
	defer thaw.Stop()
	err := eventually(ctx, "another member leads", func(ctx context.Context) error {
		for _, h := range r.Hosts {
			if value, err := r.metricUnlessFrozen(ctx, h); err == nil && value == 1 {
				r.mark("another leads")
				return nil
			}
		}
		return errors.New("none does")
	})
	if err == nil {
		var to *rig.Host
		for _, h := range r.Servers() {
			if h != r.Primary && h != r.Leader {
				to = h
			}
		}
		err = r.promote(ctx, to, to)
	}
	select {
	case <-ctx.Done():
	case <-thaw.C:
	}
	return errors.Join(err, r.Leader.ThawMember(), r.awaitAcked(ctx, time.Now(), 40))
}

// pauseHost stops the leader and the primary on its host: what the primary answers
// when both are continued, the old leader must not forward.
func pauseHost(ctx context.Context, r *Run) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	r.Broken()
	thaw := time.NewTimer(pause)
	defer thaw.Stop()
	if err := errors.Join(r.Leader.FreezeMember(), r.Primary.FreezeServer()); err != nil {
		return err
	}
	err := r.failedOver(ctx)
	select {
	case <-ctx.Done():
	case <-thaw.C:
	}
	return errors.Join(err, r.Primary.ThawServer(), r.Leader.ThawMember(), r.awaitAcked(ctx, time.Now(), 40))
}

// metricUnlessFrozen tells whether the member leads; the frozen one is not asked.
func (r *Run) metricUnlessFrozen(ctx context.Context, h *rig.Host) (float64, error) {
	if h == r.Leader {
		return 0, nil
	}
	return h.Metric(ctx, "pgproxy_watchdog_leader")
}

// other returns a host with a server that is not the one.
func (r *Run) other(than *rig.Host) *rig.Host {
	for _, h := range r.Servers() {
		if h != than {
			return h
		}
	}
	return nil
}

func recoverDeleted(ctx context.Context, r *Run) error {
	standby := r.standby()
	if err := standby.DeleteData(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := r.Holder.PCP(ctx, "recover", standby.Name)
	r.Log("recover: %s", strings.TrimSpace(out))
	r.mark("recovered")
	return err
}

// recoverTablespace deletes what a standby has in a tablespace too, on an installation
// whose servers have their configuration elsewhere, as Debian's.
func recoverTablespace(ctx context.Context, r *Run) error {
	if err := recoverDeleted(ctx, r); err != nil {
		return err
	}
	standby := r.standby()
	return eventually(ctx, standby.Name+" has its table in the tablespace", func(ctx context.Context) error {
		n, err := standby.QueryApp(ctx, "SELECT count(*) || ' ' || bool_and(pg_tablespace_location(oid) LIKE '%/"+standby.Name+"/%') FROM spaced, pg_tablespace WHERE spcname = 'space'")
		if err == nil && n != "1000 true" {
			err = fmt.Errorf("%s rows, in its own place", n)
		}
		return err
	})
}

// recoverInterrupted kills the member of the server that is being recovered when the
// new data directory has come to be, and starts it again.
func recoverInterrupted(ctx context.Context, r *Run) error {
	// Enough to be in the middle of: some 100 MB.
	const bulk = `CREATE TABLE IF NOT EXISTS bulk AS SELECT i, repeat('x', 1000) AS pad FROM generate_series(1, 100000) i`
	if _, err := r.Primary.QueryApp(ctx, bulk); err != nil {
		return err
	}
	standby := r.standby()
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.Broken()
	before, err := standby.BesideData()
	if err != nil {
		return err
	}
	recovering := make(chan error, 1)
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	go func() {
		_, err := r.other(standby).PCP(asking, "recover", standby.Name)
		recovering <- err
	}()
	if err := eventually(ctx, "a new data directory is made", func(context.Context) error {
		now, err := standby.BesideData()
		if err == nil && len(now) <= len(before) {
			err = fmt.Errorf("there are %v", now)
		}
		return err
	}); err != nil {
		return errors.Join(err, <-recovering)
	}
	if err := standby.KillMember(); err != nil {
		return err
	}
	r.mark("interrupted")
	if err := standby.StartMember(); err != nil {
		return err
	}
	r.Log("recover, interrupted: %v", <-recovering)
	return nil
}

// forgetfulMember deletes what a member that does not lead knows, lets it join again,
// and then has a failover.
func forgetfulMember(ctx context.Context, r *Run) error {
	var member *rig.Host
	for _, h := range r.Hosts {
		if h != r.Leader {
			member = h
		}
	}
	if err := member.KillMember(); err != nil {
		return err
	}
	if err := member.DeleteMemberData(); err != nil {
		return err
	}
	if err := member.StartMember(); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.mark("member back")
	primaries := r.Primaries(ctx)
	if len(primaries) != 1 || primaries[0] != r.Primary {
		return fmt.Errorf("the primary was %s, and is %s after a member has forgotten everything", r.Primary.Name, names(primaries))
	}
	r.Broken()
	return killPrimary(ctx, r)
}
