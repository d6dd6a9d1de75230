package simulation

import (
	"time"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/internal/cluster"
)

// mutant is a deliberate mistake. The assertions must find each of them.
type mutant uint8

const (
	noMutant              mutant = iota
	grantWithoutRound            // the leader grants because it believes that it leads (S1)
	grantBeforeBarrier           // a new leader grants before it has applied its log (S1)
	countFromReceipt             // a member counts its lease from the answer (S1)
	takeUnapplied                // a member takes a lease whatever it has applied (S1)
	routeWithoutLease            // a member hands bytes over without looking (S1)
	forwardWithoutLease          // a member forwards an answer without looking again (S1)
	noBarrier                    // the leader does not wait for the members (S2)
	noWaitAfterElection          // a new leader does not wait out the leases of the last one (S2)
	acknowledgeEarly             // a member acknowledges and keeps its lease (S2)
	promoteWithoutConfirm        // an agent acts on what it knows (S3)
	oneVoterIsEnough             // a backend is down when the leader says so (S4)
	notTheNewest                 // another standby than the newest is promoted (S5)
	syncForgotten                // what is recorded about synchronous standbys is not looked at (S5)
	markForgotten                // a server that is to be rebuilt is used like any other (S6)
	newerTimelineTouched         // an agent stops a server on a newer timeline (S6)
	sameTimelineRewound          // an agent takes the number of a timeline for its history (S6)
	wipedVoterVotes              // a member with an empty disk votes as what it was
	lastMutant
)

// String returns what a test calls it.
func (m mutant) String() string {
	return [...]string{
		"none", "grant without a round", "grant before the barrier", "count from receipt", "take unapplied",
		"route without a lease", "forward without a lease", "no barrier", "no wait after an election",
		"acknowledge early", "promote without confirmation", "one voter is enough", "not the newest",
		"synchronous standbys forgotten", "mark forgotten", "newer timeline touched", "same timeline rewound",
		"wiped voter votes",
	}[m]
}

// shape returns that of a schedule in which the mistake can matter.
func (m mutant) shape(h shape) shape {
	if m != noMutant {
		h.faults = max(h.faults, 6)
	}
	switch m {
	case grantBeforeBarrier, takeUnapplied:
		h.lagging = 0.5
	case notTheNewest:
		h.sync, h.servers = "", 3
	case syncForgotten:
		h.sync, h.servers = "FIRST 1 (h1, h2, h3)", 3
	case newerTimelineTouched, sameTimelineRewound:
		h.meddling, h.switches = true, true
	case grantWithoutRound:
		h.belief = 3 * time.Second
	case promoteWithoutConfirm:
		h.lagging, h.pauses = 0.3, 0.002
	case noMutant:
	default:
	}
	return h
}

// input spoils what the leader decides on.
func (m mutant) input(in failover.Input) failover.Input {
	switch m {
	case oneVoterIsEnough:
		in.Voters = []string{in.Self}
	case syncForgotten:
		in.State = changed(in.State, func(s *cluster.State) { s.Sync = cluster.Sync{} })
	case markForgotten:
		in.State = unmarked(in.State)
	default:
	}
	return in
}

// decision spoils what the leader has decided.
func (m mutant) decision(in failover.Input, d failover.Decision) failover.Decision {
	if m != notTheNewest {
		return d
	}
	for i := range d.Commands {
		c := &d.Commands[i]
		o := in.State.Operation
		if c.Kind != cluster.KindAdvance || c.Phase != cluster.PhasePromote || o == nil || o.Kind != cluster.Failover {
			continue
		}
		for _, b := range in.State.Backends {
			r, ok := in.Reports[b.Agent]
			if ok && b.Name != c.Backend && !b.Rebuild && r.Local != nil && r.Local.Operation == o.ID && r.Local.Detached {
				c.Backend = b.Name
				break
			}
		}
	}
	return d
}

// seen spoils the state that an agent acts on.
func (m mutant) seen(s *cluster.State, backend string, timeline uint32) *cluster.State {
	switch m {
	case markForgotten:
		return unmarked(s)
	case newerTimelineTouched:
		if s.Timeline < timeline && s.Operation == nil && s.Primary != "" && s.Primary != backend {
			return changed(s, func(s *cluster.State) { s.Timeline = timeline + 1 })
		}
	default:
	}
	return s
}

func unmarked(s *cluster.State) *cluster.State {
	return changed(s, func(s *cluster.State) {
		for i := range s.Backends {
			b := &s.Backends[i]
			b.Rebuild, b.Recovery = false, nil
			if b.Status == cluster.StatusRecovering {
				b.Status = cluster.StatusUp
			}
		}
	})
}

// changed returns a copy of s that f has changed.
func changed(s *cluster.State, f func(*cluster.State)) *cluster.State {
	next := *s
	next.Backends = append([]cluster.Backend(nil), s.Backends...)
	f(&next)
	return &next
}
