package cluster

import "time"

// Report is what one member tells the leader, with each request for a lease and
// at once when something changed. It is not state. Ages, not times, cross the
// network: the clocks of two hosts have nothing to do with each other.
type Report struct {
	Member  string        `json:"member"`
	Witness bool          `json:"witness,omitempty"`
	Leaving bool          `json:"leaving,omitempty"` // it is about to stop; addresses go elsewhere
	Format  int           `json:"format"`            // highest level that the member's program reads
	Up      time.Duration `json:"up"`                // since the member's process started
	Epoch   uint64        `json:"epoch"`             // that the member has applied
	Differs string        `json:"differs,omitempty"` // how its configuration file differs from the State; "" it does not
	Config  string        `json:"config,omitempty"`  // stands for the backends that its configuration file names

	Sights []Sight `json:"sights,omitempty"` // of the backends that it has probed
	Local  *Local  `json:"local,omitempty"`  // nil: no agent

	// Drained and Barred are the IDs of the operations for which no statement runs
	// on the old primary any more, and for which the connections to it are closed.
	Drained uint64 `json:"drained,omitempty"`
	Barred  uint64 `json:"barred,omitempty"`

	Links []Link `json:"links,omitempty"` // one for each virtual address that its file names
}

// Sight is an Observation in a Report.
type Sight struct {
	Backend      string        `json:"backend"`
	Address      string        `json:"address"`
	Age          time.Duration `json:"age"`            // since the probe ended, when the report was made
	Took         time.Duration `json:"took"`           // the probe
	Seen         bool          `json:"seen,omitempty"` // Alive at some time since the member's process started
	Alive        bool          `json:"alive,omitempty"`
	Ready        bool          `json:"ready,omitempty"`
	Refused      bool          `json:"refused,omitempty"` // the host answered that nobody listens
	Error        string        `json:"error,omitempty"`
	Failures     int           `json:"failures,omitempty"`
	Role         Role          `json:"role,omitempty"`
	SystemID     uint64        `json:"system_id,omitempty"`
	Timeline     uint32        `json:"timeline,omitempty"`
	LSN          LSN           `json:"lsn,omitempty"`
	LagBytes     uint64        `json:"lag_bytes,omitempty"`
	PostmasterAt time.Time     `json:"postmaster_at,omitzero"`
	Streaming    bool          `json:"streaming,omitempty"` // a standby whose walreceiver streams, as it or its primary says
	SyncState    string        `json:"sync_state,omitempty"`
	SyncNames    string        `json:"sync_names,omitempty"` // of a primary: synchronous_standby_names
}

// Link is a member's fitness to hold one virtual address.
type Link struct {
	Address  string `json:"address"`
	Carrier  bool   `json:"carrier"`            // its interface is there, up and has a carrier
	Gateway  bool   `json:"gateway"`            // one of vip.check answers, or there is none to ask
	Held     bool   `json:"held,omitempty"`     // the address is on the interface now
	Hardware string `json:"hardware,omitempty"` // address of the interface
	Foreign  string `json:"foreign,omitempty"`  // hardware address, not a member's, that answers for it
}

// ServerState is what an agent sees of its server's processes and files.
type ServerState uint8

// The states of a local server.
const (
	ServerUnknown  ServerState = iota
	ServerMissing              // no data directory, or an empty one
	ServerStopped              // not running; Control tells how it ended
	ServerStarting             // running, does not accept connections yet
	ServerPrimary              // running and writable
	ServerStandby              // running in recovery
	ServerHung                 // running and does not answer
	ServerBusy                 // the agent works on it: see Task
)

// String returns the word that operators see.
func (s ServerState) String() string {
	switch s {
	case ServerMissing:
		return "missing"
	case ServerStopped:
		return "stopped"
	case ServerStarting:
		return "starting"
	case ServerPrimary:
		return "primary"
	case ServerStandby:
		return "standby"
	case ServerHung:
		return "hung"
	case ServerBusy:
		return "busy"
	case ServerUnknown:
	}
	return "unknown"
}

// MarshalText writes the word of String.
func (s ServerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the word of String; one of a newer program is ServerUnknown.
func (s *ServerState) UnmarshalText(text []byte) error {
	*s = ServerUnknown
	for c := ServerMissing; c <= ServerBusy; c++ {
		if c.String() == string(text) {
			*s = c
		}
	}
	return nil
}

// Local is what an agent knows about the server of its host.
type Local struct {
	Backend string        `json:"backend"`
	Age     time.Duration `json:"age"` // since it was looked at, when the report was made
	Server  ServerState   `json:"server"`
	// Clean: the control file says that the server was shut down, not killed
	// (pg_control: "shut down" or "shut down in recovery").
	Clean    bool   `json:"clean,omitempty"`
	SystemID uint64 `json:"system_id,omitempty"`
	Timeline uint32 `json:"timeline,omitempty"`
	// End is where its log ends: the greater of received and replayed of a standby,
	// behind the checkpoint of a server that was shut down.
	End       LSN           `json:"end,omitempty"`
	History   []Fork        `json:"history,omitempty"`    // of Timeline, oldest first
	Marker    bool          `json:"marker,omitempty"`     // a rewind was begun and not finished (S9)
	DiskSlow  bool          `json:"disk_slow,omitempty"`  // a small write with fsync has not ended within the probe's timeout
	DiskHangs time.Duration `json:"disk_hangs,omitempty"` // for how long such a write has been under way, when the report was made
	Slots     []Slot        `json:"slots,omitempty"`      // replication slots of pgproxy on it

	// Of the operation with that ID: the walreceiver is seen gone, so that End does
	// not grow any more; the promotion has succeeded; the server was stopped cleanly,
	// or started again.
	Operation uint64 `json:"operation,omitempty"`
	Detached  bool   `json:"detached,omitempty"`
	Promoted  bool   `json:"promoted,omitempty"`
	Stopped   bool   `json:"stopped,omitempty"`
	Restarted bool   `json:"restarted,omitempty"`
	Failed    string `json:"failed,omitempty"` // why the agent's part of the operation cannot be done

	// Of the Recovery with that ID: done, and the server that runs is the new one;
	// or not done, and then Trouble says why when Task is empty.
	Recovery uint64 `json:"recovery,omitempty"`
	Rebuilt  bool   `json:"rebuilt,omitempty"`

	Task     string  `json:"task,omitempty"`     // rewind, rebuild, ...; "" none
	Progress float64 `json:"progress,omitempty"` // of Task, 0 to 1
	Detail   string  `json:"detail,omitempty"`   // of Task, for the operator
	Trouble  string  `json:"trouble,omitempty"`  // why the last Task failed, or what is refused; "" nothing
}

// Slot is a physical replication slot.
type Slot struct {
	Backend string `json:"backend"` // that it is kept for
	Held    uint64 `json:"held"`    // bytes of log that it keeps
	Active  bool   `json:"active,omitempty"`
}

// Reported is a Report as the leader keeps it.
type Reported struct {
	Report
	At time.Time // by the leader's clock, when it came in
}
