package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// leaderHolds gives the address to the leader.
func leaderHolds(ctx context.Context, r *Run) error {
	leader, err := r.leaderWithServer(ctx)
	if err != nil {
		return err
	}
	return r.moveAddress(ctx, leader)
}

// leaderHoldsNot gives the address to a member that does not lead.
func leaderHoldsNot(ctx context.Context, r *Run) error {
	leader := r.Cluster.Leader(ctx)
	if leader == nil {
		return errors.New("no member leads")
	}
	holders, err := r.Holders()
	if err != nil || len(holders) == 1 && holders[0] != leader {
		return err
	}
	return r.moveAddress(ctx, r.other(leader))
}

// allOnOne gives the address and the primary to the leader's host.
func allOnOne(ctx context.Context, r *Run) error {
	leader, err := r.leaderWithServer(ctx)
	if err != nil {
		return err
	}
	if p := r.Primaries(ctx); len(p) != 1 || p[0] != leader {
		r.At = time.Now()
		if err := r.promote(ctx, leader, leader); err != nil {
			return err
		}
		r.marks = nil
		if err := r.settle(ctx); err != nil {
			return err
		}
	}
	return r.moveAddress(ctx, leader)
}

// leaderApart takes the address and the primary from the leader's host.
func leaderApart(ctx context.Context, r *Run) error {
	leader, err := r.leaderWithServer(ctx)
	if err != nil {
		return err
	}
	if p := r.Primaries(ctx); len(p) == 1 && p[0] == leader {
		r.At = time.Now()
		if err := r.promote(ctx, r.other(leader), leader); err != nil {
			return err
		}
		r.marks = nil
		if err := r.settle(ctx); err != nil {
			return err
		}
	}
	return leaderHoldsNot(ctx, r)
}

// leaderWithServer returns the leader when its host has a server. A witness that
// leads is restarted until another does: nobody orders who leads.
func (r *Run) leaderWithServer(ctx context.Context) (*rig.Host, error) {
	for range 10 {
		leader := r.Cluster.Leader(ctx)
		if leader == nil {
			return nil, errors.New("no member leads")
		}
		if leader.HasServer {
			return leader, nil
		}
		if err := leader.StopMember(ctx); err != nil {
			return nil, err
		}
		if err := eventually(ctx, "another member leads", func(ctx context.Context) error {
			if r.Cluster.Leader(ctx) == nil {
				return errors.New("none does")
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if err := leader.StartMember(); err != nil {
			return nil, err
		}
		if err := r.settle(ctx); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the witness leads again and again")
}

// moveAddress orders a move of the address and waits for it.
func (r *Run) moveAddress(ctx context.Context, to *rig.Host) error {
	holders, err := r.Holders()
	if err != nil || len(holders) == 1 && holders[0] == to {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A member that has just come back reads the log first.
	if err := eventually(ctx, to.Name+" takes the order", func(ctx context.Context) error {
		_, err := to.PCP(ctx, "vip", "move", r.VIP, to.Name)
		return err
	}); err != nil {
		return err
	}
	return eventually(ctx, to.Name+" holds the address", func(context.Context) error {
		holders, err := r.Holders()
		if err == nil && (len(holders) != 1 || holders[0] != to) {
			err = fmt.Errorf("%s do", names(holders))
		}
		return err
	})
}
