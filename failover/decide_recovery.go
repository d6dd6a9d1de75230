package failover

import (
	"fmt"
	"slices"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// slotTooLarge: the primary keeps more log for a lost server than it may. The slot
// is given up, and with it the server's way back by streaming.
func slotTooLarge(p *pass) {
	l := p.local(p.state.Backend(p.state.Primary))
	if l == nil || p.in.SlotKeep == 0 {
		return
	}
	for _, s := range l.Slots {
		b := p.state.Backend(s.Backend)
		if b == nil || b.Status != cluster.StatusDown || b.Rebuild || s.Active || s.Held <= p.in.SlotKeep {
			continue
		}
		p.do(cluster.Command{
			Kind: cluster.KindMarkRebuild, Backend: b.Name,
			Reason: fmt.Sprintf("its slot holds %d bytes, failover.slot_keep is %d", s.Held, p.in.SlotKeep),
		})
	}
}

// rebuildMarked: a server that comes back only by a base backup, and whose agent
// is there, gets one.
func rebuildMarked(p *pass) {
	primary := p.state.Backend(p.state.Primary)
	if !p.managed() || p.state.Operation != nil || primary == nil || primary.Status != cluster.StatusUp {
		return
	}
	for _, b := range p.backends() {
		if b.Rebuild && b.Name != p.state.Primary && p.local(b) != nil {
			p.do(cluster.Command{Kind: cluster.KindRecover, Backend: b.Name, Reason: "it is marked to be rebuilt"})
		}
	}
}

// historyKnown: the primary was adopted by what it was seen to be, and its agent can
// tell the history of its timeline.
func historyKnown(p *pass) {
	b := p.state.Backend(p.state.Primary)
	l := p.local(b)
	if l == nil || len(p.state.History) > 0 || len(l.History) == 0 || p.state.Operation != nil ||
		l.Server != cluster.ServerPrimary || l.Timeline != p.state.Timeline || b.Status != cluster.StatusUp {
		return
	}
	p.do(cluster.Command{
		Kind: cluster.KindAdoptPrimary, Backend: b.Name, Timeline: l.Timeline, SystemID: p.state.SystemID, History: l.History,
	})
}

// rebuilt: a recovery has ended.
func rebuilt(p *pass) {
	for i := range p.state.Backends {
		b := &p.state.Backends[i]
		l := p.local(b)
		if b.Status != cluster.StatusRecovering || l == nil || l.Recovery != b.Recovery.ID {
			continue
		}
		o, ok := p.ready(b)
		switch {
		case l.Rebuilt && ok && o.Role == cluster.RoleStandby && o.Streaming && p.ours(o):
			p.do(cluster.Command{Kind: cluster.KindRecovered, Backend: b.Name, Reason: "it streams"})
		case !l.Rebuilt && l.Task == "" && l.Trouble != "":
			p.do(cluster.Command{Kind: cluster.KindRecoverFailed, Backend: b.Name, Reason: l.Trouble})
		}
	}
}

// syncChanged: the primary waits for other standbys than recorded. One that is not
// shown as synchronous any more is known to have every acknowledged commit only where
// no other could have taken its place: of ANY all that were ever in the quorum count,
// of FIRST those that are shown, unless the list has no more than it waits for.
func syncChanged(p *pass) {
	if p.state.Operation != nil {
		return
	}
	_, o, ok := p.recorded()
	if !ok || o.Role != cluster.RolePrimary || o.Timeline != p.state.Timeline {
		return
	}
	names, err := cluster.ParseSyncNames(o.SyncNames)
	if err != nil {
		return // PostgreSQL took it; it is a form that is not known here
	}
	next := cluster.Sync{Method: names.Method, Num: names.Num}
	word := "sync"
	if names.Method == cluster.SyncAny {
		word = "quorum"
	}
	if next.Listed = len(names.Names); slices.Contains(names.Names, "*") {
		next.Listed = len(p.state.Backends) - 1
	}
	for _, s := range p.in.Reports[p.sawPrimary()].Sights {
		if b := p.state.Backend(s.Backend); b != nil && s.SyncState == word && names.Method != cluster.SyncNone {
			next.Standbys = append(next.Standbys, b.Name)
		}
	}
	slices.Sort(next.Standbys)
	now := p.state.Sync
	same := next.Method == now.Method && next.Num == now.Num && next.Listed == now.Listed
	if same && (next.Method == cluster.SyncAny || next.Listed <= next.Num) {
		next.Standbys = union(now.Standbys, next.Standbys)
	}
	p.do(cluster.Command{Kind: cluster.KindSync, Sync: next})
}

// sawPrimary returns the member whose look at the primary is the newest: what it says
// of the standbys is what the primary told it then.
func (p *pass) sawPrimary() string {
	var newest *sighting
	for _, s := range p.sightings(p.state.Backend(p.state.Primary)) {
		if s.Ready {
			newest = newer(newest, s)
		}
	}
	if newest == nil {
		return ""
	}
	return newest.member
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// formatRaised: every member's program reads a higher level.
func formatRaised(p *pass) {
	level := cluster.Format
	for _, v := range p.in.Voters {
		r, ok := p.in.Reports[v]
		if !ok || !p.in.present(v) {
			return
		}
		level = min(level, r.Format)
	}
	if len(p.in.Voters) > 0 && level > p.state.Format {
		p.do(cluster.Command{Kind: cluster.KindFormat, Format: level})
	}
}
