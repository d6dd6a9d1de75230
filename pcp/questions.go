package pcp

import (
	"context"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func (s *Server) rows() []Node { return Nodes(s.deps.Cluster.State(), s.deps.Observations()) }

func (s *Server) nodes(ctx context.Context, r *request) error {
	if r.flag("watch") {
		return s.watchNodes(ctx, r)
	}
	return r.out.value(s.rows())
}

// watchdog shows the members. What the leader would have to tell is left out when
// it does not answer.
func (s *Server) watchdog(ctx context.Context, r *request) error {
	reports, _ := s.reports(ctx)
	return r.out.value(newWatchdog(s.deps.Watchdog(), s.deps.Cluster.State(), reports))
}

func (s *Server) health(ctx context.Context, r *request) error {
	reports, _ := s.reports(ctx) // as for watchdog
	observed := s.deps.Observations()
	state := s.deps.Cluster.State()
	all := make([]Health, 0, len(state.Backends))
	for i, n := range Nodes(state, observed) {
		agent := state.Backends[i].Agent
		all = append(all, healthOf(n, observed[n.Name], s.deps.Checks(n.Name), localOf(reports, agent, n.Name), agent))
	}
	return r.out.value(all)
}

// localOf returns what the agent reports about its server, or nil.
func localOf(reports map[string]cluster.Reported, agent, backend string) *cluster.Local {
	r, ok := reports[agent]
	if !ok || r.Local == nil || r.Local.Backend != backend {
		return nil
	}
	return r.Local
}

func (s *Server) pools(_ context.Context, r *request) error {
	return r.out.value(append([]Pool{}, s.deps.Pools()...))
}

func (s *Server) sessions(_ context.Context, r *request) error {
	return r.out.value(append([]Session{}, s.deps.Sessions()...))
}

func (s *Server) events(ctx context.Context, r *request) error {
	if r.flag("follow") {
		return s.followEvents(ctx, r)
	}
	return r.out.value(append([]cluster.Event{}, s.deps.Cluster.State().Events...))
}

// oneLine keeps an error, which a peer may have made, on its line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
