package proxy

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// linkState says where a link is: an index of poolStates. It is guarded by pools.mu.
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

// PoolInfo counts the server connections of one backend, database and user.
type PoolInfo struct {
	Backend, Database, User string
	Idle, Used              int
	Waiting                 int // clients that wait for one
	Size                    int // how many there may be; 0: as many as are asked for
}

// groupsInUse describes all groups that have a connection or a waiter, in the order of
// their names.
func (p *pools) groupsInUse() []PoolInfo {
	p.mu.Lock()
	all := make(map[[3]string]*PoolInfo)
	for name, bp := range p.mu.byName {
		for key, g := range bp.groups {
			of := [3]string{name, key.database, key.user}
			if all[of] == nil { // replication connections are shown together with the others
				all[of] = &PoolInfo{Backend: name, Database: key.database, User: key.user}
			}
			all[of].Waiting += g.waiting.Len() + g.pending
			if p.mu.cfg.Mode == PoolTransaction && !key.replication {
				all[of].Size = p.mu.cfg.Size
			}
		}
		for l := range bp.links {
			info := all[[3]string{name, l.database, l.user}]
			switch l.state {
			case linkLent:
				info.Used++
			case linkIdle:
				info.Idle++
			case linkCleaning:
			}
		}
	}
	p.mu.Unlock()
	infos := make([]PoolInfo, 0, len(all))
	for _, i := range all {
		if i.Idle+i.Used+i.Waiting > 0 {
			infos = append(infos, *i)
		}
	}
	slices.SortFunc(infos, func(a, b PoolInfo) int {
		return cmp.Or(strings.Compare(a.Backend, b.Backend), strings.Compare(a.Database, b.Database), strings.Compare(a.User, b.User))
	})
	return infos
}

// poolStates are the states in which a server connection is counted.
var poolStates = [...]string{"idle", "used", "cleaning", "opening"}

// count counts the connections of each backend by poolStates.
func (p *pools) count() map[string][len(poolStates)]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string][len(poolStates)]int, len(p.mu.byName))
	for name, bp := range p.mu.byName {
		var n [len(poolStates)]int
		for l := range bp.links {
			n[l.state]++
		}
		n[len(n)-1] = bp.opening
		all[name] = n
	}
	return all
}
