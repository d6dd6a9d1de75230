package failover

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// detachWait bounds how long the choice of a candidate waits for a standby whose
// host is there and that has not said how far it got.
const detachWait = 3 * time.Second

// stopTried bounds how long a promotion waits for the agent of a lost primary, when it
// answers, to stop what is left of it.
const stopTried = 300 * time.Millisecond

// primaryLost: the primary is down, or is no primary any more, and somebody can
// take its place.
func primaryLost(p *pass) {
	if p.state.Operation != nil {
		return
	}
	old := p.state.Backend(p.state.Primary + p.state.Former) // never both
	if old == nil {
		return
	}
	demoted := false
	if p.state.Former == old.Name {
		o, ok := p.ready(old)
		demoted = ok && o.Role == cluster.RoleStandby
	}
	if !p.looks[old.Name].down && !demoted && !p.diskHangs(old) {
		return
	}
	if why := p.whyNoFailover(old); why != "" {
		p.wait("%s is lost; %s", old.Name, why)
		return
	}
	p.do(cluster.Command{Kind: cluster.KindBegin, Backend: old.Name, Operation: cluster.Failover, Reason: p.whyLost(old, demoted)})
}

// diskHangs: the recorded primary may answer queries from memory, and can commit
// nothing.
func (p *pass) diskHangs(old *cluster.Backend) bool {
	l := p.local(old)
	return l != nil && old.Name == p.state.Primary && p.in.DiskWait > 0 && l.DiskHangs >= p.in.DiskWait
}

// inPhase returns for how long the operation has been in its phase; a phase that
// began in this pass has just begun.
func (p *pass) inPhase() time.Duration {
	a, b := p.in.State.Operation, p.state.Operation
	if a == nil || a.ID != b.ID || a.Phase != b.Phase {
		return 0
	}
	return p.in.Now.Sub(p.in.Known.Phase)
}

// inStatus returns for how long a backend has had its status.
func (p *pass) inStatus(b *cluster.Backend) time.Duration {
	if was := p.in.State.Backend(b.Name); was == nil || was.Status != b.Status {
		return 0
	}
	return p.in.Now.Sub(p.in.Known.Status[b.Name])
}

func (p *pass) whyLost(old *cluster.Backend, demoted bool) string {
	if demoted {
		return "it is a standby now"
	}
	l := p.looks[old.Name]
	reason := fmt.Sprintf("not seen by %s", strings.Join(l.failed, ", "))
	if _, gone := p.hostGone(old); gone {
		reason += "; " + old.Agent + " is gone"
	}
	if p.diskHangs(old) {
		return fmt.Sprintf("its disk has not taken a write for %v", p.in.DiskWait)
	}
	if l.obs.Err != nil {
		reason += ": " + l.obs.Err.Error()
	}
	return reason
}

// whyNoFailover returns what stands against a failover of a primary that is down;
// "" nothing.
func (p *pass) whyNoFailover(old *cluster.Backend) string {
	switch {
	case !p.managed():
		return "it is not pgproxy that promotes"
	case p.state.FailoverOff:
		return "failover is off"
	}
	if l := p.local(old); l != nil && l.Server == cluster.ServerStopped && l.Clean {
		// Down since: before the command that says so, since now.
		if old.Status != cluster.StatusDown || p.inStatus(old) < p.in.RestartWait {
			return fmt.Sprintf("it was shut down cleanly and has %v to come back", p.in.RestartWait)
		}
	}
	if !p.looks[old.Name].seen && p.awaited() {
		return fmt.Sprintf("it has not been seen since the start and has %v to come up", p.in.StartWait)
	}
	if o, ok := p.ready(old); ok && o.Role == cluster.RoleStandby && p.mayBecomePrimary(old) {
		return "" // if no other, then it is itself the newest there is
	}
	var there []candidate
	for i := range p.state.Backends {
		if b := &p.state.Backends[i]; b.Name != old.Name && p.mayBecomePrimary(b) {
			l := p.local(b)
			there = append(there, candidate{name: b.Name, timeline: l.Timeline, end: l.End, history: l.History})
		}
	}
	if _, why := p.choose(there, old.Name); why != "" {
		return "no standby can be promoted: " + why
	}
	return ""
}

// awaited: all members have started lately, so the servers may have, too.
func (p *pass) awaited() bool {
	for member, r := range p.in.Reports {
		if p.in.present(member) && r.Up >= p.in.StartWait {
			return false
		}
	}
	return true
}

// mayBecomePrimary tells whether a server could be a candidate as far as can be
// seen before the standbys are asked.
func (p *pass) mayBecomePrimary(b *cluster.Backend) bool {
	if b.Rebuild || b.Status == cluster.StatusDetached || b.Status == cluster.StatusRecovering {
		return false
	}
	l := p.local(b)
	if l == nil || l.Server != cluster.ServerStandby || l.Marker || l.SystemID != p.state.SystemID {
		return false
	}
	return !p.looks[b.Name].down && p.state.Continues(l.Timeline, l.End, l.History)
}

