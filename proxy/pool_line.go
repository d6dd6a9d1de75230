package proxy

import "slices"

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
