package rig

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/nettest"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// The addresses within the subnet: hosts are .11, .12, ...
const (
	rootNumber   = 1
	clientNumber = 50
	vipNumber    = 100
	firstNumber  = 11
)

// Ports on every host.
const (
	ProxyPort    = 9999
	ServerPort   = 5432
	watchdogPort = 9000
	metricsPort  = 9719
)

// Options say what to make; Binary and Dir must be given.
type Options struct {
	Servers int  // hosts with a server and a pgproxy, h1, h2, ...; 0: three
	Witness bool // and one, w1, with a pgproxy that only votes

	Dir    string // an existing directory for everything, of a short path; the caller removes it
	Binary string // the pgproxy to run; it is copied
	PCP    string // pgproxy-pcp, for what Report shows; "": without

	Subnet   string            // "10.77.0": the first three numbers; empty: that
	Root     string            // the interface that links this machine to the cluster; "": none
	Fresh    bool              // initdb anew instead of a copy of the machine's template
	Outside  bool              // the servers' configuration lies outside of their data directories, as Debian has it
	Space    bool              // the clients' database has a table, spaced, in a tablespace outside of the data directories
	Settings map[string]string // of postgresql.conf, over the defaults
	Sections string            // further sections of pgproxy.yaml
	Watchdog string            // further lines of its section watchdog: "lease: 5s\n"
	LogLevel string            // of pgproxy; empty: info
	Drain    string            // listen.drain; empty: 1s
}

// Cluster is an installation. Hosts and Client are fixed; the methods are for one
// goroutine at a time, those of different hosts may be called by several.
type Cluster struct {
	Lab    *nettest.Lab
	Hosts  []*Host // those with servers, then the witness
	Client *nettest.Host
	VIP    string // without its prefix

	o         Options
	bin       pgtest.Binaries
	passwords map[string]string // by role
	reaper    *reaper           // nil: opened
}

// New makes the hosts and their files, and starts nothing. The caller must Close
// the cluster.
func New(ctx context.Context, o Options) (*Cluster, error) {
	if o.Servers == 0 {
		o.Servers = 3
	}
	if o.Subnet == "" {
		o.Subnet = "10.77.0"
	}
	if o.Drain == "" {
		o.Drain = "1s"
	}
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	bin, err := pgtest.FindBinaries()
	if err != nil {
		return nil, err
	}
	lab, err := nettest.New()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: lab, VIP: ip(o.Subnet, vipNumber), o: o, bin: bin, passwords: map[string]string{}}
	if c.reaper, err = startReaper(); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	for _, role := range []string{pgtest.Superuser, pgtest.AppUser, pgtest.MonitorUser, pgtest.ReplUser} {
		c.passwords[role] = rand.Text()
	}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func ip(subnet string, number int) string { return fmt.Sprintf("%s.%d", subnet, number) }

// prepare makes hosts, directories and files.
func (c *Cluster) prepare(ctx context.Context) (err error) {
	if c.Client, err = c.Lab.Add("client", ip(c.o.Subnet, clientNumber)+"/24"); err != nil {
		return err
	}
	if c.o.Root != "" {
		if err := c.Lab.AddRoot(c.o.Root, ip(c.o.Subnet, rootNumber)+"/24"); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.o.Dir, 0o711); err != nil { // to the servers' user
		return fmt.Errorf("open directory to the servers' user: %w", err)
	}
	if err := c.installBinary(); err != nil {
		return err
	}
	if err := c.writeShared(); err != nil {
		return err
	}
	for i := range c.o.Servers {
		if err := c.addHost(fmt.Sprintf("h%d", i+1), firstNumber+i, true); err != nil {
			return err
		}
	}
	if c.o.Witness {
		if err := c.addHost("w1", firstNumber+c.o.Servers, false); err != nil {
			return err
		}
	}
	for _, h := range c.Hosts {
		if err := h.writeConfig(); err != nil {
			return err
		}
	}
	return c.makeData(ctx)
}

func (c *Cluster) addHost(name string, number int, server bool) error {
	h := newHost(c, name, ip(c.o.Subnet, number), server)
	c.Hosts = append(c.Hosts, h)
	var err error
	if h.Net, err = c.Lab.Add(name, h.IP+"/24"); err != nil {
		return err
	}
	return h.makeDirs()
}