// drained: nothing runs on the primary of a switchover any more, or what runs has
// had its time.
func drained(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhaseDrain {
		return
	}
	target, old := p.state.Backend(o.Target), p.state.Backend(o.Old)
	switch {
	case p.looks[o.Old].down:
		p.end("%s is lost", o.Old)
	case p.local(target) == nil || p.local(target).Server != cluster.ServerStandby || p.looks[o.Target].down:
		p.end("%s is not a standby that can be reached", o.Target)
	case p.local(old) == nil:
		p.end("the agent of %s does not answer", o.Old)
	case p.allDrained(o.ID) || p.inPhase() >= p.in.Drain:
		p.advance(cluster.PhaseBarrier, "", "")
	}
}

func (p *pass) allDrained(id uint64) bool {
	for _, member := range p.members() {
		if r := p.in.Reports[member]; !r.Witness && p.in.present(member) && r.Drained != id {
			return false
		}
	}
	return true
}

// barrierPassed: nobody can use the old primary any more (S2).
func barrierPassed(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhaseBarrier {
		return
	}
	switch {
	case !p.in.Barred || p.in.State.Operation == nil || p.in.State.Operation.ID != o.ID:
		p.wait("%s: barrier", o.Kind)
	case o.Kind == cluster.Switchover:
		p.advance(cluster.PhaseStop, "", "")
	default:
		p.advance(cluster.PhaseDetach, "", "")
	}
}

// oldStopped: the old primary of a switchover has stopped cleanly and the target
// has all it wrote; or it has not, and is started again.
func oldStopped(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhaseStop {
		return
	}
	l, target := p.local(p.state.Backend(o.Old)), p.local(p.state.Backend(o.Target))
	mine := l != nil && l.Operation == o.ID
	switch {
	case mine && l.Failed != "":
		p.advance(cluster.PhaseRestart, "", l.Failed)
	case mine && l.Stopped && target != nil && target.Timeline == p.state.Timeline && target.End >= l.End && l.End != 0:
		p.advance(cluster.PhasePromote, o.Target, "it has received all")
	case l == nil && p.looks[o.Old].down:
		p.end("%s is lost", o.Old) // and then fail over
	case p.inPhase() >= p.in.StopWait && mine && l.Stopped:
		p.advance(cluster.PhaseRestart, "", o.Target+" has not received all in time")
	case p.inPhase() >= p.in.StopWait:
		p.advance(cluster.PhaseRestart, "", o.Old+" did not stop in time")
	default:
		p.wait("%s: %s is being stopped", o.Kind, o.Old)
	}
}

// oldRestarted: the switchover has failed and its old primary is one again.
func oldRestarted(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhaseRestart {
		return
	}
	old := p.state.Backend(o.Old)
	seen, ok := p.ready(old)
	switch {
	case ok && seen.Role == cluster.RolePrimary && p.ours(seen) && seen.Timeline == p.state.Timeline && p.restarted(old, o.ID):
		p.adopt(seen, "the switchover failed")
	case p.looks[old.Name].down && p.inPhase() >= p.in.StopWait:
		p.end("%s did not start again", o.Old)
	default:
		p.wait("%s failed: %s is being started again", o.Kind, o.Old)
	}
}

// restarted tells whether the agent has done its part: what is seen may be from
// before the stop.
func (p *pass) restarted(old *cluster.Backend, id uint64) bool {
	l := p.local(old)
	return l != nil && l.Operation == id && l.Restarted && l.Server == cluster.ServerPrimary
}

// standbysDetached: the standbys have said how far they got; the newest is
// promoted (S5).
func standbysDetached(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhaseDetach {
		return
	}
	if p.mayStillWrite(p.state.Backend(o.Old)) && p.inPhase() < stopTried {
		p.wait("failover: %s is being stopped", o.Old)
		return
	}
	late := p.inPhase() >= detachWait
	var reported []candidate
	for i := range p.state.Backends {
		b := &p.state.Backends[i]
		l := p.local(b)
		switch {
		case b.Rebuild || b.Status == cluster.StatusDetached || b.Status == cluster.StatusRecovering || l == nil || l.Marker:
		case l.Operation == o.ID && l.Detached:
			reported = append(reported, candidate{name: b.Name, timeline: l.Timeline, end: l.End, history: l.History, order: i})
		case !late && p.mayReport(b, l):
			p.wait("failover: %s has not said how far it got", b.Name)
			return
		}
	}
	best, why := p.choose(reported, o.Old)
	if best != nil {
		p.advance(cluster.PhasePromote, best.name, fmt.Sprintf("it has the log up to %v on timeline %d", best.end, best.timeline))
		return
	}
	old := p.state.Backend(o.Old)
	if seen, ok := p.ready(old); ok && seen.Role == cluster.RolePrimary && seen.Timeline == p.state.Timeline {
		p.end("%s is back, and %s", o.Old, why)
		return
	}
	if l := p.local(old); late && l != nil && l.Server == cluster.ServerStopped {
		p.end("%s; %s can be started again", why, o.Old)
		return
	}
	p.wait("failover: %s", why)
}

