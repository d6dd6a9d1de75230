package failover

import "time"

// Mode says who gives the backends their roles.
type Mode string

// The modes.
const (
	ModeManaged  Mode = "managed"  // pgproxy; where no backend has an agent, as external
	ModeExternal Mode = "external" // another tool; pgproxy follows
	ModeOff      Mode = "off"      // nobody: the primary found first stays the only one
)

// Config is the section `failover` of the configuration.
type Config struct {
	Mode        Mode          `yaml:"mode"`
	FenceAfter  time.Duration `yaml:"fence_after"`  // without a quorum an agent makes its primary a standby after this
	RestartWait time.Duration `yaml:"restart_wait"` // for a primary that was stopped cleanly to come back
	StartWait   time.Duration `yaml:"start_wait"`   // for servers that are starting up, before the first primary is chosen without them
	PromoteWait time.Duration `yaml:"promote_wait"` // for a promotion, before another candidate is tried
	StopWait    time.Duration `yaml:"stop_wait"`    // for the old primary of a switchover to stop, before it is started again
	DiskWait    time.Duration `yaml:"disk_wait"`    // for a small write of the primary's agent to reach the disk; then the primary is lost
	SlotKeep    int64         `yaml:"slot_keep"`    // bytes of log that are kept for a lost server; 0: no bound
}

// Default returns the values that hold where the file is silent.
func Default() Config {
	return Config{
		Mode:        ModeManaged,
		FenceAfter:  10 * time.Second,
		RestartWait: 5 * time.Second,
		StartWait:   time.Minute,
		PromoteWait: 30 * time.Second,
		StopWait:    10 * time.Second,
		DiskWait:    10 * time.Second,
		SlotKeep:    16 << 30,
	}
}
