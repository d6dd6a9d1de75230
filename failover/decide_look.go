package failover

import (
	"errors"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// look is what all members together see of one backend.
type look struct {
	obs     cluster.Observation
	ok      bool     // a member has probed it lately
	down    bool     // a majority of all voting members says so (S4)
	failed  []string // voting members whose last probe found it dead
	reached int      // voting members whose last probe found it alive
	seen    bool     // a member saw it alive since that member's process started
}

// fresh is how old a probe may be to say something: the next one must have ended
// by then.
func (in *Input) fresh() time.Duration { return in.Interval + 2*in.Timeout + time.Second/2 }

// present tells whether a member has reported so lately that it is not gone. A new
// leader waits a moment for the first reports: every member sends one as soon as
// it knows the leader.
func (in *Input) present(member string) bool {
	r, ok := in.Reports[member]
	if !ok {
		return in.Now.Sub(in.Since) < firstReport
	}
	return in.Now.Sub(r.At) < max(goneAfter, in.Lease*7/10)
}

const (
	// goneAfter is for how long a member may be silent with a lease of a second: it
	// reports four times in a lease, so two were lost.
	goneAfter = 700 * time.Millisecond
	// firstReport is what a member has for its first report to a new leader.
	firstReport = 150 * time.Millisecond
)

// looks merges the reports.
func (p *pass) look() map[string]*look {
	all := make(map[string]*look, len(p.state.Backends))
	for i := range p.state.Backends {
		all[p.state.Backends[i].Name] = p.lookAt(&p.state.Backends[i])
	}
	return all
}

// lookAt merges what the members see of b. The newest answer in full counts; what
// only some cannot reach is not down.
func (p *pass) lookAt(b *cluster.Backend) *look {
	l := &look{}
	failures, refused := 0, 0
	silent, gone := p.hostGone(b)
	// Since the member on its host is silent: one could not reach it, one could, and
	// how many have looked.
	missed, contradicted, looked := false, false, 0
	var worst, alive, ready *sighting
	for _, s := range p.sightings(b) {
		l.ok = true
		l.seen = l.seen || s.Seen
		switch {
		case s.Alive && s.Ready:
			ready = newer(ready, s)
		case s.Alive:
			alive = newer(alive, s)
		}
		if !s.voter {
			continue
		}
		since := s.at.Add(-s.Took).After(silent)
		if since {
			looked++
		}
		if s.Alive {
			l.reached++
			contradicted = contradicted || since
			continue
		}
		missed = missed || s.at.After(silent)
		l.failed = append(l.failed, s.member)
		failures = max(failures, s.Failures)
		worst = newer(worst, s)
		if s.Refused {
			refused++
		}
	}
	majority := len(p.in.Voters)/2 + 1
	switch {
	case len(l.failed) >= majority && (failures > p.in.Retries || refused >= 2):
		l.down = true
	case gone && missed && !contradicted && (looked >= p.others(b) || p.in.Now.Sub(silent) >= p.in.Interval+p.in.Timeout):
		l.down = true
	}
	switch {
	case l.down || ready == nil && alive == nil:
		if worst != nil {
			l.obs = worst.observation()
		} else {
			l.ok = false
		}
	case ready != nil:
		l.obs = ready.observation()
	default:
		l.obs = alive.observation()
	}
	return l
}

// others returns how many voting members are there beside the one on the host of b.
func (p *pass) others(b *cluster.Backend) int {
	n := 0
	for _, v := range p.in.Voters {
		if v != b.Agent && p.in.present(v) {
			n++
		}
	}
	return n
}

// hostGone tells whether the member on the backend's host has fallen silent, and
// since when. A failed probe of one other member is then enough, unless another
// has reached the server since; all that are there look again first (S4).
func (p *pass) hostGone(b *cluster.Backend) (since time.Time, gone bool) {
	if b.Agent == "" || len(p.in.Voters) < 3 || p.in.present(b.Agent) {
		return time.Time{}, false
	}
	if r, ok := p.in.Reports[b.Agent]; ok {
		return r.At, true
	}
	return p.in.Since, true
}

// sighting is one member's view of one backend.
type sighting struct {
	cluster.Sight
	member string
	voter  bool
	at     time.Time // when the probe ended, by the leader's clock
}

func newer(a, b *sighting) *sighting {
	if a == nil || b.at.After(a.at) {
		return b
	}
	return a
}

// sightings returns the views of b that are fresh and of its present address. A
// member that is gone has no view, nor of the primary one that did not know yet that
// it is the primary; a member that knows leaves out what it saw before.
func (p *pass) sightings(b *cluster.Backend) []*sighting {
	var all []*sighting
	for _, member := range p.members() {
		r, ok := p.in.Reports[member]
		if !ok || !p.in.present(member) {
			continue
		}
		if b.Name == p.in.State.Primary && r.Epoch < p.in.Known.PrimaryEpoch {
			continue
		}
		for i := range r.Sights {
			s := &r.Sights[i]
			at := r.At.Add(-s.Age)
			if s.Backend == b.Name && s.Address == b.Address && p.in.Now.Sub(at) < p.in.fresh() {
				all = append(all, &sighting{Sight: *s, member: member, voter: p.voter(member), at: at})
			}
		}
	}
	return all
}

func (s *sighting) observation() cluster.Observation {
	o := cluster.Observation{
		Backend: s.Backend, Address: s.Address, At: s.at, ProbeDuration: s.Took,
		Alive: s.Alive, Ready: s.Ready, Refused: s.Refused, Failures: s.Failures,
		Role: s.Role, SystemID: s.SystemID, Timeline: s.Timeline, LSN: s.LSN, LagBytes: s.LagBytes,
		PostmasterAt: s.PostmasterAt, Streaming: s.Streaming, SyncState: s.SyncState, SyncNames: s.SyncNames,
	}
	if s.Error != "" {
		o.Err = errors.New(s.Error)
	}
	return o
}

// local returns what the agent of b sees of its server, if that member is there.
func (p *pass) local(b *cluster.Backend) *cluster.Local {
	if b == nil || b.Agent == "" || !p.in.present(b.Agent) {
		return nil
	}
	if l := p.in.Reports[b.Agent].Local; l != nil && l.Backend == b.Name {
		return l
	}
	return nil
}

// suspects returns the backends that are to be looked at now by all: those that a
// member could not reach while the others have not agreed, the primary when the
// member on its host is silent, and the standby of a switchover that has yet to
// receive the last of the log.
func (p *pass) suspects() []string {
	var names []string
	for _, b := range p.backends() {
		l := p.looks[b.Name]
		if b.Status != cluster.StatusDown && !l.down && (len(l.failed) > 0 || b.Name == p.state.Primary && p.fallenSilent(b)) {
			names = append(names, b.Name)
		}
	}
	if o := p.state.Operation; o != nil && o.Phase == cluster.PhaseStop {
		names = append(names, o.Target)
	}
	return names
}

// fallenSilent tells whether the member on the host of b has just fallen silent,
// or has not reported to a new leader.
func (p *pass) fallenSilent(b *cluster.Backend) bool {
	if b.Agent == "" {
		return false
	}
	since, gone := p.hostGone(b)
	if _, ok := p.in.Reports[b.Agent]; !ok {
		since, gone = p.in.Since, true
	}
	return gone && p.in.Now.Sub(since) < p.in.fresh()
}
