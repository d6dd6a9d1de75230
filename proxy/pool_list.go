package proxy

import "time"

// linkState says where a link is. It is guarded by pools.mu.
type linkState int

const (
	linkIdle linkState = iota
	linkLent
	linkCleaning
)

// poolConn describes one server connection for SHOW and the metrics.
type poolConn struct {
	id                      uint64
	backend, database, user string
	pid                     uint32
	created                 time.Time
	idleSince               time.Time // zero: never idle yet; of the last time when lent
	uses                    uint64
	lent                    bool
}

// list describes all connections that are lent or idle.
func (p *pools) list() (conns []poolConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, bp := range p.mu.byName {
		for l := range bp.links {
			if l.state == linkCleaning {
				continue
			}
			conns = append(conns, poolConn{
				id: l.id, backend: l.backend, database: l.database, user: l.user,
				pid: l.pid, created: l.created, idleSince: l.idleSince, uses: l.uses, lent: l.state == linkLent,
			})
		}
	}
	return conns
}
