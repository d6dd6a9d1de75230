package proxy

import (
	"slices"

	"github.com/pgproxy/pgproxy/lb"
)

// shorter returns the candidate for whose connections a client waits least if it would
// wait long for those of candidates[from].
func (p *pools) shorter(c *client, candidates []lb.Candidate, from int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groupOn(candidates[from].Name, c)
	if !g.crowded() {
		return from
	}
	return lb.Shorter(candidates, from, func(backend string) int {
		if g := p.groupOn(backend, c); g != nil {
			return g.waiting.Len()
		}
		return 0
	})
}

// crowded reports that a client would wait long for a connection to one of the backends.
func (p *pools) crowded(c *client, backends ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(backends, func(name string) bool { return p.groupOn(name, c).crowded() })
}

// groupOn returns the client's group on a backend; nil: there is none.
func (p *pools) groupOn(backend string, c *client) *group {
	bp := p.mu.byName[backend]
	if bp == nil {
		return nil
	}
	return bp.groups[groupOf(c)]
}

// crowded reports that a newcomer would wait until each connection has served more than
// one of those who came before.
func (g *group) crowded() bool { return g != nil && g.waiting.Len() > max(g.open, 1) }