// installBinary copies pgproxy to where the user postgres can run it: it may have
// been built in somebody's home.
func (c *Cluster) installBinary() error {
	from, err := os.Open(c.o.Binary)
	if err != nil {
		return fmt.Errorf("install pgproxy: %w", err)
	}
	defer from.Close()
	to, err := os.OpenFile(c.binary(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("install pgproxy: %w", err)
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Chmod(0o755), to.Close())
}

func (c *Cluster) binary() string { return filepath.Join(c.o.Dir, "pgproxy") }

// Servers returns the hosts that have a server.
func (c *Cluster) Servers() []*Host { return c.Hosts[:c.o.Servers] }

// Host returns a host by its name, nil where there is none.
func (c *Cluster) Host(name string) *Host {
	for _, h := range c.Hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Start starts the servers and the members, and waits until clients are served
// through the virtual address and every standby streams.
func (c *Cluster) Start(ctx context.Context) error {
	if err := c.StartServers(ctx); err != nil {
		return err
	}
	for _, h := range c.Hosts {
		if err := h.StartMember(); err != nil {
			return err
		}
	}
	return c.AwaitReady(ctx)
}

// StartServers starts h1's as the primary and the others as its standbys.
func (c *Cluster) StartServers(ctx context.Context) error {
	primary := c.Hosts[0]
	if err := primary.StartServer(ctx); err != nil {
		return err
	}
	for role, password := range c.passwords {
		if err := primary.Exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", role, password)); err != nil {
			return err
		}
	}
	setup, err := primary.Net.Command(ctx, c.binary(), "setup-sql", "--user", pgtest.MonitorUser, "--replication", pgtest.ReplUser).Output()
	if err != nil {
		return fmt.Errorf("print setup-sql: %w", err)
	}
	if err := primary.Exec(ctx, string(setup)); err != nil {
		return err
	}
	if c.o.Space {
		if err := primary.makeSpace(ctx); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range c.Servers()[1:] {
		g.Go(func() error {
			if c.o.Space {
				if err := h.copyFrom(gctx, primary); err != nil {
					return err
				}
			}
			if err := h.makeStandby(primary); err != nil {
				return err
			}
			return h.StartServer(gctx)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.awaitStreaming(ctx, primary)
}

// awaitStreaming waits for the standbys of a primary, which it asks itself.
func (c *Cluster) awaitStreaming(ctx context.Context, primary *Host) error {
	q := fmt.Sprintf("SELECT count(DISTINCT application_name) = %d FROM pg_stat_replication WHERE state = 'streaming'", c.o.Servers-1)
	return Poll(ctx, "every standby streams", func(ctx context.Context) error {
		value, err := primary.Query(ctx, q)
		if err == nil && value != "t" {
			err = errors.New("not all of them")
		}
		return err
	})
}

// AwaitReady waits until a client's statement is answered through the virtual
// address, and the member that answers sees every server up and streaming.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	return Poll(ctx, "the cluster is ready", func(ctx context.Context) error {
		nodes, err := c.Nodes(ctx)
		if err != nil {
			return err
		}
		return ready(nodes)
	})
}

// ready tells what the nodes lack.
func ready(nodes []Node) error {
	for _, n := range nodes {
		if n.Status != "up" || n.Role == "standby" && n.Replication != "streaming" {
			return fmt.Errorf("%s is %s, %s, %q", n.Address, n.Status, n.Role, n.Replication)
		}
	}
	return nil
}

// Poll repeats a question until it is answered without an error or ctx ends.
func Poll(ctx context.Context, what string, ask func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// Close kills everything and removes the hosts. Files stay: the directory is the
// caller's.
func (c *Cluster) Close() error {
	err := c.Lab.Close()
	for _, h := range c.Hosts {
		// Processes that a server has left, should one not be of the host's namespace.
		for _, pid := range pgtest.ProcessesIn(h.DataDir) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		h.awaitMember()
	}
	if c.reaper != nil {
		c.reaper.close()
		c.reaper = nil
	}
	return err
}

// Report returns what helps to understand a failure: the ends of all logs, and what
// each member says.
func (c *Cluster) Report(ctx context.Context, lines int) string {
	var b strings.Builder
	for _, h := range c.Hosts {
		fmt.Fprintf(&b, "==== %s\n", h.Name)
		h.report(ctx, &b, lines)
	}
	return b.String()
}
