package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// sessionUnit is that of cases that measure memory.
const sessionUnit = "session"

// idleCase is the memory of so many sessions that have run one query each, and the
// processor time that all of them cost while nothing happens.
func idleCase(name string, sessions int, tls bool, systems ...string) benchCase {
	return benchCase{name: name, unit: sessionUnit, systems: systems, run: func(ctx context.Context, t *trial) error {
		before, err := t.on.memory()
		if err != nil {
			return err
		}
		conns, err := openSessions(ctx, t.on.dsn(tls), sessions)
		defer closeSessions(ctx, conns)
		if err != nil {
			return err
		}
		rest, err := t.begin(ctx, 0)
		if err != nil {
			return err
		}
		select {
		case <-time.After(t.options.idleTime):
		case <-ctx.Done():
			return ctx.Err()
		}
		after, err := t.end(0)
		if err != nil {
			return err
		}
		total, err := t.on.memory()
		if err != nil {
			return err
		}
		t.SessionMemory, t.TotalMemory = float64(total-before)/float64(sessions), float64(total)
		t.Units = after.at.Sub(rest.at).Seconds() // system calls are counted for a second
		t.IdleCPU = 100 * (after.proxy - rest.proxy).Seconds() / t.Units
		return nil
	}}
}

// openSessions opens some at a time; those that were opened are not nil, also with an
// error.
func openSessions(ctx context.Context, dsn string, sessions int) ([]*pgx.Conn, error) {
	conns := make([]*pgx.Conn, sessions)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return conns, fmt.Errorf("parse address of system: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range conns {
		g.Go(func() (err error) {
			if conns[i], err = pgx.ConnectConfig(gctx, config); err != nil {
				return fmt.Errorf("open session %d: %w", i+1, err)
			}
			if _, err := conns[i].Exec(gctx, "SELECT bbalance FROM pgbench_branches WHERE bid = 1"); err != nil {
				return fmt.Errorf("query in session %d: %w", i+1, err)
			}
			return nil
		})
	}
	return conns, g.Wait()
}

// closeSessions drops them; what they had to say was said.
func closeSessions(ctx context.Context, conns []*pgx.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}
}
