package failover

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Input is all that Decide looks at: the leader's view.
type Input struct {
	Now   time.Time
	Since time.Time // when the leadership began
	Self  string    // the leader
	State *cluster.State
	// Known is since when this member has known what the State says, by its own clock;
	// times in the State are by the clocks of those who proposed them.
	Known Known
	// Reports by member, the leader's own included.
	Reports map[string]cluster.Reported
	Voters  []string // names of all voting members, there or not
	Barred  bool     // the barrier of State.Operation has passed (S2)

	Backends []cluster.Spec // of the leader's file; nil: leave the State's

	Mode      Mode
	Retries   int           // health.retries
	Interval  time.Duration // health.interval
	Timeout   time.Duration // health.timeout
	Lease     time.Duration // watchdog.lease: a member reports four times in it
	StartWait time.Duration // failover.start_wait
	// RestartWait is failover.restart_wait, PromoteWait failover.promote_wait,
	// StopWait failover.stop_wait, DiskWait failover.disk_wait, Drain hold.drain.
	RestartWait, PromoteWait, StopWait, DiskWait, Drain time.Duration
	SlotKeep                                            uint64 // failover.slot_keep, bytes
}

// Known is when a member learnt of parts of the State.
type Known struct {
	// PrimaryEpoch is an epoch at which the State had its present primary and timeline.
	// A member that had not applied it when it reported may have looked at that server
	// before it was the primary.
	PrimaryEpoch uint64
	Phase        time.Time            // the operation under way and its phase
	Status       map[string]time.Time // the status of each backend
}

// Learn returns k after a State was looked at that is not older than the one before.
func (k Known) Learn(before, now *cluster.State, at time.Time) Known {
	if before.Primary != now.Primary || before.Timeline != now.Timeline {
		k.PrimaryEpoch = now.Epoch
	}
	if a, b := before.Operation, now.Operation; (a == nil) != (b == nil) || a != nil && (a.ID != b.ID || a.Phase != b.Phase) {
		k.Phase = at
	}
	status := make(map[string]time.Time, len(now.Backends))
	for i := range now.Backends {
		b := &now.Backends[i]
		if old := before.Backend(b.Name); old != nil && old.Status == b.Status {
			status[b.Name] = k.Status[b.Name]
		} else {
			status[b.Name] = at
		}
	}
	k.Status = status
	return k
}

// Decision is what Decide wants done.
type Decision struct {
	// Commands in this order, each decided on the state that the ones before it
	// make; the first expects the epoch of Input.State.
	Commands []cluster.Command
	// Ask names backends that every member is to probe now.
	Ask []string
	// Waiting says why there is no primary that works and none is adopted, or what the
	// operation under way waits for; "" when there is a primary and no operation.
	Waiting string
}

// Decide returns the commands that bring the state in line with what is seen.
// With the state that they make and the same reports it returns none.
//
// The order of the situations matters: first what ends the recorded primary, then
// what makes one, then the others, measured against the outcome.
func Decide(in Input) Decision {
	p := &pass{in: in, state: *in.State}
	p.configured()
	p.looks = p.look()
	for _, situation := range situations {
		situation(p)
	}
	if b := p.state.Backend(p.state.Primary); b != nil && b.Status != cluster.StatusDown && p.state.Operation == nil {
		p.waiting = ""
	} else if p.waiting == "" { // else a situation knew better
		p.waiting = p.described()
	}
	return Decision{Commands: p.commands, Ask: p.suspects(), Waiting: p.waiting}
}

var situations = []func(*pass){
	backendDown,
	primaryDemoted,
	primaryWentBack,
	primaryOnNewTimeline,
	drained,
	barrierPassed,
	oldStopped,
	oldRestarted,
	candidateLost,
	candidatePromoted,
	standbysDetached,
	formerReturns,
	roleChanged,
	firstStart,
	primaryLost,
	foreignSystem,
	falsePrimary,
	standbyAhead,
	rebuilt,
	primaryBack,
	standbyBack,
	slotTooLarge,
	rebuildMarked,
	historyKnown,
	syncChanged,
	holders,
	formatRaised,
}

// pass is one run of Decide.
type pass struct {
	in       Input
	state    cluster.State // after commands
	looks    map[string]*look
	commands []cluster.Command
	waiting  string
}

// do adds a command and applies it to the state that later situations see.
func (p *pass) do(c cluster.Command) {
	c.At, c.Expect = p.in.Now, p.state.Epoch
	next, err := cluster.Apply(p.state, c)
	if err != nil {
		// Apply guards the safety rules; what it refuses is not proposed.
		p.wait("%v", err)
		return
	}
	if next.Epoch != p.state.Epoch {
		p.state = next
		p.commands = append(p.commands, c)
	}
}

func (p *pass) wait(format string, args ...any) {
	if p.waiting == "" {
		p.waiting = fmt.Sprintf(format, args...)
	}
}

func (p *pass) setStatus(b *cluster.Backend, s cluster.Status, reason string, args ...any) {
	p.do(cluster.Command{Kind: cluster.KindSetStatus, Backend: b.Name, Status: s, Reason: fmt.Sprintf(reason, args...)})
}

