package configs

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy"
	"github.com/pgproxy/pgproxy/watchdog"
)

const day = 24 * time.Hour

// nameRule is what members and backends may be called: the names stand in metric
// labels, in the operator's commands and in file names.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// inlinePassword finds libpq's keyword; spaces may stand around the equals sign.
var inlinePassword = regexp.MustCompile(`\bpassword\s*=|://[^@/]*:[^@/]*@`)

// validator checks a Config and reports what is wrong, each by its path.
type validator struct {
	*Config
	fault func(path, format string, args ...any)
}

func (v validator) validate() {
	switch {
	case v.Name == "":
		v.fault("name", "must not be empty; left out, it is the host name")
	case !nameRule.MatchString(v.Name):
		v.fault("name", "want at most 63 letters, digits, dots, dashes and underscores, got %q", v.Name)
	}
	if v.DataDir == "" {
		v.fault("data_dir", "must not be empty")
	}
	v.listen()
	v.auth()
	v.backends()
	v.backendTLS()
	v.monitor()
	v.health()
	v.pool()
	v.limits()
	v.balance()
	v.failover()
	v.duration("hold.timeout", v.Hold.Timeout, 0, day)
	v.duration("hold.drain", v.Hold.Drain, 0, time.Minute)
	v.between("hold.max_clients", v.Hold.MaxClients, 1, 1_000_000)
	if v.Agent != nil {
		v.agent()
	}
	if v.Watchdog != nil {
		v.watchdog()
	}
	for i := range v.VIP {
		v.VIP[i].Validate(func(key, format string, args ...any) { v.fault(fmt.Sprintf("vip[%d].%s", i, key), format, args...) })
	}
	v.addresses()
	v.optionalListener("pcp.listen", v.PCP.Listen)
	v.socketPath("pcp.unix_socket", v.PCP.UnixSocket)
	v.optionalListener("metrics.listen", v.Metrics.Listen)
	oneOf(v, "log.level", v.Log.Level, LogDebug, LogInfo, LogWarn, LogError)
	oneOf(v, "log.format", v.Log.Format, LogText, LogJSON)
}

func (v validator) listen() {
	l := v.Listen
	v.optionalListener("listen.address", l.Address)
	if l.Address == "" && l.UnixSocketDir == "" && !v.Witness() {
		v.fault("listen", "neither address nor unix_socket_dir is set; nobody could connect")
	}
	if l.UnixSocketDir != "" {
		v.socketPath("listen.unix_socket_dir", l.UnixSocketDir+"/.s.PGSQL.65535")
	}
	v.between("listen.max_clients", l.MaxClients, 1, 1_000_000)
	oneOf(v, "listen.tls.mode", l.TLS.Mode, proxy.TLSDisable, proxy.TLSAllow, proxy.TLSRequire)
	v.keyPair("listen.tls", l.TLS.CertFile, l.TLS.KeyFile)
	if l.TLS.Mode == proxy.TLSRequire && l.TLS.CertFile == "" {
		v.fault("listen.tls.mode", "require needs cert_file and key_file")
	}
	if l.TLS.ClientCAFile != "" && l.TLS.CertFile == "" {
		v.fault("listen.tls.client_ca_file", "needs cert_file and key_file")
	}
	v.duration("listen.startup.timeout", l.Startup.Timeout, 100*time.Millisecond, 10*time.Minute)
	v.between("listen.loops", l.Loops, 0, 64)
	v.between("listen.startup.max_half_open", l.Startup.MaxHalfOpen, 1, 1_000_000)
	// The kernel counts whole seconds; its own bound is 32767 s (tcp(7)).
	v.duration("listen.keepalive.idle", l.Keepalive.Idle, time.Second, 9*time.Hour)
	v.duration("listen.keepalive.interval", l.Keepalive.Interval, time.Second, 9*time.Hour)
	v.between("listen.keepalive.count", l.Keepalive.Count, 1, 127)
	v.duration("listen.drain", l.Drain, 0, day)
	oneOf(v, "listen.on_failover", l.OnFailover, proxy.ListenClose, proxy.ListenKeep)
	oneOf(v, "listen.driver", l.Driver, proxy.DriverAuto, proxy.DriverEpoll, proxy.DriverGoroutine)
}

func (v validator) auth() {
	if v.Auth.Query != "" && !strings.Contains(v.Auth.Query, "$1") {
		v.fault("auth.query", "must use $1, the user name")
	}
	v.duration("auth.cache", v.Auth.Cache, 0, day)
}

