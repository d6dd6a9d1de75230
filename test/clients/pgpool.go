package clients

import (
	"context"
	"crypto/md5" //nolint:gosec // pcp.conf has no other form
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest"
	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// pgpoolTarget is one pgpool-II on a host of its own, which has the address that the
// clients know. Its configuration and its scripts are those of the example cluster in
// its manual (chapter 8.2), but for the watchdog, the archive and the replication
// slots; ssh is nsenter here.
type pgpoolTarget struct {
	cluster *rig.Cluster
	host    *nettest.Host
	dir     string
	bin     string // of PostgreSQL
	cmd     *exec.Cmd
	ended   chan struct{}
}

const pcpPort = "9898"

func startPgpool(ctx context.Context, o rig.Options, clients int) (_ target, err error) {
	dir, err := os.MkdirTemp("", "pgpool-rig-") // short: sockets lie in it
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	t := &pgpoolTarget{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	bin, err := pgtest.FindBinaries()
	if err != nil {
		return nil, err
	}
	t.bin = bin.Dir
	o.Dir = dir
	o.Outside = true // pg_rewind copies what lies in the data directory from another host
	if t.cluster, err = rig.New(ctx, o); err != nil {
		return nil, err
	}
	if err := t.cluster.StartServers(ctx); err != nil {
		return nil, err
	}
	if t.host, err = t.cluster.Lab.Add("pool", t.cluster.VIP+"/24"); err != nil {
		return nil, err
	}
	if err := t.configure(clients); err != nil {
		return nil, err
	}
	if err := t.start(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, t.report(ctx))
	}
	return t, nil
}

func (t *pgpoolTarget) path(name string) string { return filepath.Join(t.dir, "pool", name) }

// configure writes the files. num_init_children is the number of clients that are
// served; those of the run, and some for looking.
func (t *pgpoolTarget) configure(clients int) error {
	if err := os.Mkdir(filepath.Join(t.dir, "pool"), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	var conf, passwords strings.Builder
	fmt.Fprintf(&conf, `backend_clustering_mode = 'streaming_replication'
listen_addresses = '*'
port = %d
socket_dir = '%[2]s'
pcp_listen_addresses = '127.0.0.1'
pcp_port = %[3]s
pcp_socket_dir = '%[2]s'
pid_file_name = '%[2]s/pgpool.pid'
logdir = '%[2]s'
enable_pool_hba = on
pool_passwd = 'pool_passwd'
num_init_children = %[4]d
max_pool = 1
load_balance_mode = on
sr_check_period = 10
sr_check_user = '%[5]s'
sr_check_password = ''
sr_check_database = 'postgres'
health_check_period = 5
health_check_timeout = 30
health_check_user = '%[5]s'
health_check_password = ''
health_check_database = 'postgres'
health_check_max_retries = 3
failover_command = '%[6]s %%d %%P %%m %%H'
follow_primary_command = '%[7]s %%d %%h %%H'
`, rig.ProxyPort, t.path(""), pcpPort, clients+20, pgtest.Superuser, t.path("failover.sh"), t.path("follow.sh"))
	for i, h := range t.cluster.Servers() {
		fmt.Fprintf(&conf, "backend_hostname%[1]d = '%[2]s'\nbackend_port%[1]d = %[3]d\nbackend_weight%[1]d = 1\nbackend_data_directory%[1]d = '%[4]s'\nbackend_flag%[1]d = 'ALLOW_TO_FAILOVER'\nbackend_application_name%[1]d = '%[5]s'\n",
			i, h.IP, rig.ServerPort, h.DataDir, h.Name)
	}
	for _, role := range []string{pgtest.AppUser, pgtest.Superuser} {
		fmt.Fprintf(&passwords, "%s:TEXT%s\n", role, t.cluster.Password(role))
	}
	sum := md5.Sum([]byte(t.pcpPassword()))
	for name, content := range map[string]string{
		"pgpool.conf":   conf.String(),
		"pool_passwd":   passwords.String(),
		"pool_hba.conf": "host all all all scram-sha-256\n",
		"pcp.conf":      "pgpool:" + hex.EncodeToString(sum[:]) + "\n",
		"pcppass":       "*:*:pgpool:" + t.pcpPassword() + "\n",
		"failover.sh":   pgpoolFailover,
		"follow.sh":     t.followScript(),
	} {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o700
		}
		if err := os.WriteFile(t.path(name), []byte(content), mode); err != nil {
			return fmt.Errorf("configure pgpool: %w", err)
		}
	}
	return nil
}

func (t *pgpoolTarget) pcpPassword() string { return t.cluster.Password(pgtest.MonitorUser) }

// pgpoolFailover promotes the new main node when it is the primary that has failed.
const pgpoolFailover = `#!/bin/sh
# FAILED_NODE OLD_PRIMARY_NODE NEW_MAIN_NODE NEW_MAIN_HOST
set -eux
if [ "$3" -lt 0 ] || [ "$1" != "$2" ]; then exit 0; fi
psql -X -h "$4" -U postgres -d postgres -c "SELECT pg_promote(true, 60)"
`

// followScript makes a server a standby of the new primary: one that runs, as pgpool
// calls it, or with a fourth argument a lost one, as an operator does.
func (t *pgpoolTarget) followScript() string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# NODE HOST NEW_PRIMARY_HOST [lost]\nset -eux\ncase $1 in\n")
	for i, h := range t.cluster.Servers() {
		dir := filepath.Dir(h.DataDir)
		fmt.Fprintf(&b, "%d) name=%s ns=%s data=%s conf=%s/conf log=%s/postgresql.log ;;\n", i, h.Name, h.Net.Namespace(), h.DataDir, dir, dir)
	}
	fmt.Fprintf(&b, `esac
[ -n "${4:-}" ] || pg_isready -q -h "$2" || exit 0
on() { nsenter --net="/run/netns/$ns" -- setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
psql -X -h "$3" -U postgres -d postgres -c CHECKPOINT
on pg_ctl stop -w -m fast -D "$conf" || [ -n "${4:-}" ]
on pg_rewind -D "$data" --config-file="$conf/postgresql.conf" --source-server="host=$3 user=postgres dbname=postgres"
echo "primary_conninfo = 'host=$3 port=%d user=%s password=%s application_name=$name'" >>"$data/postgresql.auto.conf"
on touch "$data/standby.signal"
on pg_ctl start -w -D "$conf" -l "$log" >/dev/null
pcp_attach_node -w -h 127.0.0.1 -p %s -U pgpool -n "$1"
`, rig.ServerPort, pgtest.ReplUser, t.cluster.Password(pgtest.ReplUser), pcpPort)
	return b.String()
}