// mayStillWrite: the agent of the lost primary answers, and has not stopped it yet. It
// tries, for those who are connected to it directly; nothing depends on it.
func (p *pass) mayStillWrite(old *cluster.Backend) bool {
	l := p.local(old)
	return l != nil && (l.Server == cluster.ServerPrimary || l.Server == cluster.ServerHung || l.Server == cluster.ServerBusy)
}

// mayReport tells whether a standby is expected to say how far it got.
func (p *pass) mayReport(b *cluster.Backend, l *cluster.Local) bool {
	return l.Server == cluster.ServerStandby && !p.looks[b.Name].down && l.SystemID == p.state.SystemID
}

// candidatePromoted: the candidate is a primary on a new timeline.
func candidatePromoted(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhasePromote {
		return
	}
	b := p.state.Backend(o.Candidate)
	l := p.local(b)
	if l != nil && l.Operation == o.ID && l.Promoted && l.Timeline > p.state.Timeline {
		p.do(cluster.Command{
			Kind: cluster.KindAdoptPrimary, Backend: b.Name, Timeline: l.Timeline, SystemID: p.state.SystemID,
			History: l.History, Reason: o.Kind.String(),
		})
		return
	}
	if l != nil && b.Name == o.Old && l.Server == cluster.ServerPrimary && l.Timeline == p.state.Timeline {
		p.do(cluster.Command{
			Kind: cluster.KindAdoptPrimary, Backend: b.Name, Timeline: l.Timeline, SystemID: p.state.SystemID,
			Reason: "it was a standby for a moment and is the primary again",
		})
		return
	}
	// Its agent may have died after it did its work.
	if seen, ok := p.ready(b); l == nil && ok && seen.Role == cluster.RolePrimary && p.ours(seen) && seen.Timeline > p.state.Timeline {
		p.adopt(seen, o.Kind.String()+", its agent is gone")
		return
	}
	p.wait("%s: %s is being promoted", o.Kind, b.Name)
}

// candidateLost: the candidate cannot be promoted, and another one can, or the old
// primary can come back.
func candidateLost(p *pass) {
	o := p.state.Operation
	if o == nil || o.Phase != cluster.PhasePromote {
		return
	}
	b := p.state.Backend(o.Candidate)
	l := p.local(b)
	why := ""
	switch {
	case l != nil && l.Operation == o.ID && l.Promoted:
		return
	case l != nil && l.Operation == o.ID && l.Failed != "":
		why = l.Failed
	case p.looks[b.Name].down:
		why = "it is lost"
	case p.inPhase() >= p.in.PromoteWait:
		why = fmt.Sprintf("not promoted within %v", p.in.PromoteWait)
	default:
		return
	}
	for i := range p.state.Backends {
		if other := &p.state.Backends[i]; other.Name != b.Name && other.Name != o.Old && p.mayBecomePrimary(other) {
			p.do(cluster.Command{Kind: cluster.KindAbandon, Backend: b.Name, Reason: why})
			return
		}
	}
	// One that is only slow is waited for.
	slow := !p.looks[b.Name].down && (l == nil || l.Failed == "")
	if !slow && p.inPhase() >= p.in.StopWait && p.mayReturn(o) {
		p.do(cluster.Command{Kind: cluster.KindAbandon, Backend: b.Name, Reason: why + "; " + o.Old + " can come back"})
		return
	}
	p.wait("%s: %s cannot be promoted (%s), nor another", o.Kind, b.Name, why)
}

// mayReturn: the old primary, which has all that was acknowledged, works: it stands by,
// or was stopped cleanly for the switchover. Nobody has written to the candidate, which
// never was the primary.
func (p *pass) mayReturn(o *cluster.Operation) bool {
	old := p.state.Backend(o.Old)
	if p.mayBecomePrimary(old) {
		return true
	}
	l := p.local(old)
	return o.Kind == cluster.Switchover && l != nil && l.Server == cluster.ServerStopped && l.Clean &&
		!l.Marker && l.SystemID == p.state.SystemID && l.Timeline == p.state.Timeline
}

func (p *pass) advance(to cluster.Phase, candidate, reason string) {
	p.do(cluster.Command{Kind: cluster.KindAdvance, Phase: to, Backend: candidate, Reason: reason})
}

func (p *pass) end(reason string, args ...any) {
	p.do(cluster.Command{Kind: cluster.KindEnd, Reason: fmt.Sprintf(reason, args...)})
}