func (v validator) backends() {
	if len(v.Backends) == 0 {
		v.fault("backends", "at least one backend is needed")
	}
	names, addresses, agents := make(map[string]string), make(map[string]string), make(map[string]string)
	for i, b := range v.Backends {
		path := fmt.Sprintf("backends[%d]", i)
		v.uniqueName(path+".name", b.Name, names)
		// A redirect rule could not tell them apart.
		if b.Name == "primary" || b.Name == "standby" {
			v.fault(path+".name", "%q is a role and cannot be a name", b.Name)
		}
		v.unique(path+".address", b.Address, addresses)
		if b.Address == "" {
			v.fault(path+".address", "missing")
		} else if err := checkServer(b.Address); err != nil {
			v.fault(path+".address", "%v", err)
		}
		v.between(path+".weight", b.Weight, 0, 1_000_000)
		v.between(path+".max_connections", b.MaxConnections, 0, 262_143) // the largest that PostgreSQL takes
		if b.Agent != "" {
			v.unique(path+".agent", b.Agent, agents)
		}
		if b.Agent != "" && v.Watchdog != nil && len(v.Watchdog.Members) > 0 && !v.isMember(b.Agent) {
			v.fault(path+".agent", "%q is not in watchdog.members", b.Agent)
		}
	}
}

func (v validator) backendTLS() {
	t := v.BackendTLS
	oneOf(v, "backend_tls.mode", t.Mode,
		proxy.SSLDisable, proxy.SSLPrefer, proxy.SSLRequire, proxy.SSLVerifyCA, proxy.SSLVerifyFull)
	v.keyPair("backend_tls", t.CertFile, t.KeyFile)
	if verifies := t.Mode == proxy.SSLVerifyCA || t.Mode == proxy.SSLVerifyFull; verifies && t.CAFile == "" {
		v.fault("backend_tls.mode", "%s needs ca_file", t.Mode)
	}
}

func (v validator) monitor() {
	if v.Monitor.User == "" {
		v.fault("monitor.user", "must not be empty")
	}
	if v.Monitor.Database == "" {
		v.fault("monitor.database", "must not be empty")
	}
}

func (v validator) health() {
	v.duration("health.interval", v.Health.Interval, 10*time.Millisecond, time.Hour)
	v.duration("health.timeout", v.Health.Timeout, 10*time.Millisecond, time.Hour)
	v.between("health.retries", v.Health.Retries, 0, 100)
}

func (v validator) pool() {
	oneOf(v, "pool.mode", v.Pool.Mode, proxy.PoolSession, proxy.PoolTransaction)
	v.between("pool.size", v.Pool.Size, 0, 100_000)
	if v.Pool.Mode == proxy.PoolTransaction && v.Pool.Size == 0 {
		v.fault("pool.size", "mode transaction needs at least 1")
	}
	v.between("pool.min", v.Pool.Min, 0, max(v.Pool.Size, 0))
	v.duration("pool.wait", v.Pool.Wait, 0, day)
	v.duration("pool.idle", v.Pool.Idle, time.Millisecond, day)
	v.duration("pool.lifetime", v.Pool.Lifetime, 0, 365*day)
	v.between("pool.connects", v.Pool.Connects, 1, 1000)
	v.between("pool.statements", v.Pool.Statements, 1, 100_000)
}

func (v validator) limits() {
	for i, l := range v.Limits {
		path := fmt.Sprintf("limits[%d]", i)
		v.between(path+".max_clients", l.MaxClients, 0, 1_000_000)
		v.between(path+".max_connections", l.MaxConnections, 0, 100_000)
		v.duration(path+".query", l.Query, 0, 365*day)
		v.duration(path+".transaction", l.Transaction, 0, 365*day)
		v.duration(path+".idle_in_transaction", l.IdleInTransaction, 0, 365*day)
		v.duration(path+".idle", l.Idle, 0, 365*day)
		v.duration(path+".stalled", l.Stalled, 0, 365*day)
	}
}

func (v validator) balance() {
	b := v.Balance
	oneOf(v, "balance.mode", b.Mode, lb.ModeStatement, lb.ModeSession, lb.ModeOff)
	oneOf(v, "balance.consistency", b.Consistency, lb.ConsistencySession, lb.ConsistencyEventual, lb.ConsistencyPrimary)
	v.duration("balance.max_lag", b.MaxLag, 0, 30*day)
	oneOf(v, "balance.transactions", b.Transactions, lb.TransactionsPrimary, lb.TransactionsUntilWrite)
	for i, name := range b.ReadFunctions {
		v.function(fmt.Sprintf("balance.read_functions[%d]", i), name)
	}
	for i, name := range b.WriteFunctions {
		path := fmt.Sprintf("balance.write_functions[%d]", i)
		v.function(path, name)
		if slices.Contains(b.ReadFunctions, name) {
			v.fault(path, "%q is in read_functions too", name)
		}
	}
	for i, name := range b.SessionFunctions {
		v.function(fmt.Sprintf("balance.session_functions[%d]", i), name)
	}
	for i, pattern := range b.PrimaryPatterns {
		v.pattern(fmt.Sprintf("balance.primary_patterns[%d]", i), pattern)
	}
	for i, r := range b.Redirects {
		path := fmt.Sprintf("balance.redirects[%d]", i)
		v.pattern(path+".user", r.User)
		v.pattern(path+".database", r.Database)
		v.pattern(path+".application", r.Application)
		switch {
		case r.To == "":
			v.fault(path+".to", `missing; want primary, standby or the name of a backend`)
		case r.To != "primary" && r.To != "standby" && len(v.Backends) > 0 && !v.isBackend(r.To):
			v.fault(path+".to", "want primary, standby or the name of a backend, got %q", r.To)
		}
	}
	v.duration("balance.catalog_refresh", b.CatalogRefresh, 100*time.Millisecond, day)
	v.between("balance.cache_size", b.CacheSize, 64<<10, 1<<30)
}