// command prepares a program on pgpool's host. It runs as root, for nsenter.
func (t *pgpoolTarget) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := t.host.Command(ctx, name, args...)
	cmd.Env = []string{
		"PATH=" + t.bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + t.path(""),
		"PGPASSWORD=" + t.cluster.Password(pgtest.Superuser), "PCPPASSFILE=" + t.path("pcppass"),
	}
	cmd.Dir = "/"
	return cmd
}

func (t *pgpoolTarget) start(ctx context.Context) error {
	log, err := os.Create(t.path("pgpool.log"))
	if err != nil {
		return fmt.Errorf("start pgpool: %w", err)
	}
	defer log.Close()
	cmd := t.command(context.WithoutCancel(ctx), "pgpool", "-n", "-f", t.path("pgpool.conf"), "-a", t.path("pool_hba.conf"), "-F", t.path("pcp.conf"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start pgpool: %w", err)
	}
	t.cmd, t.ended = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // its log says how it ended
		close(t.ended)
	}()
	return eventually(ctx, "pgpool serves", func(ctx context.Context) error {
		return t.settled(ctx, t.cluster.Servers()[0])
	})
}

func (t *pgpoolTarget) rig() *rig.Cluster { return t.cluster }

func (t *pgpoolTarget) node(h *rig.Host) int { return slices.Index(t.cluster.Servers(), h) }

func (t *pgpoolTarget) promote(ctx context.Context, to *rig.Host) error {
	cmd := t.command(ctx, "pcp_promote_node", "-w", "-h", "127.0.0.1", "-p", pcpPort, "-U", "pgpool", "-s", "-n", fmt.Sprint(t.node(to)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run pcp_promote_node: %w: %s", err, out)
	}
	return nil
}

// mend runs the script for the lost server: pgpool leaves it to an operator.
func (t *pgpoolTarget) mend(ctx context.Context, lost *rig.Host) error {
	return eventually(ctx, lost.Name+" is a standby again", func(ctx context.Context) error {
		primaries := t.cluster.Primaries(ctx)
		if len(primaries) != 1 {
			return fmt.Errorf("%d servers are primaries", len(primaries))
		}
		cmd := t.command(ctx, t.path("follow.sh"), fmt.Sprint(t.node(lost)), lost.IP, primaries[0].IP, "lost")
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("run follow.sh: %w: %s", err, out)
		}
		return nil
	})
}

func (t *pgpoolTarget) settled(ctx context.Context, primary *rig.Host) error {
	if err := streaming(ctx, t.cluster, primary); err != nil {
		return err
	}
	for i, h := range t.cluster.Servers() {
		// Not by SHOW pool_nodes: whether its sessions hang is for the clients to find out.
		out, err := t.command(ctx, "pcp_node_info", "-w", "-h", "127.0.0.1", "-p", pcpPort, "-U", "pgpool", "-n", fmt.Sprint(i)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("run pcp_node_info: %w: %s", err, out)
		}
		// Host, port, 1 or 2 where it is up, weight, up, up, role, role, ...
		node := strings.Fields(string(out))
		if len(node) < 7 || node[2] != "1" && node[2] != "2" || (h == primary) != (node[6] == "primary") {
			return fmt.Errorf("pgpool says of %s: %s", h.Name, out)
		}
	}
	return nil
}

func (t *pgpoolTarget) report(context.Context) string {
	content, err := os.ReadFile(t.path("pgpool.log"))
	if err != nil {
		return err.Error()
	}
	// Not the lines of every process at every failover.
	noise := regexp.MustCompile("child process|failover or failback event|restart(ing)? myself|selecting backend|invalid cancel key|forwarding cancel|no backends are|processing packets|degenerate backend request")
	var b strings.Builder
	for line := range strings.Lines(string(content)) {
		if !noise.MatchString(line) {
			b.WriteString(line)
		}
	}
	return "==== pgpool\n" + b.String()[max(0, b.Len()-20_000):]
}

// close kills what runs on the hosts, pgpool too, and removes all files.
func (t *pgpoolTarget) close() error {
	var err error
	if t.cluster != nil {
		err = t.cluster.Close()
	}
	if t.cmd != nil {
		<-t.ended
	}
	if removeErr := os.RemoveAll(t.dir); removeErr != nil {
		err = errors.Join(err, fmt.Errorf("remove installation: %w", removeErr))
	}
	return err
}
