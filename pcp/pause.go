package pcp

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// pauseOrder is the order of pause.
type pauseOrder struct {
	Wait float64 `json:"wait_seconds,omitempty"` // for what runs on the primary through the asked member; 0: not at all
}

// quietEvery is how often it is looked whether anything still runs.
const quietEvery = 20 * time.Millisecond

// pause has nothing new begin on the primary, on any member. It answers when that is
// so on this one.
func (s *Server) pause(ctx context.Context, r *request) error {
	var o pauseOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	wait := time.Duration(o.Wait * float64(time.Second))
	if o.Wait < 0 || wait > 24*time.Hour {
		return refuse(http.StatusBadRequest, "wait_seconds %g, want 0 to 86400", o.Wait)
	}
	next, changed, err := s.propose(ctx, r, cluster.Command{Kind: cluster.KindPause})
	if err != nil {
		return err
	}
	word := "paused"
	if !changed {
		word = "paused since " + next.Paused.Since.UTC().Format(time.DateTime) + " UTC"
	}
	running, err := s.awaitQuiet(ctx, r, next.Epoch, wait)
	switch {
	case err != nil:
		return err
	case running == 0:
		return r.out.end("%s; nothing runs on the primary through %s", word, s.deps.Member)
	case wait > 0:
		return conflict("%s, but after %v %s on the primary through %s", word, wait, stillRun(running), s.deps.Member)
	}
	return r.out.end("%s; %s on the primary through %s", word, stillRun(running), s.deps.Member)
}

func stillRun(n int) string {
	if n == 1 {
		return "1 transaction still runs"
	}
	return fmt.Sprintf("%d transactions still run", n)
}

// awaitQuiet waits until the pause, which is of that epoch, is in force on this member, and
// then until nothing runs on the primary any more, for wait at most.
func (s *Server) awaitQuiet(ctx context.Context, r *request, epoch uint64, wait time.Duration) (running int, err error) {
	tick := time.NewTicker(quietEvery)
	defer tick.Stop()
	began := time.Now()
	for alive := began; ; {
		state := s.deps.Cluster.State()
		inForce, running := s.deps.Paused()
		now := time.Now()
		switch {
		case state.Epoch >= epoch && state.Paused == nil:
			return 0, conflict("it was resumed by another order")
		case inForce && (running == 0 || now.Sub(began) >= wait):
			return running, nil
		case !inForce && now.Sub(began) > max(wait, orderTimeout):
			return 0, fmt.Errorf("paused, but not in force on %s after %v", s.deps.Member, orderTimeout)
		}
		if now.Sub(alive) >= aliveEvery {
			alive = now
			if err := r.out.alive(); err != nil {
				return 0, err
			}
		}
		select {
		case <-ctx.Done():
			return 0, s.left(ctx, r)
		case <-tick.C:
		}
	}
}

// resume lets go what is held.
func (s *Server) resume(ctx context.Context, r *request) error {
	if err := r.decode(&struct{}{}); err != nil {
		return err
	}
	paused := s.deps.Cluster.State().Paused
	_, changed, err := s.propose(ctx, r, cluster.Command{Kind: cluster.KindPause, Off: true})
	if err != nil {
		return err
	}
	if !changed {
		return r.out.end("nothing was paused")
	}
	return r.out.end("resumed after %v", time.Since(paused.Since).Round(time.Second))
}

// Pause has nothing new begin on the primary and waits that long for what runs there.
// The pause goes on whatever becomes of ctx or the connection.
func (c *Client) Pause(ctx context.Context, wait time.Duration) (string, error) {
	return stream(ctx, c, http.MethodPost, "pause", pauseOrder{Wait: wait.Seconds()}, func(struct{}) error { return nil })
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context) (string, error) {
	return c.order(ctx, "resume", struct{}{})
}
