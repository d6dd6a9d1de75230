package pcp

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// Reloaded is what a reload of the configuration file has found.
type Reloaded struct {
	Changed []string // paths of the keys that differ from what was in force
	Restart []string // those of Changed that count only after a restart
}

// Running is what stands for the configuration that is in force on a member.
type Running struct {
	Member string            `json:"member"`
	File   string            `json:"file"`
	Keys   map[string]string `json:"keys"` // digests by path
}

// config tells by which configuration this member runs; no value of it.
func (s *Server) config(_ context.Context, r *request) error {
	return r.out.value(s.deps.Running())
}

// reload has this member read its configuration file again.
func (s *Server) reload(ctx context.Context, r *request) error {
	if err := r.decode(&struct{}{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	done, err := s.deps.Reload(ctx)
	if err != nil {
		return conflict("not reloaded, the old configuration stays: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	sentence := fmt.Sprintf("%s has read its configuration; ", s.deps.Member)
	switch len(done.Changed) {
	case 0:
		sentence += "no key has changed"
	default:
		sentence += "changed: " + strings.Join(done.Changed, ", ")
	}
	if len(done.Restart) > 0 {
		sentence += "; only a restart puts in force: " + strings.Join(done.Restart, ", ")
	}
	return r.out.end("%s", sentence)
}

// Reload has the asked member read its configuration file again.
func (c *Client) Reload(ctx context.Context) (string, error) {
	return c.order(ctx, "reload", struct{}{})
}

// Running returns what stands for the configuration of the asked member.
func (c *Client) Running(ctx context.Context) (r Running, err error) {
	return r, c.once(ctx, http.MethodGet, "config", nil, &r)
}
