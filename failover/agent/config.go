package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Config is the section `agent` of the configuration: the PostgreSQL server on this
// host.
type Config struct {
	DataDirectory string            `yaml:"data_directory"`
	ConfigFile    string            `yaml:"config_file"`   // empty: as the running server says, remembered
	BinDirectory  string            `yaml:"bin_directory"` // empty: found by PATH
	Connect       string            `yaml:"connect"`       // libpq's keyword=value form, without a password
	Replication   ReplicationConfig `yaml:"replication"`
	StartCommand  string            `yaml:"start_command"` // for the shell; empty: pg_ctl
	StopCommand   string            `yaml:"stop_command"`  // a fast shutdown, for the shell; empty: a signal
	LogFile       string            `yaml:"log_file"`      // of a server that pg_ctl starts; empty: postgresql.log in data_dir
	Tablespaces   map[string]string `yaml:"tablespaces"`   // where those of other servers lie here; default: at the same path
	Timeout       time.Duration     `yaml:"timeout"`       // of one look at the server, the write to its disk included
	StopTimeout   time.Duration     `yaml:"stop_timeout"`  // of a fast shutdown; then it has failed, or is escalated where it may be
}

// ReplicationConfig is agent.replication: the role that standbys connect with.
type ReplicationConfig struct {
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"` // read by the caller: Deps.Password
	Options      string `yaml:"options"`       // further ones of libpq, such as sslmode=require
}

// Default returns the values that hold where the file is silent.
func Default() Config {
	return Config{
		Connect:     "host=/var/run/postgresql port=5432 user=postgres",
		Replication: ReplicationConfig{User: "repl"},
		Timeout:     time.Second,
		StopTimeout: 30 * time.Second,
	}
}

// Validate returns every fault, joined.
func (c Config) Validate() error {
	var all []error
	fault := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	switch {
	case c.DataDirectory == "":
		fault("agent.data_directory: missing")
	case !filepath.IsAbs(c.DataDirectory):
		fault("agent.data_directory: want an absolute path")
	}
	if _, err := pgconn.ParseConfig(c.Connect); c.Connect == "" || strings.Contains(c.Connect, "://") || err != nil {
		fault("agent.connect: want keyword=value pairs such as host=/run/postgresql port=5432 user=postgres")
	}
	if c.Replication.User == "" {
		fault("agent.replication.user: must not be empty")
	}
	if (c.StartCommand == "") != (c.StopCommand == "") {
		fault("agent.start_command: want both it and stop_command, or neither")
	}
	for from, to := range c.Tablespaces {
		if !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			fault("agent.tablespaces: want absolute paths, not %q: %q", from, to)
		}
	}
	if c.Timeout <= 0 {
		fault("agent.timeout: must be more than 0")
	}
	if c.StopTimeout <= 0 {
		fault("agent.stop_timeout: must be more than 0")
	}
	return errors.Join(all...)
}

// Bounds are the keys of the section failover that an agent keeps to.
type Bounds struct {
	FenceAfter  time.Duration // failover.fence_after
	RestartWait time.Duration // failover.restart_wait
	SlotKeep    uint64        // failover.slot_keep in bytes; 0: no bound
}

// Deps is what an agent needs of the other parts.
type Deps struct {
	Backend string // the name of the server on this host
	DataDir string // pgproxy's own; the agent keeps its files in agent below it
	// Password is that of agent.replication.user; "" where none is asked for.
	Password string

	State   func() *cluster.State  // as this member has applied it; never nil
	Changed func() <-chan struct{} // closed at the next change of State
	Held    func() time.Time       // until when the lease of this member runs or ran; zero: it had none yet
	// Confirm returns nil when the leader, asked after the call, has the State that
	// this member has applied. what is for logs.
	Confirm func(ctx context.Context, what string) error
	// Nudge tells that Local has changed in a way that the leader waits for.
	Nudge func()
	// Observations are those of this member's own probes.
	Observations func() map[string]cluster.Observation

	Managed bool          // failover.mode is managed
	Bounds  func() Bounds // those in force

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}
