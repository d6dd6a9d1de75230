package failover

import "time"

// Mode says who gives the backends their roles.
type Mode string

// The modes.
const (
	ModeManaged  Mode = "managed"  // pgproxy; where it has no agent, as external
	ModeExternal Mode = "external" // another tool; pgproxy follows
	ModeOff      Mode = "off"      // nobody: the primary found first stays the only one
)

// Config is the section `failover` of the configuration.
type Config struct {
	Mode        Mode          `yaml:"mode"`
	FenceAfter  time.Duration `yaml:"fence_after"`  // without a quorum an agent makes its primary a standby after this
	RestartWait time.Duration `yaml:"restart_wait"` // for a primary that was stopped cleanly to come back
	StartWait   time.Duration `yaml:"start_wait"`   // for servers that are starting up, before the first primary is chosen without them
}

// Default returns the values that hold where the file is silent.
func Default() Config {
	return Config{
		Mode:        ModeManaged,
		FenceAfter:  10 * time.Second,
		RestartWait: 5 * time.Second,
		StartWait:   time.Minute,
	}
}
