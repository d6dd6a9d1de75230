package watchdog

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// Config is the section `watchdog` of the configuration. Without Listen the member
// is alone: it leads itself, and nothing listens.
type Config struct {
	Listen     string   `yaml:"listen"`      // host:port for the other members
	SecretFile string   `yaml:"secret_file"` // the same on every member; read by the caller
	Members    []Member `yaml:"members"`     // this one included

	Heartbeat   time.Duration `yaml:"heartbeat"`    // without a leader's word a member waits one to two of these; 50ms to 10s
	LeaderLease time.Duration `yaml:"leader_lease"` // a leader that hears no majority for this long stands back; 20ms to Heartbeat
	Lease       time.Duration `yaml:"lease"`        // L of the design: how long a routing lease lasts; 200ms to 60s
}

// Member is one entry of watchdog.members.
type Member struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // host:port that the others connect to
	Witness bool   `yaml:"witness"` // votes and probes; no clients, no server, never an address
}

// Default returns the values that hold where the file is silent: measured, a new
// leader in about 0.4 s and no false change under load.
func Default() Config {
	return Config{Heartbeat: 200 * time.Millisecond, LeaderLease: 100 * time.Millisecond, Lease: time.Second}
}

// Bounds of the timers. Below, scheduling delays look like failures; above, nobody
// would call it a failover.
const (
	minHeartbeat   = 50 * time.Millisecond
	maxHeartbeat   = 10 * time.Second
	minLeaderLease = 20 * time.Millisecond
	minLease       = 200 * time.Millisecond
	maxLease       = time.Minute
)

// alone tells whether there is no watchdog.
func (c *Config) alone() bool { return c.Listen == "" && len(c.Members) == 0 }

// member returns the entry of that name, or nil.
func (c *Config) member(name string) *Member {
	for i := range c.Members {
		if c.Members[i].Name == name {
			return &c.Members[i]
		}
	}
	return nil
}

// Validate returns every fault of the section for the member of that name, joined.
func (c *Config) Validate(self string) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Heartbeat < minHeartbeat || c.Heartbeat > maxHeartbeat {
		fault("heartbeat: %v is not between %v and %v", c.Heartbeat, minHeartbeat, maxHeartbeat)
	}
	if c.LeaderLease < minLeaderLease || c.LeaderLease > c.Heartbeat {
		fault("leader_lease: %v is not between %v and heartbeat (%v)", c.LeaderLease, minLeaderLease, c.Heartbeat)
	}
	if c.Lease < minLease || c.Lease > maxLease {
		fault("lease: %v is not between %v and %v", c.Lease, minLease, maxLease)
	}
	if c.alone() {
		return errors.Join(faults...)
	}
	if c.Listen == "" {
		fault("listen: missing")
	}
	if c.member(self) == nil {
		fault("members: this member, %q, is not among them", self)
	}
	names, addresses := map[string]bool{}, map[string]bool{}
	for i, m := range c.Members {
		if err := checkMember(m.Name, m.Address); err != nil {
			fault("members[%d]: %w", i, err)
		}
		if names[m.Name] || addresses[m.Address] {
			fault("members[%d]: name or address is that of another", i)
		}
		names[m.Name], addresses[m.Address] = true, true
	}
	return errors.Join(faults...)
}

// checkMember tells what is wrong with a member's name or address.
func checkMember(name, address string) error {
	if err := checkName(name); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("address %q: want host:port", address)
	}
	return nil
}
