package simulation

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// systemID is that of all servers.
const systemID = 7

// record is one of the log; no two have the same id, whatever server made them.
type record struct {
	id       uint64
	timeline uint32
}

// server is one PostgreSQL: its data directory, and its processes while they run.
type server struct {
	sim  *sim
	host int
	name string

	// On disk.
	log      []record
	timeline uint32
	history  []cluster.Fork
	newest   uint32 // timeline of which it has a history file
	signal   bool   // standby.signal
	source   string // that primary_conninfo names; "" nobody
	clean    bool   // pg_control: shut down
	produced bool   // pg_control: it was a primary when it ended
	backup   bool   // a copy that was never started
	corrupt  bool   // its log is no server's: it followed one with another log of the same number

	// Of its processes.
	powered  bool // the host runs
	up       bool
	starting bool
	stopping bool
	stopped  []func() // to be called when it has shut down
	frozen   bool
	standby  bool
	run      int           // counts starts
	since    time.Duration // start, or the end of a freeze
	pending  []func()
	receiver *receiver
	senders  []*sender
	waits    []*wait
	names    cluster.SyncNames
}

// wait is a commit that is not answered yet.
type wait struct {
	end   int // of the log behind its record
	reply func()
}

func newServer(s *sim, host int) *server {
	v := &server{
		sim: s, host: host, name: fmt.Sprintf("h%d", host+1), powered: true, up: true,
		timeline: 1, newest: 1, log: []record{{s.record(), 1}}, standby: host > 0, signal: host > 0,
	}
	if host > 0 {
		v.source = "h1"
		v.log = slices.Clone(s.servers[0].log)
	}
	names, err := cluster.ParseSyncNames(s.shape.sync)
	if err != nil {
		panic(err)
	}
	names.Names = slices.DeleteFunc(names.Names, func(n string) bool { return n == v.name })
	v.names = names
	v.streamLater()
	return v
}

// record returns the id of a new record.
func (s *sim) record() uint64 {
	s.writes++
	return s.writes
}

func (s *sim) server(name string) *server {
	for _, v := range s.servers {
		if v != nil && v.name == name {
			return v
		}
	}
	return nil
}

func (s *sim) specs() []cluster.Spec {
	var all []cluster.Spec
	for _, v := range s.servers {
		if v != nil {
			all = append(all, cluster.Spec{Name: v.name, Address: v.name, Weight: 1, Agent: v.name})
		}
	}
	return all
}

// lsn is where a log of n records ends.
func lsn(n int) cluster.LSN { return cluster.LSN(0x100 + 0x10*n) }

// records is how many records a log has that ends there.
func records(l cluster.LSN) int { return int(l-0x100) / 0x10 }

func (v *server) end() cluster.LSN { return lsn(len(v.log)) }

// guard returns f for the processes that run now; a frozen server does it when it
// goes on.
func (v *server) guard(f func()) func() {
	run := v.run
	return func() {
		switch {
		case !v.up || v.run != run || !v.powered:
		case v.frozen:
			v.pending = append(v.pending, v.guard(f))
		default:
			f()
		}
	}
}

func (v *server) in(d time.Duration, f func()) { v.sim.after(d, v.guard(f)) }

func (v *server) writable() bool { return v.up && !v.starting && !v.standby && !v.frozen }

// look answers a probe: not at all when nobody is there to answer.
func (v *server) look(answer func(cluster.Sight, map[string]string)) {
	switch {
	case !v.powered || v.frozen:
	case !v.up:
		answer(cluster.Sight{Refused: true, Error: errRefused.Error()}, nil)
	case v.starting || v.stopping:
		answer(cluster.Sight{Alive: true, Error: "the database system is starting up"}, nil)
	default:
		o := cluster.Sight{
			Alive: true, Ready: true, Role: cluster.RolePrimary, SystemID: systemID, Timeline: v.timeline, LSN: v.end(),
		}
		if v.standby {
			o.Role, o.Streaming = cluster.RoleStandby, v.receiver != nil
		} else {
			o.SyncNames = v.sim.shape.sync
		}
		answer(o, v.syncStates())
	}
}

// write appends a record and replies when it is committed.
func (v *server) write(id uint64, reply func()) {
	v.guard(func() {
		if !v.writable() || v.stopping {
			return
		}
		v.append(id)
		v.waits = append(v.waits, &wait{len(v.log), reply})
		v.in(v.sim.between(50*time.Microsecond, time.Millisecond), v.release)
	})()
}

func (v *server) append(id uint64) {
	v.log = append(v.log, record{id, v.timeline})
	v.push()
}

