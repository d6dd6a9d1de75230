package proxy

import (
	"time"

	"github.com/pgproxy/pgproxy/lb"
)

// Config is all that package proxy reads of the configuration. Its parts stand in
// the file under the names of their types.
type Config struct {
	Listen     ListenConfig
	Auth       AuthConfig
	Backends   []BackendConfig
	BackendTLS BackendTLSConfig
	Monitor    MonitorConfig
	Pool       PoolConfig
	Balance    lb.Config
	Hold       HoldConfig
	Limits     []LimitConfig
}

// TLSMode says what a listener does with TLS.
type TLSMode string

// The values of listen.tls.mode.
const (
	TLSDisable TLSMode = "disable" // SSLRequest is answered with N
	TLSAllow   TLSMode = "allow"   // the client chooses
	TLSRequire TLSMode = "require" // TCP connections without TLS are refused
)

// SSLMode says how pgproxy connects to backends (libpq, "SSL Mode Descriptions";
// "allow" is left out).
type SSLMode string

// The values of backend_tls.mode.
const (
	SSLDisable    SSLMode = "disable"
	SSLPrefer     SSLMode = "prefer"
	SSLRequire    SSLMode = "require"
	SSLVerifyCA   SSLMode = "verify-ca"
	SSLVerifyFull SSLMode = "verify-full"
)

// PoolMode says for how long a session keeps its server connections.
type PoolMode string

// The values of pool.mode.
const (
	PoolSession     PoolMode = "session"
	PoolTransaction PoolMode = "transaction" // until the end of the transaction
)

// OnFailover says what becomes of a session that listens when its server is lost.
type OnFailover string

// The values of listen.on_failover.
const (
	ListenClose OnFailover = "close" // it ends, so that the client knows of lost notifications
	ListenKeep  OnFailover = "keep"  // it listens again on the new primary
)

// Driver says what moves the bytes of sessions.
type Driver string

// The values of listen.driver.
const (
	// DriverAuto is event loops where there are any, else goroutines.
	DriverAuto Driver = "auto"
	// DriverEpoll is event loops, or an error.
	DriverEpoll Driver = "epoll"
	// DriverGoroutine is goroutines for every client.
	DriverGoroutine Driver = "goroutine"
)

// ListenConfig is the section `listen`.
type ListenConfig struct {
	Address       string          `yaml:"address"`         // host:port; host "*" is all addresses; empty: no TCP
	UnixSocketDir string          `yaml:"unix_socket_dir"` // empty: none; the socket is .s.PGSQL.<port> in it
	MaxClients    int             `yaml:"max_clients"`
	TLS           TLSConfig       `yaml:"tls"`
	Startup       StartupLimits   `yaml:"startup"`
	Keepalive     KeepaliveConfig `yaml:"keepalive"`
	// Drain is how long a session that is not idle may go on after pgproxy was told
	// to stop; then it is closed.
	Drain time.Duration `yaml:"drain"`
	// OnFailover is about sessions that LISTEN.
	OnFailover OnFailover `yaml:"on_failover"`
	Driver     Driver     `yaml:"driver"`
	Loops      int        `yaml:"loops"` // event loops; 0: one for each two processors
}

// TLSConfig is listen.tls.
type TLSConfig struct {
	CertFile     string  `yaml:"cert_file"`
	KeyFile      string  `yaml:"key_file"`
	ClientCAFile string  `yaml:"client_ca_file"`
	Mode         TLSMode `yaml:"mode"`
}

// StartupLimits bound what a connection may cost before it has authenticated.
type StartupLimits struct {
	Timeout     time.Duration `yaml:"timeout"`       // from accept to the end of authentication
	MaxHalfOpen int           `yaml:"max_half_open"` // connections that have not authenticated yet
}

// KeepaliveConfig is TCP keepalive on both sides.
type KeepaliveConfig struct {
	Idle     time.Duration `yaml:"idle"`
	Interval time.Duration `yaml:"interval"`
	Count    int           `yaml:"count"`
}

// AuthConfig is the section `auth`.
type AuthConfig struct {
	HBAFile      string        `yaml:"hba_file"`      // pg_hba.conf syntax; empty: everyone by scram-sha-256
	Query        string        `yaml:"query"`         // empty: the built-in lookup; else one parameter $1, the user name; columns name, verifier, may log in, valid until
	Cache        time.Duration `yaml:"cache"`         // how long a verifier is trusted
	PasswordFile string        `yaml:"password_file"` // pgpass syntax; backend passwords for methods that give no key
}