func (p *pass) setRole(b *cluster.Backend, r cluster.Role) {
	p.do(cluster.Command{Kind: cluster.KindSetRole, Backend: b.Name, Role: r})
}

func (p *pass) adopt(o cluster.Observation, reason string) {
	p.do(cluster.Command{
		Kind: cluster.KindAdoptPrimary, Backend: o.Backend,
		Timeline: o.Timeline, SystemID: o.SystemID, Reason: reason,
	})
}

// backends returns those whose status follows what is seen: not the ones that an
// operator or a rebuild has taken out. They are as of the call; do changes none.
func (p *pass) backends() []*cluster.Backend {
	var all []*cluster.Backend
	for i := range p.state.Backends {
		b := &p.state.Backends[i]
		if b.Status != cluster.StatusDetached && b.Status != cluster.StatusRecovering {
			all = append(all, b)
		}
	}
	return all
}

// seen returns what the members together see at the address that b has now.
func (p *pass) seen(b *cluster.Backend) (cluster.Observation, bool) {
	l := p.looks[b.Name]
	if l == nil {
		return cluster.Observation{}, false
	}
	return l.obs, l.ok
}

// members returns the names of all who reported, voters or not, in order.
func (p *pass) members() []string {
	return slices.Sorted(maps.Keys(p.in.Reports))
}

func (p *pass) voter(member string) bool { return slices.Contains(p.in.Voters, member) }

// managed tells whether pgproxy itself gives the backends their roles: the mode
// says so and there are agents.
func (p *pass) managed() bool {
	if p.in.Mode != ModeManaged {
		return false
	}
	return slices.ContainsFunc(p.state.Backends, func(b cluster.Backend) bool { return b.Agent != "" })
}

// configured takes over what the files of the members say, when all that are there
// agree: a file that is changed on one member after the other counts when the last one
// has it, and a forgotten one does no harm. The first list is the leader's.
func (p *pass) configured() {
	if p.in.Backends == nil || p.state.Operation != nil {
		return
	}
	first := len(p.state.Backends) == 0
	if !first && !p.agree(func(r cluster.Reported) string { return r.Config }) {
		return
	}
	p.do(cluster.Command{Kind: cluster.KindConfigure, Backends: p.in.Backends, Addresses: p.addresses()})
}

// agree tells whether what is asked for is the same in all reports, the leader's too.
func (p *pass) agree(what func(cluster.Reported) string) bool {
	for _, v := range p.in.Voters {
		if r, ok := p.in.Reports[v]; p.in.present(v) && (!ok || what(r) != what(p.in.Reports[p.in.Self])) {
			return false
		}
	}
	return true
}

// addresses returns the virtual addresses that the files name, when all members agree
// that could hold one; else those of the State.
func (p *pass) addresses() []string {
	var now, all []string
	for _, a := range p.state.Addresses {
		now = append(now, a.Address)
	}
	asked := false
	for _, v := range p.in.Voters {
		r, ok := p.in.Reports[v]
		if !p.in.present(v) || r.Witness {
			continue
		}
		if !ok {
			return now
		}
		var own []string
		for _, l := range r.Links {
			own = append(own, l.Address)
		}
		if asked && !slices.Equal(slices.Sorted(slices.Values(own)), slices.Sorted(slices.Values(all))) {
			return now
		}
		if !asked {
			asked, all = true, own
		}
	}
	if !asked || slices.Equal(slices.Sorted(slices.Values(all)), slices.Sorted(slices.Values(now))) {
		return now
	}
	return all
}

// ready returns the observation of a backend that answered in full.
func (p *pass) ready(b *cluster.Backend) (cluster.Observation, bool) {
	o, ok := p.seen(b)
	return o, ok && o.Ready
}

// recorded returns what is seen of the recorded primary.
func (p *pass) recorded() (*cluster.Backend, cluster.Observation, bool) {
	b := p.state.Backend(p.state.Primary)
	if b == nil {
		return nil, cluster.Observation{}, false
	}
	o, ok := p.ready(b)
	return b, o, ok
}

// ours tells whether o is of this cluster's data.
func (p *pass) ours(o cluster.Observation) bool {
	return p.state.SystemID == 0 || o.SystemID == p.state.SystemID
}

// primaries returns the backends but one that say they are primaries of this
// cluster and could be adopted.
func (p *pass) primaries(but string) []cluster.Observation {
	var all []cluster.Observation
	for _, b := range p.backends() {
		if o, ok := p.ready(b); ok && o.Role == cluster.RolePrimary && p.ours(o) && b.Name != but && !b.Rebuild {
			all = append(all, o)
		}
	}
	return all
}

// described lists what is seen of all backends, for the operator.
func (p *pass) described() string {
	var parts []string
	for _, b := range p.backends() {
		o, ok := p.seen(b)
		switch {
		case !ok:
			parts = append(parts, b.Name+" not probed yet")
		case !o.Alive:
			parts = append(parts, b.Name+" does not answer")
		case !o.Ready:
			parts = append(parts, b.Name+" is not ready")
		default:
			parts = append(parts, fmt.Sprintf("%s is a %s of system %d on timeline %d", b.Name, o.Role, o.SystemID, o.Timeline))
		}
	}
	return strings.Join(parts, ", ")
}