// start begins its processes; ready is called when it accepts connections, as a
// standby or not, or when it cannot.
func (v *server) start(ready func(ok bool)) {
	if v.up || !v.powered {
		ready(false)
		return
	}
	v.up, v.starting, v.stopping, v.frozen = true, true, false, false
	v.run++
	v.since = v.sim.now
	v.standby = v.signal
	if v.standby {
		v.produced = false
	}
	v.backup = false
	v.clean = false
	v.pending, v.waits, v.senders, v.receiver = nil, nil, nil, nil
	v.sim.trace("server %s: starts, standby %t, timeline %d, %d records", v.name, v.standby, v.timeline, len(v.log))
	v.in(v.sim.between(100*time.Millisecond, 600*time.Millisecond), func() {
		v.starting = false
		v.stream()
		v.streamLater()
		ready(true)
	})
}

// crash ends its processes at once.
func (v *server) crash() {
	if !v.up {
		return
	}
	v.sim.trace("server %s: crashed", v.name)
	v.ended(false)
}

func (v *server) ended(clean bool) {
	v.clean, v.produced = clean, !v.standby
	v.up, v.starting, v.stopping, v.frozen = false, false, false, false
	v.pending, v.waits, v.stopped = nil, nil, nil
	v.dropStreams()
	for _, m := range v.sim.members { // a broken connection triggers a probe
		v.sim.carry(v.host, m.host, m.guard(func() { m.probe(v, nil) }))
	}
}

// shutDown stops it cleanly; a primary sends its last record to all standbys that
// are connected first, and waits for them. done is called when it has ended.
func (v *server) shutDown(done func()) {
	if !v.up || v.frozen {
		return
	}
	v.stopped = append(v.stopped, done)
	v.in(v.sim.between(20*time.Millisecond, 200*time.Millisecond), func() {
		if v.stopping {
			return
		}
		v.stopping = true
		v.waits = nil // told that they were not replicated
		if !v.standby && !v.starting {
			v.append(v.sim.record())
		}
		var wait func()
		wait = func() {
			if slices.ContainsFunc(v.senders, func(s *sender) bool { return s.flushed < len(v.log) }) {
				v.in(10*time.Millisecond, wait)
				return
			}
			v.sim.trace("server %s: shut down, %d records", v.name, len(v.log))
			stopped := v.stopped
			v.ended(true)
			for _, f := range stopped {
				f()
			}
		}
		wait()
	})
}

// promote makes a primary of a standby, on the next timeline that it knows of.
func (v *server) promote(by string, asked func()) {
	if !v.up || !v.standby || v.starting || v.stopping {
		return
	}
	v.guard(func() {
		v.in(v.sim.between(10*time.Millisecond, 300*time.Millisecond), func() {
			if !v.standby || v.stopping {
				return
			}
			v.dropStreams()
			next := max(v.timeline, v.newest) + 1
			v.history = append(slices.Clone(v.history), cluster.Fork{Timeline: v.timeline, End: v.end()})
			v.timeline, v.newest = next, next
			v.standby, v.signal = false, false
			v.append(v.sim.record())
			v.sim.trace("server %s: promoted by %s to timeline %d at %d records", v.name, by, next, len(v.log))
			v.sim.assertPromoted(v)
			if asked != nil {
				asked()
			}
		})
	})()
}

// freeze stops its processes (SIGSTOP).
func (v *server) freeze() {
	if v.up && !v.frozen {
		v.sim.trace("server %s: frozen", v.name)
		v.frozen = true
	}
}

func (v *server) thaw() {
	if !v.frozen {
		return
	}
	v.sim.trace("server %s: goes on", v.name)
	v.frozen, v.since = false, v.sim.now
	for i, f := range v.pending {
		v.sim.after(time.Duration(i)*10*time.Microsecond, f)
	}
	v.pending = nil
}

// copyFrom makes its files those of a running server.
func (v *server) copyFrom(from *server) {
	v.log = slices.Clone(from.log)
	v.timeline, v.newest = from.timeline, from.newest
	v.history = slices.Clone(from.history)
	v.corrupt = from.corrupt
}

// forked returns the number of records up to which the logs of two servers are the
// same as far as their histories tell (findCommonAncestorTimeline of pg_rewind).
func forked(a, b *server) int {
	at := func(v *server, i int) (uint32, int) {
		if i < len(v.history) {
			return v.history[i].Timeline, records(v.history[i].End)
		}
		return v.timeline, len(v.log)
	}
	common := 0
	for i := 0; i <= min(len(a.history), len(b.history)); i++ {
		at1, end1 := at(a, i)
		at2, end2 := at(b, i)
		if at1 != at2 {
			break
		}
		common = min(end1, end2)
		if end1 != end2 {
			break // what follows begins at another position, and is another timeline
		}
	}
	return common
}