// BackendConfig is one entry of `backends`.
type BackendConfig struct {
	Name           string `yaml:"name"`
	Address        string `yaml:"address"` // host:port, or a directory with a Unix socket followed by :port
	Weight         int    `yaml:"weight"`  // share of the reads, 0 to 1000000
	Agent          string `yaml:"agent"`
	MaxConnections int    `yaml:"max_connections"` // of ours on that server, all pools together; 0: no bound
}

// BackendTLSConfig is the section `backend_tls`.
type BackendTLSConfig struct {
	Mode     SSLMode `yaml:"mode"`
	CAFile   string  `yaml:"ca_file"`
	CertFile string  `yaml:"cert_file"`
	KeyFile  string  `yaml:"key_file"`
}

// MonitorConfig is the section `monitor`: the role of the probes, the catalog
// and the auth query.
type MonitorConfig struct {
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
	Database     string `yaml:"database"`
}

// PoolConfig is the section `pool`.
type PoolConfig struct {
	Mode PoolMode `yaml:"mode"`
	// Size is, per backend, database and user, in transaction mode how many server
	// connections there may be, in session mode how many idle ones are kept.
	Size     int           `yaml:"size"`
	Min      int           `yaml:"min"`      // idle ones that are kept ready, of users and databases in use
	Wait     time.Duration `yaml:"wait"`     // for a server connection; then 53300
	Idle     time.Duration `yaml:"idle"`     // an idle server connection older than this is closed
	Lifetime time.Duration `yaml:"lifetime"` // one that is older than this is closed when it comes back; 0: no bound
	Connects int           `yaml:"connects"` // logins under way at once on one backend
	// Statements is how many prepared statements a server connection keeps in
	// transaction mode; the one that was not used for longest goes first.
	Statements int `yaml:"statements"`
}

// LimitConfig is one entry of `limits`. The first entry that matches holds.
type LimitConfig struct {
	User              string        `yaml:"user"`                // "": every user
	Database          string        `yaml:"database"`            // "": every database
	MaxClients        int           `yaml:"max_clients"`         // of all that match this entry together; 0: no bound, as below
	MaxConnections    int           `yaml:"max_connections"`     // to one backend
	Query             time.Duration `yaml:"query"`               // for one batch, from its sending to its answer; then it is cancelled
	Transaction       time.Duration `yaml:"transaction"`         // from BEGIN on; then the session ends
	IdleInTransaction time.Duration `yaml:"idle_in_transaction"` // then the session ends
	Idle              time.Duration `yaml:"idle"`                // outside of a transaction; then the session ends
	Stalled           time.Duration `yaml:"stalled"`             // in which the client takes nothing of what waits for it; then the session ends
}

// HoldConfig is the section `hold`.
type HoldConfig struct {
	Timeout time.Duration `yaml:"timeout"` // how long a statement waits for a primary; then 57P03
	// Drain is how long a switchover waits for the statements and transactions that
	// run on the old primary; then they are cut off.
	Drain      time.Duration `yaml:"drain"`
	MaxClients int           `yaml:"max_clients"` // with a statement that waits; the next one gets 57P03 at once
}

// DefaultListen returns the values that hold where the file is silent.
func DefaultListen() ListenConfig {
	return ListenConfig{
		Address:    "*:9999",
		MaxClients: 10000,
		TLS:        TLSConfig{Mode: TLSAllow},
		Startup:    StartupLimits{Timeout: time.Minute, MaxHalfOpen: 1000},
		Keepalive:  KeepaliveConfig{Idle: time.Minute, Interval: 10 * time.Second, Count: 3},
		Drain:      10 * time.Second,
		OnFailover: ListenClose,
		Driver:     DriverAuto,
	}
}

// DefaultAuth returns the values that hold where the file is silent.
func DefaultAuth() AuthConfig { return AuthConfig{Cache: 10 * time.Second} }

// DefaultBackendTLS returns the values that hold where the file is silent.
func DefaultBackendTLS() BackendTLSConfig { return BackendTLSConfig{Mode: SSLPrefer} }

// DefaultPool returns the values that hold where the file is silent.
func DefaultPool() PoolConfig {
	return PoolConfig{
		Mode: PoolSession, Size: 50, Wait: 10 * time.Second, Idle: 10 * time.Minute, Lifetime: time.Hour,
		Connects: 16, Statements: 500,
	}
}

// DefaultHold returns the values that hold where the file is silent.
func DefaultHold() HoldConfig {
	return HoldConfig{Timeout: 30 * time.Second, Drain: time.Second, MaxClients: 10000}
}
