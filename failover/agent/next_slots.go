package agent

import (
	"slices"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// slot is a physical replication slot of pgproxy on the local server.
type slot struct {
	name    string
	restart cluster.LSN // the oldest log that it keeps; 0 none
	held    uint64      // bytes between that and the server's position
	active  bool        // a standby streams by it
	lost    bool        // the log that it should keep is gone (max_slot_wal_keep_size)
}

// slotChange makes, drops or advances a slot.
type slotChange struct {
	create, drop, advance string // the name; one of them
	to                    cluster.LSN
}

// slotView is what the slots of the local server depend on.
type slotView struct {
	backend  string
	state    *cluster.State
	standby  bool
	timeline uint32
	replayed cluster.LSN // of a standby
	slots    []slot
	// replays are the positions that the standbys on timeline have replayed, as this
	// member sees them.
	replays map[string]cluster.LSN
	keep    uint64 // failover.slot_keep; 0: no bound
}

// nextSlots keeps one slot for each other backend, on standbys too, so that it is
// there when they are promoted:
//  1. on the primary a slot follows its standby by itself; on a standby it is
//     advanced to what its backend has replayed, but not beyond this server itself
//  2. the slot of a backend that is to be rebuilt and holds more than it may is
//     made anew: a base backup needs nothing that is older
//  3. a slot of a backend that is none any more is dropped; while the State does not
//     have this server either, it is not known yet and says nothing
func nextSlots(v slotView) []slotChange {
	if v.state.Backend(v.backend) == nil {
		return nil
	}
	var all []slotChange
	wanted := make(map[string]string) // slot to backend
	for i := range v.state.Backends {
		if b := v.state.Backends[i].Name; b != v.backend {
			wanted[slotName(b)] = b
		}
	}
	for _, s := range v.slots {
		backend, ok := wanted[s.name]
		delete(wanted, s.name)
		switch {
		case s.active:
		case !ok:
			all = append(all, slotChange{drop: s.name})
		case s.lost, v.tooLarge(s, backend):
			all = append(all, slotChange{drop: s.name}, slotChange{create: s.name})
		case v.standby:
			if to := v.advanced(backend); to > s.restart {
				all = append(all, slotChange{advance: s.name, to: to})
			}
		}
	}
	missing := make([]string, 0, len(wanted))
	for name := range wanted {
		missing = append(missing, name)
	}
	slices.Sort(missing)
	for _, name := range missing {
		all = append(all, slotChange{create: name})
	}
	return all
}

// tooLarge: the leader has seen it and given the server up that it was kept for.
func (v slotView) tooLarge(s slot, backend string) bool {
	return v.keep > 0 && s.held > v.keep && v.state.Backend(backend).Rebuild
}

// advanced returns how far a standby's slot may go; 0 is not at all.
func (v slotView) advanced(backend string) cluster.LSN {
	if backend == v.state.Primary {
		return v.replayed // it has all that is here
	}
	return min(v.replays[backend], v.replayed)
}
