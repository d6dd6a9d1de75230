package failover

import (
	"fmt"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// backendDown: a majority of the members finds the backend dead. A server that
// answers with an error is not dead (S4).
func backendDown(p *pass) {
	for _, b := range p.backends() {
		if l := p.looks[b.Name]; l.down && !p.lostPrimary(b) {
			p.setStatus(b, cluster.StatusDown, "not seen by %s: %v", strings.Join(l.failed, ", "), l.obs.Err)
		}
	}
}

// lostPrimary tells whether primaryLost is about to begin a failover of b, which
// says in one entry that it is down.
func (p *pass) lostPrimary(b *cluster.Backend) bool {
	return b.Name == p.state.Primary && p.state.Operation == nil && p.whyNoFailover(b) == ""
}

// primaryDemoted: the recorded primary says it is a standby; somebody restarted it
// as one. Reads go on.
func primaryDemoted(p *pass) {
	if p.state.Operation != nil {
		return
	}
	if _, o, ok := p.recorded(); ok && o.Role == cluster.RoleStandby {
		p.do(cluster.Command{Kind: cluster.KindClearPrimary, Reason: "it says that it is a standby"})
	}
}

// primaryWentBack: what answers in the recorded primary's place is a primary, but
// holds other or older data, as after a restored backup.
func primaryWentBack(p *pass) {
	b, o, ok := p.recorded()
	if !ok || o.Role != cluster.RolePrimary || p.state.Operation != nil {
		return
	}
	switch {
	case !p.ours(o):
		p.do(cluster.Command{Kind: cluster.KindClearPrimary, Reason: "its system identifier changed"})
	case o.Timeline < p.state.Timeline:
		p.do(cluster.Command{Kind: cluster.KindClearPrimary, Reason: "its timeline went back"})
	default:
		return
	}
	p.wait("%s came back with other data: %s", b.Name, p.described())
}

// primaryOnNewTimeline: the recorded primary was a standby for a moment and was
// promoted again.
func primaryOnNewTimeline(p *pass) {
	if _, o, ok := p.recorded(); ok && o.Role == cluster.RolePrimary && p.ours(o) && o.Timeline > p.state.Timeline {
		p.adopt(o, "promoted again")
	}
}

// formerReturns: there is no primary, and the last one is a primary again, on its
// timeline or a newer one, and the only one.
func formerReturns(p *pass) {
	b := p.state.Backend(p.state.Former)
	if b == nil || p.state.Operation != nil {
		return
	}
	o, ok := p.ready(b)
	if !ok || o.Role != cluster.RolePrimary || !p.ours(o) || o.Timeline < p.state.Timeline {
		return
	}
	if others := p.newer(b.Name); len(others) > 0 {
		p.wait("%s is a primary again, but not the only one: %s", b.Name, p.described())
		return
	}
	p.adopt(o, "the former primary is back")
}

// newer returns the primaries but one on a timeline newer than the recorded one.
func (p *pass) newer(but string) []cluster.Observation {
	var all []cluster.Observation
	for _, o := range p.primaries(but) {
		if o.Timeline > p.state.Timeline {
			all = append(all, o)
		}
	}
	return all
}

// roleChanged: the recorded primary is gone or a standby, and exactly one other
// backend is a primary on a newer timeline: another tool or an operator promoted
// it. Not on the same or an older one: it never had all that was acknowledged. Where
// pgproxy itself promotes, such a server is an operator's to judge (S6).
func roleChanged(p *pass) {
	if p.in.Mode == ModeOff || p.managed() || p.state.Operation != nil || p.state.Primary == "" && p.state.Former == "" {
		return
	}
	if b := p.state.Backend(p.state.Primary); b != nil && b.Status != cluster.StatusDown {
		return
	}
	if former := p.state.Backend(p.state.Former); former != nil {
		if o, ok := p.ready(former); ok && o.Role == cluster.RolePrimary && p.ours(o) && o.Timeline >= p.state.Timeline {
			return // formerReturns has said why
		}
	}
	switch promoted := p.newer(p.state.Primary + p.state.Former); len(promoted) {
	case 0:
		p.wait("no primary on a timeline newer than %d: %s", p.state.Timeline, p.described())
	case 1:
		p.adopt(promoted[0], "promoted by another")
	default:
		p.wait("%d primaries on a timeline newer than %d: %s", len(promoted), p.state.Timeline, p.described())
	}
}

// firstStart: no primary was ever recorded, or the recorded one was removed from
// the configuration. Exactly one primary is adopted, when every backend has been
// looked at, all that answer have one system identifier, and none has seen a newer
// timeline: then a primary that was replaced long ago is not taken for the present
// one. A server that is starting up may turn out to be a primary; it is awaited,
// for start_wait.
func firstStart(p *pass) {
	if p.state.Primary != "" || p.state.Former != "" {
		return
	}
	primaries := p.primaries("")
	if len(primaries) != 1 {
		p.wait("%d primaries: %s", len(primaries), p.described())
		return
	}
	one := primaries[0]
	for _, b := range p.backends() {
		o, ok := p.seen(b)
		switch {
		case !ok:
			p.wait("not all backends have been probed: %s", p.described())
		case o.Alive && !o.Ready && p.inStatus(b) < p.in.StartWait:
			p.wait("a backend is starting up: %s", p.described())
		case !o.Alive && !p.looks[b.Name].down:
			p.wait("a backend may be down: %s", p.described())
		case o.Ready && o.SystemID != one.SystemID:
			p.wait("system identifiers differ: %s", p.described())
		case o.Ready && o.Timeline > one.Timeline:
			p.wait("the only primary is on an old timeline: %s", p.described())
		default:
			continue
		}
		return
	}
	if one.Timeline < p.state.Timeline {
		p.wait("the only primary is on a timeline older than %d: %s", p.state.Timeline, p.described())
		return
	}
	p.adopt(one, "the only primary")
}

// foreignSystem: a server holds another cluster's data.
func foreignSystem(p *pass) {
	for _, b := range p.backends() {
		if o, ok := p.ready(b); ok && !p.ours(o) {
			p.setStatus(b, cluster.StatusQuarantined, "its system identifier is %d, the cluster's %d", o.SystemID, p.state.SystemID)
		}
	}
}

// falsePrimary: a server says that it is a primary and is not the recorded one. It
// is never used. One on a timeline whose primary was another has written what pg_rewind cannot
// see (S6), so that nothing but a base backup makes it whole; one on a newer
// timeline waits for an operator.
func falsePrimary(p *pass) {
	if p.state.Primary == "" && p.state.Former == "" {
		return
	}
	for _, b := range p.backends() {
		o, ok := p.ready(b)
		if !ok || o.Role != cluster.RolePrimary || b.Name == p.state.Primary || p.mayBePrimary(b) || p.stopped(b) {
			continue
		}
		p.setRole(b, cluster.RoleUnknown)
		p.setStatus(b, cluster.StatusQuarantined, "it says that it is a primary, on timeline %d; the recorded one is %d", o.Timeline, p.state.Timeline)
		if p.ours(o) && (o.Timeline == p.state.Timeline && b.Name != p.state.Former || p.state.Usurped(o.Timeline, b.Name)) {
			p.do(cluster.Command{Kind: cluster.KindMarkRebuild, Backend: b.Name, Reason: fmt.Sprintf("a primary on timeline %d, whose primary was another", o.Timeline)})
		}
	}
}

// stopped tells whether the agent of b says that it runs as no primary any more: what
// a probe saw was before that.
func (p *pass) stopped(b *cluster.Backend) bool {
	l := p.local(b)
	return l != nil && (l.Server == cluster.ServerStopped || l.Server == cluster.ServerStandby || l.Server == cluster.ServerMissing)
}

// mayBePrimary tells whether the operation under way knows b as a primary: its
// candidate, or the old one of a switchover, which is yet to be stopped or was
// started again.
func (p *pass) mayBePrimary(b *cluster.Backend) bool {
	o := p.state.Operation
	return o != nil && (o.Candidate == b.Name || o.Kind == cluster.Switchover && o.Old == b.Name)
}

// standbyAhead: a standby follows a timeline that the cluster has not recorded:
// its source is a false primary.
func standbyAhead(p *pass) {
	for _, b := range p.backends() {
		if o, ok := p.ready(b); ok && p.ahead(o) && p.state.Operation == nil {
			p.setRole(b, cluster.RoleStandby)
			p.setStatus(b, cluster.StatusQuarantined, "it follows timeline %d, the recorded one is %d", o.Timeline, p.state.Timeline)
		}
	}
}

func (p *pass) ahead(o cluster.Observation) bool {
	return o.Role == cluster.RoleStandby && p.state.Timeline != 0 && o.Timeline > p.state.Timeline
}

// primaryBack: the recorded primary answers again, as what it was.
func primaryBack(p *pass) {
	if b, o, ok := p.recorded(); ok && o.Role == cluster.RolePrimary {
		p.setStatus(b, cluster.StatusUp, "it answers")
	}
}

// standbyBack: a standby with this cluster's data and history answers. Before the
// first primary is recorded all that answer must agree whose data that is.
func standbyBack(p *pass) {
	if p.state.SystemID == 0 && !p.sameSystem() {
		return
	}
	for _, b := range p.backends() {
		o, ok := p.ready(b)
		if !ok || o.Role != cluster.RoleStandby || !p.ours(o) || p.ahead(o) {
			continue
		}
		p.setRole(b, cluster.RoleStandby)
		if !b.Rebuild && (b.Status == cluster.StatusUp || p.follows(b, o)) {
			p.setStatus(b, cluster.StatusUp, "it answers")
		}
	}
}

// follows tells whether a standby that comes back follows the primary, as far as
// that can be asked for: with an agent it streams by itself sooner or later, and
// without a primary there is nothing to follow.
func (p *pass) follows(b *cluster.Backend, o cluster.Observation) bool {
	return !p.managed() || b.Agent == "" || p.state.Primary == "" || o.Streaming && o.Timeline == p.state.Timeline
}

// sameSystem tells whether all backends that answer have one system identifier.
func (p *pass) sameSystem() bool {
	var id uint64
	for _, b := range p.backends() {
		if o, ok := p.ready(b); ok {
			if id != 0 && o.SystemID != id {
				return false
			}
			id = o.SystemID
		}
	}
	return true
}
