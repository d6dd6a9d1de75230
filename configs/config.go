package configs

import (
	"os"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/health"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/proxy"
	"github.com/pgproxy/pgproxy/watchdog"
	"github.com/pgproxy/pgproxy/watchdog/vip"
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
	Limits     []proxy.LimitConfig    `yaml:"limits"`
	Agent      *agent.Config          `yaml:"agent"`    // nil: no server on this host
	Watchdog   *watchdog.Config       `yaml:"watchdog"` // nil: a lone proxy
	VIP        []vip.Config           `yaml:"vip"`
	PCP        pcp.Config             `yaml:"pcp"`
	Metrics    MetricsConfig          `yaml:"metrics"`
	Log        LogConfig              `yaml:"log"`
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
		PCP:        pcp.Default(),
		Metrics:    MetricsConfig{Listen: "*:9719"},
		Log:        LogConfig{Level: LogInfo, Format: LogText},
	}
}

// defaultBackend is what an entry of backends starts from.
func defaultBackend() proxy.BackendConfig { return proxy.BackendConfig{Weight: 1} }

// Member returns the entry of this member in watchdog.members, or nil.
func (c *Config) Member() *watchdog.Member {
	if c.Watchdog == nil {
		return nil
	}
	for i := range c.Watchdog.Members {
		if c.Watchdog.Members[i].Name == c.Name {
			return &c.Watchdog.Members[i]
		}
	}
	return nil
}

// Witness reports whether this member only votes and probes.
func (c *Config) Witness() bool {
	m := c.Member()
	return m != nil && m.Witness
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
		&c.PCP.UnixSocket, &c.PCP.TokenFile,
	}
	if c.Agent != nil {
		fields = append(fields, &c.Agent.DataDirectory, &c.Agent.ConfigFile, &c.Agent.BinDirectory,
			&c.Agent.Replication.PasswordFile, &c.Agent.LogFile)
	}
	if c.Watchdog != nil {
		fields = append(fields, &c.Watchdog.SecretFile)
	}
	return fields
}
