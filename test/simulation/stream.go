package simulation

import (
	"slices"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	receiverRetry   = 300 * time.Millisecond
	receiverTimeout = 2 * time.Second
)

// sender is a primary's end of a stream, receiver its standby's. Either may be gone
// without the other knowing.
type sender struct {
	to      *server
	toRun   int
	flushed int // records that the standby has said it has
	heard   time.Duration
}

type receiver struct {
	from  *server
	heard time.Duration
}

// streamLater has a standby look after its walreceiver from now on.
func (v *server) streamLater() {
	v.in(v.sim.between(receiverRetry/2, receiverRetry), func() {
		if !v.stopping {
			v.stream()
			v.streamLater()
		}
	})
}

// stream begins or ends what primary_conninfo asks for.
func (v *server) stream() {
	s := v.sim
	if !v.standby {
		return
	}
	if r := v.receiver; r != nil {
		if r.from.name != v.source || s.now-r.heard > receiverTimeout {
			v.dropReceiver()
		}
		return
	}
	from := s.server(v.source)
	if from == nil || from == v {
		return
	}
	timeline, end := v.timeline, len(v.log)
	s.carry(v.host, from.host, from.guard(func() {
		if from.starting || from.stopping || !from.serves(timeline, end) {
			return
		}
		from.senders = slices.DeleteFunc(from.senders, func(x *sender) bool { return x.to == v })
		to := &sender{to: v, toRun: v.run, flushed: end, heard: s.now}
		from.senders = append(from.senders, to)
		s.carry(from.host, v.host, v.guard(func() {
			if v.standby && v.source == from.name && v.receiver == nil && len(v.log) == end && v.timeline == timeline {
				v.receiver = &receiver{from: from, heard: s.now}
			}
		}))
		from.beat(to)
		from.release()
	}))
}

// serves tells whether PostgreSQL would stream from there: it compares numbers, not
// what the log holds.
func (v *server) serves(timeline uint32, end int) bool {
	if timeline == v.timeline {
		return end <= len(v.log)
	}
	for _, f := range v.history {
		if f.Timeline == timeline {
			return lsn(end) <= f.End
		}
	}
	return false
}

// beat sends to a standby what it does not have, again and again.
func (v *server) beat(to *sender) {
	if !slices.Contains(v.senders, to) {
		return
	}
	if v.sim.now-to.heard > receiverTimeout {
		v.senders = slices.DeleteFunc(v.senders, func(x *sender) bool { return x == to })
		v.release()
		return
	}
	v.sendTo(to)
	v.in(250*time.Millisecond, func() { v.beat(to) })
}

// push sends the end of the log to all standbys.
func (v *server) push() {
	for _, to := range v.senders {
		v.sendTo(to)
	}
}

func (v *server) sendTo(to *sender) {
	s, w, run := v.sim, to.to, v.run
	log, timeline, history := v.log, v.timeline, v.history
	s.carry(v.host, w.host, func() {
		if w.run != to.toRun {
			return
		}
		w.guard(func() {
			if r := w.receiver; r == nil || r.from != v || !w.standby || w.stopping {
				return
			}
			w.receive(v, log, timeline, history)
			flushed := len(w.log)
			s.carry(w.host, v.host, func() {
				if v.run == run {
					v.guard(func() {
						to.heard = s.now
						to.flushed = max(to.flushed, flushed)
						v.release()
					})()
				}
			})
		})()
	})
}

// receive appends what is new.
func (v *server) receive(from *server, log []record, timeline uint32, history []cluster.Fork) {
	v.receiver.heard = v.sim.now
	n := len(v.log)
	if len(log) <= n {
		return
	}
	if n > 0 && v.log[n-1] != log[n-1] {
		v.corrupt = true
	}
	v.log = append(v.log, log[n:]...)
	v.timeline = log[len(log)-1].timeline
	v.newest = max(v.newest, timeline)
	v.history = v.history[:0:0]
	for _, f := range history {
		if f.Timeline < v.timeline {
			v.history = append(v.history, f)
		}
	}
	v.sim.assertFollows(v, from)
}

// dropStreams closes all connections of that kind; the other ends see it soon when
// the network lets them.
func (v *server) dropStreams() {
	for _, to := range v.senders {
		w := to.to
		v.sim.carry(v.host, w.host, w.guard(func() {
			if w.receiver != nil && w.receiver.from == v {
				w.receiver = nil
			}
		}))
	}
	v.senders = nil
	v.dropReceiver()
}

// dropReceiver ends the walreceiver.
func (v *server) dropReceiver() {
	if v.receiver == nil {
		return
	}
	from := v.receiver.from
	v.receiver = nil
	v.sim.carry(v.host, from.host, from.guard(func() {
		from.senders = slices.DeleteFunc(from.senders, func(x *sender) bool { return x.to == v && x.toRun == v.run })
		from.release()
	}))
}

// release answers the commits that have waited for enough standbys
// (SyncRepGetSyncRecPtr).
func (v *server) release() {
	for len(v.waits) > 0 && v.synced(v.waits[0].end) {
		v.waits[0].reply()
		v.waits = v.waits[1:]
	}
}

func (v *server) synced(end int) bool {
	n := 0
	for i, to := range v.listed() {
		if v.names.Method == cluster.SyncFirst && i >= v.names.Num {
			break
		}
		if to.flushed >= end {
			n++
		}
	}
	return n >= v.names.Num
}

// listed returns the senders to standbys that commits may wait for, in the order of
// synchronous_standby_names.
func (v *server) listed() []*sender {
	var all []*sender
	for _, name := range v.names.Names {
		for _, to := range v.senders {
			if to.to.name == name {
				all = append(all, to)
			}
		}
	}
	return all
}

// syncStates is pg_stat_replication.sync_state.
func (v *server) syncStates() map[string]string {
	all := map[string]string{}
	for i, to := range v.listed() {
		switch {
		case v.names.Method == cluster.SyncAny:
			all[to.to.name] = "quorum"
		case i < v.names.Num:
			all[to.to.name] = "sync"
		default:
			all[to.to.name] = "potential"
		}
	}
	return all
}
