package health

import (
	"fmt"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// sight is what the prober of one backend saw last.
type sight struct {
	obs   cluster.Observation // without what derive adds
	facts *facts              // of the last Ready probe, nil before it
	seen  bool                // it was Alive once
}

// trackLength bounds reference.track. With the default interval it covers a
// minute; a standby that is further behind than that is measured by its own
// clock alone.
const trackLength = 64

// reference is what the standbys are measured against: the last good word of the
// last primary. It stays while there is no primary.
type reference struct {
	name  string
	facts *facts
	track []position // oldest first, one timeline
}

// position is where a primary's log ended.
type position struct {
	at  time.Time
	lsn cluster.LSN
}

// observe returns r after a Ready probe of the backend that the cluster calls its
// primary. It makes a new track, so that older snapshots may be kept.
func (r reference) observe(s sight) reference {
	next := reference{name: s.obs.Backend, facts: s.facts}
	if r.facts != nil && r.name == next.name && r.facts.timeline == next.facts.timeline {
		next.track = r.track
		if n := len(next.track); n >= trackLength {
			next.track = next.track[n-trackLength+1:]
		}
	}
	next.track = append(next.track[:len(next.track):len(next.track)], position{s.obs.At, next.facts.insert})
	return next
}

// derive returns the observations of all backends with what only several servers
// together tell: lag, replication state, compatibility.
func derive(sights []sight, ref reference) map[string]cluster.Observation {
	primaryReady := false
	for _, s := range sights {
		if s.obs.Backend == ref.name && s.obs.Ready && s.obs.Role == cluster.RolePrimary {
			primaryReady = true
		}
	}
	out := make(map[string]cluster.Observation, len(sights))
	for i, s := range sights {
		if s.obs.At.IsZero() {
			continue // not probed yet
		}
		o := s.obs
		if o.Ready && o.Role == cluster.RoleStandby && ref.facts != nil {
			o.LagBytes = lagBytes(s, ref)
			o.LagSeconds = lagSeconds(s, ref, o.LagBytes, primaryReady)
			o.Incompatible = incompatible(s.facts, ref.facts)
			if rep := replicaOf(sights, i, ref.facts.replicas); rep != nil && primaryReady {
				o.ReplicaState, o.SyncState = rep.state, rep.syncState
			}
		}
		out[o.Backend] = o
	}
	return out
}

// lagBytes returns how much of what the primary had written before the standby
// was asked the standby had not replayed. The primary's position is the last one
// seen before that moment: a later one would show what was written in between as
// lag that nobody has.
func lagBytes(s sight, ref reference) uint64 {
	if s.facts.timeline != ref.facts.timeline {
		return 0
	}
	for i := len(ref.track) - 1; i >= 0; i-- {
		if p := ref.track[i]; i == 0 || !p.at.After(s.obs.At) {
			if p.lsn <= s.facts.replayed {
				return 0
			}
			return uint64(p.lsn - s.facts.replayed)
		}
	}
	return 0
}

// lagSeconds returns an upper bound, to within one health interval, of how old a
// standby's data is, by these rules:
//  1. it has replayed all that the primary had written: 0
//  2. the primary does not answer and all that was received is replayed: 0, for
//     there is nothing to wait for, and reads without a primary go on
//  3. else the lesser of two bounds: the age of the last replayed commit (by the
//     clocks of both servers), and the time since the standby was last known to
//     have all of the primary's log (by our clock, for as long as track reaches).
//
// That received equals replayed says nothing while the primary answers: the
// connection between the two may be dead.
func lagSeconds(s sight, ref reference, bytes uint64, primaryReady bool) float64 {
	if s.facts.timeline == ref.facts.timeline && bytes == 0 {
		return 0
	}
	if !primaryReady && s.facts.replayed >= s.facts.received {
		return 0
	}
	lag := s.facts.xactAge
	if s.facts.timeline == ref.facts.timeline {
		for i := len(ref.track) - 1; i >= 0; i-- {
			p := ref.track[i]
			if p.lsn > s.facts.replayed || p.at.After(s.obs.At) {
				continue
			}
			if known := s.obs.At.Sub(p.at).Seconds(); lag < 0 || known < lag {
				lag = known
			}
			break
		}
	}
	if lag < 0 && len(ref.track) > 0 {
		// It has not replayed a commit since it started, and is behind all we know.
		lag = s.obs.At.Sub(ref.track[0].at).Seconds()
	}
	return max(lag, 0)
}

// incompatible returns why the answers of a standby could differ from those of
// the primary, "" when they do not.
func incompatible(standby, primary *facts) string {
	if standby.timeline != primary.timeline {
		return fmt.Sprintf("timeline %d, the primary's is %d", standby.timeline, primary.timeline)
	}
	if a, b := standby.version/10000, primary.version/10000; a != b {
		return fmt.Sprintf("version %d, the primary's is %d", a, b)
	}
	if standby.collation != primary.collation {
		return fmt.Sprintf("collation versions %q, the primary's are %q", standby.collation, primary.collation)
	}
	for i, name := range outputSettings {
		if a, b := standby.settings[i], primary.settings[i]; a != b {
			return fmt.Sprintf("%s is %q, the primary's is %q", name, a, b)
		}
	}
	return ""
}

// replicaOf returns the row of pg_stat_replication that is the standby sights[i],
// nil when none can be told from the others. PostgreSQL has no name for a server
// that both sides know, so the first of these that fits exactly one row decides:
//  1. the replication slot that the standby says it uses
//  2. the application_name with which it says it connects, unless another standby
//     says the same
//  3. an application_name that is its name in the configuration
//  4. the address that its probe is connected to, unless another backend has it
func replicaOf(sights []sight, i int, replicas []replica) *replica {
	self := sights[i].facts
	shared := func(same func(*facts) bool) bool {
		for j := range sights {
			if f := sights[j].facts; j != i && f != nil && same(f) {
				return true
			}
		}
		return false
	}
	only := func(fits func(*replica) bool) *replica {
		var found *replica
		for j := range replicas {
			if fits(&replicas[j]) {
				if found != nil {
					return nil
				}
				found = &replicas[j]
			}
		}
		return found
	}
	if self.slot != "" {
		if r := only(func(r *replica) bool { return r.slot == self.slot }); r != nil {
			return r
		}
	}
	if name := self.appName; name != "" && !shared(func(f *facts) bool { return f.appName == name }) {
		if r := only(func(r *replica) bool { return r.appName == name }); r != nil {
			return r
		}
	}
	name := sights[i].obs.Backend
	if r := only(func(r *replica) bool { return r.appName == name }); r != nil {
		return r
	}
	if self.remote.IsValid() && !shared(func(f *facts) bool { return f.remote == self.remote }) {
		return only(func(r *replica) bool { return r.addr == self.remote })
	}
	return nil
}
