package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

const (
	// demoReadyTimeout bounds the time from the proxy's start to three usable nodes.
	demoReadyTimeout = time.Minute
	// demoCommandGrace is what --exec's command gets to end after SIGTERM.
	demoCommandGrace = 5 * time.Second
	// demoPort and demoMetricsPort are taken where they are free.
	demoPort, demoMetricsPort = 9999, 9719
)

// demoCommand runs a primary, two streaming standbys and pgproxy in front of them
// on this machine's loopback interface, until it is interrupted or Exec has ended,
// and leaves nothing behind.
type demoCommand struct {
	Exec   string // for sh -c, when the cluster is ready; "": wait for a signal
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

func newDemoCommand() *cobra.Command {
	var c demoCommand
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a primary, two standbys and pgproxy on this machine",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Stdin, c.Stdout, c.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&c.Exec, "exec", "", "run this shell command with PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE set, then take everything down and exit with its status")
	return cmd
}

// demo is a running one.
type demo struct {
	demoCommand
	dir       string // holds everything; removed at the end
	cluster   *pgtest.Cluster
	passwords map[string]string // by role
	port      int
	metrics   string // host:port
}

// Run takes everything down before it returns, whatever has happened. Signals that
// arrive while it does are ignored: they could only leave files behind.
func (c *demoCommand) Run(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	d := &demo{demoCommand: *c}
	if d.dir, err = os.MkdirTemp("", "pgproxy-demo-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() {
		if removeErr := os.RemoveAll(d.dir); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove the demo's files: %w", removeErr))
		}
	}()
	err = d.run(ctx)
	if c.Exec == "" && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // the way a demo without a command ends
	}
	return err
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := d.prepare(); err != nil {
		return err
	}
	fmt.Fprintln(d.Stderr, "starting a primary and two standbys")
	if d.cluster, err = d.startCluster(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.Close(context.WithoutCancel(ctx))) }()
	if err := d.changePasswords(ctx); err != nil {
		return err
	}
	if err := d.cluster.Primary().Exec(ctx, "postgres", setupSQL(pgtest.MonitorUser)); err != nil {
		return err
	}
	config, err := d.writeConfig()
	if err != nil {
		return err
	}
	return d.withProxy(ctx, config, func(ctx context.Context) error {
		if err := d.awaitNodes(ctx); err != nil {
			return err
		}
		if d.Exec != "" {
			return d.execute(ctx)
		}
		if err := d.greet(ctx); err != nil {
			return err
		}
		<-ctx.Done()
		fmt.Fprintln(d.Stderr, "\ntaking everything down")
		return nil
	})
}

// demoHBA lets the superuser in by the Unix socket as whom pg_ident.conf names,
// everybody else by a password: others may have accounts on this machine.
const demoHBA = `local all postgres peer map=demo
host all all 127.0.0.1/32 scram-sha-256
host replication repl 127.0.0.1/32 scram-sha-256
`

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// prepare makes what the servers need before they start: a place that their user
// can reach, and the right of ours to be their superuser.
func (d *demo) prepare() error {
	if err := os.Chmod(d.dir, 0o711); err != nil {
		return fmt.Errorf("open directory to the servers' user: %w", err)
	}
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("find our user name: %w", err)
	}
	if err := os.WriteFile(d.path("pg_ident.conf"), fmt.Appendf(nil, "demo %q postgres\n", me.Username), 0o644); err != nil {
		return fmt.Errorf("write pg_ident.conf: %w", err)
	}
	d.passwords = map[string]string{}
	for _, role := range []string{pgtest.Superuser, pgtest.AppUser, pgtest.MonitorUser, pgtest.ReplUser} {
		d.passwords[role] = rand.Text()
	}
	return nil
}

// startCluster starts the servers below our directory: package pgtest keeps things
// for later runs in the temporary one, and of a demo nothing stays.
func (d *demo) startCluster(ctx context.Context) (_ *pgtest.Cluster, err error) {
	tmp, found := os.LookupEnv("TMPDIR")
	if err := os.Setenv("TMPDIR", d.dir); err != nil {
		return nil, fmt.Errorf("set TMPDIR: %w", err)
	}
	defer func() {
		if found {
			err = errors.Join(err, os.Setenv("TMPDIR", tmp))
		} else {
			err = errors.Join(err, os.Unsetenv("TMPDIR"))
		}
	}()
	return pgtest.New(ctx, pgtest.Options{Standbys: 2, Fresh: true, HBA: demoHBA, Settings: map[string]string{
		"ident_file": d.path("pg_ident.conf"),
	}})
}

// changePasswords replaces the passwords that pgtest's clusters come with. The
// standbys are stopped meanwhile: a walreceiver with the old one would be refused
// at some later time.
func (d *demo) changePasswords(ctx context.Context) error {
	primary := d.cluster.Primary()
	for _, s := range d.cluster.Standbys() {
		conninfo := fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s application_name=%s sslmode=disable",
			primary.Port, pgtest.ReplUser, d.passwords[pgtest.ReplUser], s.Name)
		if err := s.Exec(ctx, "postgres", "ALTER SYSTEM SET primary_conninfo = '"+conninfo+"'"); err != nil {
			return err
		}
		if err := s.Stop(ctx, pgtest.StopFast); err != nil {
			return err
		}
	}
	for role, password := range d.passwords {
		if err := primary.Exec(ctx, "postgres", fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", role, password)); err != nil {
			return err
		}
	}
	for _, s := range d.cluster.Standbys() {
		if err := s.Start(ctx); err != nil {
			return err
		}
	}
	return d.cluster.WaitForStreaming(ctx)
}

