package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// trustedUser needs no password to connect to a proxy: what a connection costs beside
// authentication. All others prove their password by SCRAM, to every proxy.
const trustedUser = "trusted"

const hba = "host all " + trustedUser + " 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"

// program finds a proxy's program; Debian puts servers into /usr/sbin, which an
// ordinary user's PATH lacks.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find program %s: not in PATH and not in /usr/sbin (Debian: scripts/install-deps.sh bench)", name)
	}
	return path, nil
}

// pgbouncerCommand: one process of PgBouncer in one of its pool modes, with its own
// defaults but for the bounds; logging of connections is off for all systems. In
// transaction mode the size of the pool is what makes the mode worth it.
func pgbouncerCommand(mode string, size int) func(context.Context, *rig, int, int) ([]string, error) {
	return func(ctx context.Context, r *rig, port, clients int) ([]string, error) {
		path, err := program("pgbouncer")
		if err != nil {
			return nil, err
		}
		users, err := r.pgbouncerUsers(ctx)
		if err != nil {
			return nil, err
		}
		hba, err := r.writeFile("pgbouncer-hba.conf", hba)
		if err != nil {
			return nil, err
		}
		servers := size
		if mode == "session" {
			servers = clients
		}
		config, err := r.writeFile("pgbouncer-"+mode+".ini", fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = hba
auth_hba_file = %s
auth_file = %s
pool_mode = %s
max_client_conn = %d
default_pool_size = %d
query_wait_timeout = 60
log_connections = 0
log_disconnections = 0
client_tls_sslmode = allow
client_tls_cert_file = %s
client_tls_key_file = %s
`, r.cluster.Primary().Port, port, hba, users, mode, clients, servers, r.cert, r.key))
		if err != nil {
			return nil, err
		}
		return []string{path, "-q", config}, nil
	}
}

// pgbouncerUsers writes the file of users: the ordinary one with its verifier, from
// which PgBouncer takes the key for its own login as pgproxy does, instead of computing
// it from a password at each connection; the trusted one with its password.
func (r *rig) pgbouncerUsers(ctx context.Context) (string, error) {
	verifier, err := r.cluster.Primary().QueryValue(ctx, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+pgtest.AppUser+"'")
	if err != nil {
		return "", err
	}
	return r.writeFile("pgbouncer-users", fmt.Sprintf("%q %q\n%q %q\n",
		pgtest.AppUser, verifier, trustedUser, pgtest.Password(trustedUser)))
}

// pgpoolCommand: pgpool-II in streaming replication mode, reads balanced over all
// three servers, one process per client.
func pgpoolCommand(_ context.Context, r *rig, port, clients int) ([]string, error) {
	path, err := program("pgpool")
	if err != nil {
		return nil, err
	}
	var passwords strings.Builder
	for _, role := range []string{pgtest.AppUser, trustedUser, pgtest.MonitorUser} {
		fmt.Fprintf(&passwords, "%s:TEXT%s\n", role, pgtest.Password(role))
	}
	if _, err := r.writeFile("pool_passwd", passwords.String()); err != nil {
		return nil, err
	}
	hba, err := r.writeFile("pool_hba.conf", hba)
	if err != nil {
		return nil, err
	}
	pcp, err := r.writeFile("pcp.conf", "")
	if err != nil {
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `backend_clustering_mode = 'streaming_replication'
listen_addresses = '127.0.0.1'
port = %d
socket_dir = '%[2]s'
pcp_listen_addresses = ''
pcp_socket_dir = '%[2]s'
pid_file_name = '%[2]s/pgpool.pid'
logdir = '%[2]s'
enable_pool_hba = on
pool_passwd = 'pool_passwd'
num_init_children = %[3]d
max_pool = 1
load_balance_mode = on
statement_level_load_balance = on
sr_check_period = 10
sr_check_user = '%[4]s'
sr_check_password = '%[5]s'
sr_check_database = 'postgres'
`, port, r.dir, clients, pgtest.MonitorUser, pgtest.Password(pgtest.MonitorUser))
	for i, s := range r.cluster.Servers {
		fmt.Fprintf(&conf, "backend_hostname%[1]d = '127.0.0.1'\nbackend_port%[1]d = %d\nbackend_weight%[1]d = 1\nbackend_flag%[1]d = 'DISALLOW_TO_FAILOVER'\n", i, s.Port)
	}
	config, err := r.writeFile("pgpool.conf", conf.String())
	if err != nil {
		return nil, err
	}
	return []string{path, "-n", "-f", config, "-a", hba, "-F", pcp}, nil
}

// haproxyCommand: HAProxy as a plain TCP forwarder to the primary, which knows
// nothing of PostgreSQL: what a hop costs at least.
func haproxyCommand(_ context.Context, r *rig, port, clients int) ([]string, error) {
	path, err := program("haproxy")
	if err != nil {
		return nil, err
	}
	config, err := r.writeFile("haproxy.cfg", fmt.Sprintf(`global
  maxconn %d
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen postgresql
  bind %s
  server h1 %s
`, clients, address(port), r.cluster.Primary().Address()))
	if err != nil {
		return nil, err
	}
	return []string{path, "-db", "-f", config}, nil
}

// pgproxyCommand: pgproxy with its defaults, metrics and health checks on.
type pgproxyCommand struct {
	name    string
	mode    string // of the pool
	size    int    // of the pool, for each server
	listen  string // further lines of the section
	balance string // statement; off: all goes to the primary, as with PgBouncer and HAProxy
}

func (c pgproxyCommand) arguments(ctx context.Context, r *rig, port, clients int) ([]string, error) {
	if err := r.installPgproxy(ctx); err != nil {
		return nil, err
	}
	password, err := r.writeFile("monitor.password", pgtest.Password(pgtest.MonitorUser)+"\n")
	if err != nil {
		return nil, err
	}
	passwords, err := r.writeFile("pgproxy.passwords", "*:*:*:"+trustedUser+":"+pgtest.Password(trustedUser)+"\n")
	if err != nil {
		return nil, err
	}
	hba, err := r.writeFile("pgproxy-hba.conf", hba)
	if err != nil {
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `name: bench
data_dir: %s
listen:
  address: "%s"
  max_clients: %d
  tls: {cert_file: %s, key_file: %s, mode: allow}
%sauth: {hba_file: %s, password_file: %s}
monitor: {user: %s, password_file: %s, database: postgres}
balance: {mode: %q}
pool: {mode: %s, size: %d, wait: 1m}
metrics: {listen: "127.0.0.1:0"}
pcp: {listen: "", unix_socket: %s}
backends:
`, filepath.Join(r.dir, c.name+"-data"), address(port), clients, r.cert, r.key, c.listen,
		hba, passwords, pgtest.MonitorUser, password, c.balance, c.mode, c.size, r.socket(c.name))
	for _, s := range r.cluster.Servers {
		fmt.Fprintf(&conf, "  - {name: %s, address: %q, weight: 1}\n", s.Name, s.Address())
	}
	config, err := r.writeFile(c.name+".yaml", conf.String())
	if err != nil {
		return nil, err
	}
	return []string{r.installed, "run", "-c", config}, nil
}
