package configs

import (
	"os"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/health"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy"
)

// Config is the whole of pgproxy.yaml. What the keys mean, their units and ranges
// stand in the reference file.
type Config struct {
	Name       string                 `yaml:"name"`     // of this member; default: the host name
	DataDir    string                 `yaml:"data_dir"` // raft log and last known state
	Listen     proxy.ListenConfig     `yaml:"listen"`
	Auth       proxy.AuthConfig       `yaml:"auth"`
	Backends   []proxy.BackendConfig  `yaml:"backends"`
	BackendTLS proxy.BackendTLSConfig `yaml:"backend_tls"`
	Monitor    proxy.MonitorConfig    `yaml:"monitor"`
	Health     health.Config          `yaml:"health"`
	Pool       proxy.PoolConfig       `yaml:"pool"`
	Balance    lb.Config              `yaml:"balance"`
	Failover   failover.Config        `yaml:"failover"`
	Hold       proxy.HoldConfig       `yaml:"hold"`
	Agent      *AgentConfig           `yaml:"agent"`    // nil: no server on this host
	Watchdog   *WatchdogConfig        `yaml:"watchdog"` // nil: a lone proxy
	VIP        []VIPConfig            `yaml:"vip"`
	PCP        PCPConfig              `yaml:"pcp"`
	Metrics    MetricsConfig          `yaml:"metrics"`
	Log        LogConfig              `yaml:"log"`
}

// AgentConfig is the section `agent`: the PostgreSQL server on this host.
type AgentConfig struct {
	DataDirectory string            `yaml:"data_directory"`
	ConfigFile    string            `yaml:"config_file"` // empty: as the running server says
	BinDirectory  string            `yaml:"bin_directory"`
	Connect       string            `yaml:"connect"` // libpq's keyword=value form, without a password
	Replication   ReplicationConfig `yaml:"replication"`
}

// ReplicationConfig is agent.replication: the role that standbys connect with.
type ReplicationConfig struct {
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
}

// WatchdogConfig is the section `watchdog`.
type WatchdogConfig struct {
	Listen     string         `yaml:"listen"`      // host:port of this member
	SecretFile string         `yaml:"secret_file"` // the same on every member
	Members    []MemberConfig `yaml:"members"`     // this one included
}

// MemberConfig is one entry of watchdog.members.
type MemberConfig struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // host:port
}

// VIPConfig is one entry of `vip`.
type VIPConfig struct {
	Address   string `yaml:"address"` // with the length of its prefix: 10.77.0.100/24
	Interface string `yaml:"interface"`
}

// PCPConfig is the section `pcp`: the operator's interface.
type PCPConfig struct {
	Listen     string `yaml:"listen"`      // host:port; empty: none
	UnixSocket string `yaml:"unix_socket"` // empty: none
}

// MetricsConfig is the section `metrics`.
type MetricsConfig struct {
	Listen string `yaml:"listen"` // host:port; empty: none
}

// LogLevel is the least severity that is logged.
type LogLevel string

// The values of log.level.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogFormat is the form of a log line.
type LogFormat string

// The values of log.format.
const (
	LogText LogFormat = "text" // key=value
	LogJSON LogFormat = "json"
)

// LogConfig is the section `log`.
type LogConfig struct {
	Level  LogLevel  `yaml:"level"`
	Format LogFormat `yaml:"format"`
}

// Default returns the values that hold where the file is silent. Only backends has
// none: a file must name them.
func Default() *Config {
	return &Config{
		Name:       hostName(),
		DataDir:    "/var/lib/pgproxy",
		Listen:     proxy.DefaultListen(),
		Auth:       proxy.DefaultAuth(),
		BackendTLS: proxy.DefaultBackendTLS(),
		Monitor:    proxy.MonitorConfig{User: "pgproxy", Database: "postgres"},
		Health:     health.Default(),
		Pool:       proxy.DefaultPool(),
		Balance:    lb.Default(),
		Failover:   failover.Default(),
		Hold:       proxy.DefaultHold(),
		PCP:        PCPConfig{Listen: "127.0.0.1:9898", UnixSocket: "/run/pgproxy/pcp.sock"},
		Metrics:    MetricsConfig{Listen: "*:9719"},
		Log:        LogConfig{Level: LogInfo, Format: LogText},
	}
}

// defaultBackend is what an entry of backends starts from.
func defaultBackend() proxy.BackendConfig { return proxy.BackendConfig{Weight: 1} }

// defaultAgent is what the section agent starts from.
func defaultAgent() AgentConfig {
	return AgentConfig{
		Connect:     "host=/var/run/postgresql port=5432 user=postgres",
		Replication: ReplicationConfig{User: "repl"},
	}
}

// hostName returns "" when the system does not tell; validation reports it then.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// files returns every field that is the path of a file or directory here.
func (c *Config) files() []*string {
	fields := []*string{
		&c.DataDir,
		&c.Listen.UnixSocketDir, &c.Listen.TLS.CertFile, &c.Listen.TLS.KeyFile, &c.Listen.TLS.ClientCAFile,
		&c.Auth.HBAFile, &c.Auth.PasswordFile,
		&c.BackendTLS.CAFile, &c.BackendTLS.CertFile, &c.BackendTLS.KeyFile,
		&c.Monitor.PasswordFile,
		&c.PCP.UnixSocket,
	}
	if c.Agent != nil {
		fields = append(fields, &c.Agent.DataDirectory, &c.Agent.ConfigFile, &c.Agent.BinDirectory,
			&c.Agent.Replication.PasswordFile)
	}
	if c.Watchdog != nil {
		fields = append(fields, &c.Watchdog.SecretFile)
	}
	return fields
}