// writeConfig writes the file that an administrator would write.
func (d *demo) writeConfig() (string, error) {
	password := d.path("monitor.password")
	if err := os.WriteFile(password, []byte(d.passwords[pgtest.MonitorUser]+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write password file: %w", err)
	}
	var err error
	if d.port, err = freePort(demoPort); err != nil {
		return "", err
	}
	metricsPort, err := freePort(demoMetricsPort)
	if err != nil {
		return "", err
	}
	d.metrics = net.JoinHostPort("127.0.0.1", strconv.Itoa(metricsPort))
	var conf strings.Builder
	fmt.Fprintf(&conf, `name: demo
data_dir: %q
listen: {address: "127.0.0.1:%d"}
monitor: {user: %s, password_file: %q, database: postgres}
metrics: {listen: %q}
log: {level: warn}
backends:
`, d.path("proxy"), d.port, pgtest.MonitorUser, password, d.metrics)
	for _, s := range d.cluster.Servers {
		fmt.Fprintf(&conf, "  - {name: %s, address: %q, weight: 1}\n", s.Name, s.Address())
	}
	config := d.path("pgproxy.yaml")
	if err := os.WriteFile(config, []byte(conf.String()), 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return config, nil
}

// freePort returns the preferred port, or any other where that one is taken.
func freePort(preferred int) (int, error) {
	for _, port := range []int{preferred, 0} {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find free port: %w", err)
		}
		return port, nil
	}
	return 0, errors.New("find free port: the kernel gives none")
}

// withProxy runs pgproxy as `pgproxy run` does, and f while it runs. The first of
// the two that ends takes the other along.
func (d *demo) withProxy(ctx context.Context, config string, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	proxy := newRunCommand(config)
	g.Go(func() error {
		defer cancel()
		if err := proxy.Run(ctx); err != nil {
			return fmt.Errorf("run pgproxy: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		defer cancel()
		select {
		case <-proxy.Ready():
		case <-ctx.Done():
			return ctx.Err()
		}
		return f(ctx)
	})
	return g.Wait()
}

// dsn is the address of the ordinary role's database through the proxy.
func (d *demo) dsn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s user=%s password=%s sslmode=disable",
		d.port, pgtest.AppDatabase, pgtest.AppUser, d.passwords[pgtest.AppUser])
}

// awaitNodes waits until the proxy itself shows that every node is used.
func (d *demo) awaitNodes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoReadyTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := d.nodes(ctx)
		if err == nil && allUp(nodes) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the nodes: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// demoNode is one line of SHOW pool_nodes, by column name.
type demoNode map[string]string

// nodes asks the proxy as any client can.
func (d *demo) nodes(ctx context.Context) ([]demoNode, error) {
	conn, err := pgx.Connect(ctx, d.dsn())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.PgConn().Exec(ctx, "SHOW pool_nodes").ReadAll()
	if err != nil {
		return nil, fmt.Errorf("show nodes: %w", err)
	}
	var nodes []demoNode
	for _, row := range results[0].Rows {
		node := demoNode{}
		for i, field := range results[0].FieldDescriptions {
			node[field.Name] = string(row[i])
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

func allUp(nodes []demoNode) bool {
	streaming := 0
	for _, n := range nodes {
		if n["status"] != "up" {
			return false
		}
		if n["replication_state"] == "streaming" {
			streaming++
		}
	}
	return streaming == 2
}

// greet prints the nodes and how to connect.
func (d *demo) greet(ctx context.Context) error {
	nodes, err := d.nodes(ctx)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(d.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tADDRESS\tSTATUS\tROLE\tWEIGHT\tREPLICATION")
	for i, n := range nodes {
		fmt.Fprintf(t, "%s\t%s:%s\t%s\t%s\t%s\t%s\n", d.cluster.Servers[i].Name, n["hostname"], n["port"],
			n["status"], n["role"], n["lb_weight"], n["replication_state"])
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print nodes: %w", err)
	}
	fmt.Fprintf(d.Stdout, `
connect:  PGPASSWORD=%s psql -h 127.0.0.1 -p %d -U %s %s
nodes:    SHOW pool_nodes;
metrics:  curl http://%s/metrics
config:   %s

Ctrl-C takes everything down.
`, d.passwords[pgtest.AppUser], d.port, pgtest.AppUser, pgtest.AppDatabase, d.metrics, d.path("pgproxy.yaml"))
	return nil
}

// execute runs the command with the way to the proxy in its environment; its exit
// status becomes ours.
func (d *demo) execute(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", d.Exec)
	cmd.Env = append(os.Environ(),
		"PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(d.port), "PGDATABASE="+pgtest.AppDatabase,
		"PGUSER="+pgtest.AppUser, "PGPASSWORD="+d.passwords[pgtest.AppUser])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = d.Stdin, d.Stdout, d.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = demoCommandGrace
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exitStatus(shellStatus(exit))
	}
	if err != nil {
		return fmt.Errorf("run command: %w", err)
	}
	return nil
}

// shellStatus is the exit status as a shell would report it (POSIX, 2.8.2).
func shellStatus(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}
