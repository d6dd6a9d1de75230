package pcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Of streams: how often what is not the State is looked at, and how long a stream
// is silent at most.
const (
	lookEvery  = time.Second
	aliveEvery = 5 * time.Second
)

// follow calls look at once, when the State has changed, and every lookEvery,
// until look says that it is over.
func (s *Server) follow(ctx context.Context, r *request, look func(*cluster.State) (over bool, err error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		changed := s.deps.Cluster.Changed()
		if over, err := look(s.deps.Cluster.State()); over || err != nil {
			return err
		}
		if now := time.Now(); now.Sub(last) >= aliveEvery {
			if err := r.out.alive(); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return s.left(ctx, r)
		case <-changed:
		case <-tick.C:
		}
	}
}

// left says why a stream ends before what it follows.
func (s *Server) left(ctx context.Context, r *request) error {
	switch {
	case !errors.Is(context.Cause(ctx), errStopping):
		return errLeft
	case r.Method == http.MethodPost:
		return fmt.Errorf("%s stops; what was ordered goes on", s.deps.Member)
	}
	return fmt.Errorf("%s stops", s.deps.Member)
}

// watchNodes sends the rows when they are others.
func (s *Server) watchNodes(ctx context.Context, r *request) error {
	var last []byte
	return s.follow(ctx, r, func(*cluster.State) (bool, error) {
		rows := s.rows()
		data, err := json.Marshal(rows)
		if err != nil || bytes.Equal(data, last) {
			return false, err
		}
		last = data
		return false, r.out.item(rows)
	})
}

// followEvents sends what happened, and then what happens.
func (s *Server) followEvents(ctx context.Context, r *request) error {
	return s.follow(ctx, r, s.sendEvents(r, 0))
}

// sendEvents returns a look that sends the events after that epoch. All events of
// one epoch come into the State together.
func (s *Server) sendEvents(r *request, after uint64) func(*cluster.State) (bool, error) {
	return func(state *cluster.State) (bool, error) {
		for _, e := range since(state, after) {
			if err := r.out.item(e); err != nil {
				return true, err
			}
			after = e.Epoch
		}
		return false, nil
	}
}

// since returns the events after that epoch.
func since(s *cluster.State, epoch uint64) []cluster.Event {
	for i, e := range s.Events {
		if e.Epoch > epoch {
			return s.Events[i:]
		}
	}
	return nil
}
