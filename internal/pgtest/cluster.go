package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cluster is a primary with its streaming standbys, named h1 (the first
// primary), h2, h3 ...
type Cluster struct {
	Servers []*Server

	bin     Binaries
	dir     string
	primary *Server
}

// New makes a cluster and starts it: it returns when every standby streams. The
// caller must Close it, also after an error of one of its methods.
func New(ctx context.Context, o Options) (*Cluster, error) {
	bin, err := binariesOf(o)
	if err != nil {
		return nil, err
	}
	template := ""
	if !o.Fresh {
		if template, err = bin.template(ctx, o.InitdbArgs); err != nil {
			return nil, err
		}
	}
	dir, err := makeRunDir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, dir: dir}
	if err := c.start(ctx, template, o); err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func binariesOf(o Options) (Binaries, error) {
	if o.Binaries != nil {
		return *o.Binaries, nil
	}
	return FindBinaries()
}

// start makes all data directories while none is in use, so that the standbys
// can be copies of the same template, and then starts the servers.
func (c *Cluster) start(ctx context.Context, template string, o Options) error {
	for i := range o.Standbys + 1 {
		s, err := newServer(ctx, c.bin, c.dir, fmt.Sprintf("h%d", i+1), template, o)
		if err != nil {
			return err
		}
		if i == 0 {
			c.primary, template = s, s.DataDir // for Fresh; equal to the template else
		}
		c.Servers = append(c.Servers, s)
	}
	for _, s := range c.Standbys() {
		if err := s.makeStandby(c.primary); err != nil {
			return err
		}
	}
	if err := c.primary.Start(ctx); err != nil {
		return err
	}
	for _, s := range c.Standbys() {
		if err := c.primary.makeSlot(ctx, s.Name); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, s := range c.Standbys() {
		g.Go(func() error { return s.Start(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.WaitForStreaming(ctx)
}

// makeStandby writes what pg_basebackup -R writes.
func (s *Server) makeStandby(primary *Server) error {
	conninfo := fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s application_name=%s sslmode=disable",
		primary.Port, ReplUser, Password(ReplUser), s.Name)
	auto := fmt.Sprintf("primary_conninfo = '%s'\nprimary_slot_name = '%s'\n", conninfo, s.Name)
	if err := s.bin.writeFile(filepath.Join(s.DataDir, "postgresql.auto.conf"), auto); err != nil {
		return err
	}
	return s.bin.writeFile(filepath.Join(s.DataDir, "standby.signal"), "")
}

// makeSlot makes the replication slot of a standby, that reserves WAL at once.
func (s *Server) makeSlot(ctx context.Context, standby string) error {
	_, err := s.QueryValue(ctx, "postgres",
		fmt.Sprintf("SELECT slot_name FROM pg_create_physical_replication_slot('%s', true)", standby))
	return err
}

// Primary returns the server that is the primary as far as the cluster was told:
// h1, until Promote.
func (c *Cluster) Primary() *Server { return c.primary }

// Standbys returns the servers but the primary.
func (c *Cluster) Standbys() []*Server {
	var all []*Server
	for _, s := range c.Servers {
		if s != c.primary {
			all = append(all, s)
		}
	}
	return all
}

// Server returns a server by its name. A wrong name is a mistake in the caller.
func (c *Cluster) Server(name string) *Server {
	for _, s := range c.Servers {
		if s.Name == name {
			return s
		}
	}
	panic("BUG: no server is named " + name)
}

// Dir returns the directory of the cluster, removed by Close. Users may put
// their own files there.
func (c *Cluster) Dir() string { return c.dir }

// Promote promotes a standby and points the others at it. The old primary is
// left as it is, running or not.
func (c *Cluster) Promote(ctx context.Context, name string) error {
	next, old := c.Server(name), c.primary
	if err := next.Promote(ctx); err != nil {
		return err
	}
	c.primary = next
	for _, s := range c.Standbys() {
		if s == old || !s.Running() {
			continue
		}
		if err := next.makeSlot(ctx, s.Name); err != nil {
			return err
		}
		if err := s.makeStandby(next); err != nil {
			return err
		}
		if err := s.Exec(ctx, "postgres", "SELECT pg_reload_conf()"); err != nil {
			return err
		}
	}
	return nil
}

// PauseReplay stops the replay of a standby and waits until it has stopped.
func (c *Cluster) PauseReplay(ctx context.Context, name string) error {
	s := c.Server(name)
	if err := s.Exec(ctx, "postgres", "SELECT pg_wal_replay_pause()"); err != nil {
		return err
	}
	return s.awaitTrue(ctx, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
}

// ResumeReplay ends PauseReplay.
func (c *Cluster) ResumeReplay(ctx context.Context, name string) error {
	return c.Server(name).Exec(ctx, "postgres", "SELECT pg_wal_replay_resume()")
}

// WaitForStreaming waits until every running standby streams from the primary.
func (c *Cluster) WaitForStreaming(ctx context.Context) error {
	for _, s := range c.Standbys() {
		if !s.Running() {
			continue
		}
		q := fmt.Sprintf("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '%s' AND state = 'streaming')", s.Name)
		if err := c.primary.awaitTrue(ctx, q); err != nil {
			return fmt.Errorf("wait for standby %s to stream: %w\n%s", s.Name, err, s.LogTail(20))
		}
	}
	return nil
}

// WaitForCatchup waits until the named standbys, or all running ones, have
// replayed all that the primary has written so far. It asks the standbys
// themselves: what pg_stat_replication shows lags by up to
// wal_receiver_status_interval.
func (c *Cluster) WaitForCatchup(ctx context.Context, names ...string) error {
	// A commit of our own: what was written without one (asynchronous commits, hint
	// bits) is not sent to standbys before something flushes it, seconds later.
	lsn, err := c.primary.QueryValue(ctx, "postgres",
		"SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgtest', '')")
	if err != nil {
		return err
	}
	for _, s := range c.Standbys() {
		if !s.Running() || len(names) > 0 && !slices.Contains(names, s.Name) {
			continue
		}
		if err := s.awaitTrue(ctx, "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'"); err != nil {
			return fmt.Errorf("wait for standby %s to replay %s: %w\n%s", s.Name, lsn, err, s.LogTail(20))
		}
	}
	return nil
}

// awaitTrue repeats a query of one boolean until it is true.
func (s *Server) awaitTrue(ctx context.Context, query string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := s.Conn(ctx, "postgres", Superuser)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := conn.QueryRow(ctx, query).Scan(&ok); err != nil {
			return fmt.Errorf("query server %s: %w", s.Name, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Close ends the servers without a checkpoint and removes all their files. It
// may be called more than once.
func (c *Cluster) Close(ctx context.Context) error {
	var g errgroup.Group
	for _, s := range c.Servers {
		g.Go(func() error { return s.close(ctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.Servers = nil
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove cluster: %w", err)
	}
	return nil
}
