package pcp

import (
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Health is what the asked member's probes, and the agent wherever it is, say
// about one backend.
type Health struct {
	Name     string     `json:"name"`
	Address  string     `json:"address"`
	Status   string     `json:"status"` // as Node.Status
	Alive    bool       `json:"alive"`  // it answered the last probe, be it with an error
	Ready    bool       `json:"ready"`  // it answered in full
	Error    string     `json:"error"`  // why it is not ready
	Role     string     `json:"role"`   // that it says it has
	Timeline *uint32    `json:"timeline"`
	LSN      *string    `json:"lsn"`
	Warning  string     `json:"warning"`  // why its answers could differ from the primary's: it gets no reads
	Failures int        `json:"failures"` // probes in a row without an answer
	At       *time.Time `json:"at"`       // when the last probe ended; null: never
	Took     *float64   `json:"took"`     // seconds of the last probe
	Checks   Checks     `json:"checks"`
	Agent    *Agent     `json:"agent"` // null: it has none, or none that reports
}

// Checks counts the health checks of one backend by this member, each a probe and
// its retries. Durations are in seconds.
type Checks struct {
	Total           uint64     `json:"total"`
	Success         uint64     `json:"success"`
	Fail            uint64     `json:"fail"`
	Skip            uint64     `json:"skip"` // could not be made for a reason of our own
	Retry           uint64     `json:"retry"`
	MaxDuration     float64    `json:"max_duration"`
	MinDuration     float64    `json:"min_duration"`
	AverageDuration float64    `json:"average_duration"`
	LastSuccess     *time.Time `json:"last_success"`
	LastFail        *time.Time `json:"last_fail"`
}

// Agent is what the agent of a backend's host reports.
type Agent struct {
	Member   string   `json:"member"`
	Server   string   `json:"server"` // missing, stopped, starting, primary, standby, hung, busy
	Timeline *uint32  `json:"timeline"`
	Task     string   `json:"task"`     // "" none
	Progress *float64 `json:"progress"` // of Task, 0 to 1
	Detail   string   `json:"detail"`
	Trouble  string   `json:"trouble"`   // why the last task failed, or what is refused
	DiskSlow bool     `json:"disk_slow"` // a small write does not end in time
}

// healthOf joins what is known about one backend.
func healthOf(n Node, o cluster.Observation, checks Checks, local *cluster.Local, member string) Health {
	h := Health{
		Name: n.Name, Address: n.Address, Status: n.Status, Role: cluster.RoleUnknown.String(), Checks: checks,
	}
	if o.Address == n.Address && !o.At.IsZero() {
		h.Alive, h.Ready, h.Failures, h.Warning = o.Alive, o.Ready, o.Failures, o.Incompatible
		at, took := o.At.UTC(), o.ProbeDuration.Seconds()
		h.At, h.Took = &at, &took
		if o.Err != nil {
			h.Error = o.Err.Error()
		}
		if o.Ready {
			h.Role = o.Role.String()
			h.Timeline = known(o.Timeline)
			lsn := o.LSN.String()
			h.LSN = &lsn
		}
	}
	if local != nil {
		h.Agent = &Agent{
			Member: member, Server: local.Server.String(), Timeline: known(local.Timeline), Task: local.Task,
			Detail: local.Detail, Trouble: local.Trouble, DiskSlow: local.DiskSlow,
		}
		if local.Task != "" {
			h.Agent.Progress = &local.Progress
		}
	}
	return h
}

// known returns nil for a timeline that nobody has told.
func known(timeline uint32) *uint32 {
	if timeline == 0 {
		return nil
	}
	return &timeline
}