func (v validator) failover() {
	f := v.Failover
	oneOf(v, "failover.mode", f.Mode, failover.ModeManaged, failover.ModeExternal, failover.ModeOff)
	v.duration("failover.fence_after", f.FenceAfter, time.Second, day)
	v.duration("failover.restart_wait", f.RestartWait, 0, day)
	v.duration("failover.start_wait", f.StartWait, 0, day)
	v.duration("failover.promote_wait", f.PromoteWait, time.Second, day)
	v.duration("failover.stop_wait", f.StopWait, time.Second, time.Hour)
	v.duration("failover.disk_wait", f.DiskWait, 0, day)
	if f.SlotKeep < 0 {
		v.fault("failover.slot_keep", "must not be less than 0, got %d", f.SlotKeep)
	}
}

func (v validator) agent() {
	a := v.Agent
	if a.DataDirectory == "" {
		v.fault("agent.data_directory", "missing")
	}
	switch {
	case inlinePassword.MatchString(a.Connect):
		v.fault("agent.connect", "secrets are files: let pg_hba.conf admit the local user by peer, or use passfile=")
	case a.Connect == "" || strings.Contains(a.Connect, "://"):
		v.fault("agent.connect", "want keyword=value pairs such as host=/run/postgresql port=5432 user=postgres")
	}
	if a.Replication.User == "" {
		v.fault("agent.replication.user", "must not be empty")
	}
	switch {
	case a.StartCommand != "" && a.StopCommand == "":
		v.fault("agent.start_command", "needs stop_command")
	case a.StartCommand == "" && a.StopCommand != "":
		v.fault("agent.stop_command", "needs start_command")
	}
	for from, to := range a.Tablespaces {
		if !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			v.fault(join("agent.tablespaces", from), "want absolute paths, got %q: %q", from, to)
		}
	}
	v.duration("agent.timeout", a.Timeout, 100*time.Millisecond, time.Minute)
	v.duration("agent.stop_timeout", a.StopTimeout, time.Second, time.Hour)
	if !slices.ContainsFunc(v.Backends, func(b proxy.BackendConfig) bool { return b.Agent == v.Name }) {
		v.fault("agent", "no backend names this member, %q, as its agent", v.Name)
	}
	if v.Witness() {
		v.fault("agent", "this member is a witness; it has no server")
	}
}

func (v validator) watchdog() {
	w := v.Watchdog
	v.requiredListener("watchdog.listen", w.Listen)
	if w.SecretFile == "" {
		v.fault("watchdog.secret_file", "missing; pgproxy keygen makes a secret")
	}
	if len(w.Members) == 0 {
		v.fault("watchdog.members", "missing; list every member, this one included")
		return
	}
	names, addresses := make(map[string]string), make(map[string]string)
	for i, m := range w.Members {
		path := fmt.Sprintf("watchdog.members[%d]", i)
		v.uniqueName(path+".name", m.Name, names)
		v.unique(path+".address", m.Address, addresses)
		if m.Address == "" {
			v.fault(path+".address", "missing")
		} else if err := checkHostPort(m.Address, 1); err != nil {
			v.fault(path+".address", "%v", err)
		}
	}
	v.duration("watchdog.heartbeat", w.Heartbeat, 50*time.Millisecond, 10*time.Second)
	v.duration("watchdog.leader_lease", w.LeaderLease, 20*time.Millisecond, w.Heartbeat)
	v.duration("watchdog.lease", w.Lease, 200*time.Millisecond, time.Minute)
	if !v.isMember(v.Name) {
		v.fault("watchdog.members", "this member, %q, is not among them", v.Name)
	}
}

// addresses reports virtual addresses that are written twice.
func (v validator) addresses() {
	seen := make(map[string]string)
	for i, a := range v.VIP {
		if prefix, err := netip.ParsePrefix(a.Address); err == nil {
			v.unique(fmt.Sprintf("vip[%d].address", i), prefix.Addr().String(), seen)
		}
	}
}

func (v validator) isBackend(name string) bool {
	return slices.ContainsFunc(v.Backends, func(b proxy.BackendConfig) bool { return b.Name == name })
}

func (v validator) isMember(name string) bool {
	return slices.ContainsFunc(v.Watchdog.Members, func(m watchdog.Member) bool { return m.Name == name })
}
