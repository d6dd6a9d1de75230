package clients

import (
	"context"
	"errors"
	"os/exec"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// The kinds of clients.
const (
	kindPgx     = "pgx"
	kindNode    = "node"
	kindPsycopg = "psycopg"
	kindPsql    = "psql"
)

// divide makes the shares of so many clients: a quarter of each kind, of which a third
// each reads, writes and runs transactions. One of each kind listens, but for psql,
// which shows a notification only when it is asked something else. The one that
// notifies comes on top.
func divide(clients int, pace float64) []share {
	var shares []share
	first := 1
	kinds := []string{kindPgx, kindNode, kindPsycopg, kindPsql}
	for i, kind := range kinds {
		n := (clients + i) / len(kinds)
		s := share{Kind: kind, First: first, Pace: pace}
		if kind != kindPsql {
			s.Listeners = 1
		}
		if kind == kindPgx {
			s.Notifiers = 1
		}
		n = max(3, n-s.Listeners)
		s.Reads, s.Writes = (n+2)/3, (n+1)/3
		s.Transactions = n - s.Reads - s.Writes
		first += n + s.Listeners + s.Notifiers
		shares = append(shares, s)
	}
	return shares
}

// crowd is all clients of a run.
type crowd struct {
	names    []string // of those that do something by themselves
	stop     context.CancelFunc
	wait     sync.WaitGroup
	programs []*program
}

// startCrowd starts the clients on the cluster's client host. dir has the installed
// programs.
func startCrowd(ctx context.Context, c *rig.Cluster, dir string, shares []share, j *journal) (_ *crowd, err error) {
	running, stop := context.WithCancel(ctx)
	cr := &crowd{stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, cr.end())
		}
	}()
	command := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		cmd := c.Client.Command(ctx, name, args...)
		cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + dir, "PGSSLMODE=disable", "PGCONNECT_TIMEOUT=3"}, c.Environment()...)
		cmd.Dir = dir
		return cmd
	}
	config := func() *pgx.ConnConfig { return c.ClientConfig(c.VIP, rig.ProxyPort, connectTimeout) }
	for _, s := range shares {
		cr.names = append(cr.names, s.names()...)
		switch s.Kind {
		case kindPgx:
			cr.run(running, s, func(ctx context.Context) (connection, error) { return connectPgx(ctx, config()) }, config, j)
		case kindPsql:
			cr.run(running, s, func(ctx context.Context) (connection, error) {
				return connectPsql(ctx, command(context.WithoutCancel(ctx), "psql", "-X", "-q"))
			}, nil, j)
		case kindNode, kindPsycopg:
			cmd, err := programCommand(ctx, dir, s, command)
			if err != nil {
				return cr, err
			}
			p, err := startProgram(s.Kind, cmd, j)
			if err != nil {
				return cr, err
			}
			cr.programs = append(cr.programs, p)
		default:
			panic("BUG: no kind " + s.Kind)
		}
	}
	return cr, nil
}

// run starts the clients of a share that are goroutines of ours.
func (cr *crowd) run(ctx context.Context, s share, connect func(context.Context) (connection, error), config func() *pgx.ConnConfig, j *journal) {
	s.each(func(behaviour string, number int) {
		c := newClient(s, behaviour, number, connect, j.add)
		if behaviour == opListen {
			l := &listener{client: *c, config: config()}
			cr.wait.Go(func() { l.run(ctx) })
			return
		}
		cr.wait.Go(func() { c.run(ctx) })
	})
}

// end lets all clients finish what is under way and hang up.
func (cr *crowd) end() error {
	cr.stop()
	var errs []error
	for _, p := range cr.programs {
		errs = append(errs, p.stop())
	}
	cr.programs = nil
	cr.wait.Wait()
	return errors.Join(errs...)
}
