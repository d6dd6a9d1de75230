package pcp

import (
	"bytes"
	"context"
	"net/http"
	"runtime/pprof"
	"time"
)

// profileOrder is the order of profile.
type profileOrder struct {
	Seconds float64 `json:"seconds"` // how long to look
}

// maxProfile bounds a profile: it costs a few percent of the processor time.
const maxProfile = 10 * time.Minute

// profile sends what this member's processor time goes into. The process has one
// profiler, so that there is one profile at a time.
func (s *Server) profile(ctx context.Context, r *request) error {
	var o profileOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	if o.Seconds <= 0 || o.Seconds > maxProfile.Seconds() {
		return refuse(http.StatusBadRequest, "seconds %g, want more than 0 and at most %g", o.Seconds, maxProfile.Seconds())
	}
	var taken bytes.Buffer
	if err := pprof.StartCPUProfile(&taken); err != nil {
		return conflict("another profile of %s is being taken", s.deps.Member)
	}
	length := time.Duration(o.Seconds * float64(time.Second))
	err := s.awaitProfile(ctx, r, length)
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	if err := r.out.item(taken.Bytes()); err != nil {
		return err
	}
	return r.out.end("%s profiled for %v", s.deps.Member, length)
}

func (s *Server) awaitProfile(ctx context.Context, r *request, length time.Duration) error {
	taken := time.NewTimer(length)
	defer taken.Stop()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.left(ctx, r)
		case <-taken.C:
			return nil
		case <-alive.C:
			if err := r.out.alive(); err != nil {
				return err
			}
		}
	}
}

// Profile calls see with a profile of the asked member's processor time over that
// long, as `go tool pprof` reads it. The member stops looking when ctx ends.
func (c *Client) Profile(ctx context.Context, length time.Duration, see func(profile []byte) error) (string, error) {
	return stream(ctx, c, http.MethodPost, "profile", profileOrder{Seconds: length.Seconds()}, see)
}
