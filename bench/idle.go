package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
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
		m, err := idleMemory(ctx, s)
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
func idleMemory(ctx context.Context, s *system) (measurement, error) {
	pids, err := s.pids()
	if err != nil {
		return measurement{}, err
	}
	before, err := memory(pids)
	if err != nil {
		return measurement{}, err
	}
	conns := make([]*pgx.Conn, 0, idleSessions)
	defer func() {
		for _, c := range conns {
			_ = c.Close(context.WithoutCancel(ctx)) // the system is stopped next
		}
	}()
	for range idleSessions {
		conn, err := pgx.Connect(ctx, s.dsn())
		if err != nil {
			return measurement{}, fmt.Errorf("open session %d: %w", len(conns)+1, err)
		}
		conns = append(conns, conn)
		if _, err := conn.Exec(ctx, "SELECT bbalance FROM pgbench_branches WHERE bid = 1"); err != nil {
			return measurement{}, fmt.Errorf("query in session %d: %w", len(conns), err)
		}
	}
	if pids, err = s.pids(); err != nil {
		return measurement{}, err
	}
	after, err := memory(pids)
	if err != nil {
		return measurement{}, err
	}
	return measurement{SessionMemory: float64(after-before) / idleSessions, TotalMemory: float64(after)}, nil
}
