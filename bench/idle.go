package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// idleCase is the name of the memory case.
const idleCase = "memory per idle session, 500 sessions"

// measureIdle starts each system alone with room for the sessions, so that no
// memory of an earlier load is counted, and stops it again.
func measureIdle(ctx context.Context, r *rig, o options, report *report) error {
	if !o.cases.MatchString(idleCase) {
		return nil
	}
	for _, d := range definitions {
		if d.command == nil || !d.wanted(o.systems) {
			continue
		}
		s, err := r.start(ctx, d, idleSessions+20)
		if err != nil {
			return err
		}
		m, err := idleMemory(ctx, s, idleSessions)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			m.Err = err.Error()
		}
		report.add(idleCase, "B", d.name, m)
		r.stop(s)
	}
	report.print(os.Stdout, idleCase)
	return nil
}

// idleMemory opens sessions that have run one query each.
func idleMemory(ctx context.Context, s *system, sessions int) (measurement, error) {
	pids, err := s.pids()
	if err != nil {
		return measurement{}, err
	}
	before, err := memory(pids)
	if err != nil {
		return measurement{}, err
	}
	conns, err := openSessions(ctx, s, sessions)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close(context.WithoutCancel(ctx)) // they have said what they had to
			}
		}
	}()
	if err != nil {
		return measurement{}, err
	}
	if pids, err = s.pids(); err != nil {
		return measurement{}, err
	}
	after, err := memory(pids)
	if err != nil {
		return measurement{}, err
	}
	return measurement{SessionMemory: float64(after-before) / float64(sessions), TotalMemory: float64(after)}, nil
}

// openSessions opens some at a time; those that were opened are not nil, also with an
// error.
func openSessions(ctx context.Context, s *system, sessions int) ([]*pgx.Conn, error) {
	conns := make([]*pgx.Conn, sessions)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range conns {
		g.Go(func() (err error) {
			if conns[i], err = pgx.Connect(gctx, s.dsn()); err != nil {
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
