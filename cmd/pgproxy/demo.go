package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pgproxy/pgproxy/internal/nettest"
	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

const (
	// demoReadyTimeout bounds the start, on a loaded machine.
	demoReadyTimeout = 3 * time.Minute
	// demoCommandGrace is what --exec's command gets to end after SIGTERM.
	demoCommandGrace = 5 * time.Second
	// demoRestart is when a pgproxy that has ended is started again: late enough to see
	// what happens without it. (RestartSec of systemd.service is 100ms by default.)
	demoRestart = 5 * time.Second
)

// demoCommand runs three hosts in network namespaces, each with a PostgreSQL server
// and a pgproxy, with one virtual address, until it is interrupted or Exec has ended,
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
		Short: "Run three hosts with PostgreSQL and pgproxy on this machine, and break them",
		Long: `Run three hosts in network namespaces on this machine, each with PostgreSQL and pgproxy, and
one virtual address that clients connect to, until it is interrupted. It needs root.

The other commands are for another terminal: they break the running demo, or look at it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Stdin, c.Stdout, c.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&c.Exec, "exec", "", "run this shell command with PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE set, then take everything down and exit with its status")
	cmd.AddCommand(demoActions()...)
	return cmd
}

// demo is a running one.
type demo struct {
	demoCommand
	dir     string // holds everything; removed at the end
	state   string // the file by which the other commands find it
	cluster *rig.Cluster
}

// Run takes everything down before it returns, whatever has happened. Signals that
// arrive while it does are ignored: they could only leave something behind.
func (c *demoCommand) Run(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := needRoot("network namespaces"); err != nil {
		return err
	}
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

func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the demo needs root, for %s; try: sudo %s", what, strings.Join(os.Args, " "))
	}
	return nil
}

func (d *demo) run(ctx context.Context) (err error) {
	fmt.Fprintln(d.Stderr, "starting three hosts with PostgreSQL and pgproxy")
	if err := d.make(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	starting, cancel := context.WithTimeout(ctx, demoReadyTimeout)
	defer cancel()
	if err := d.cluster.Start(starting); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w\n%s", err, d.cluster.Report(context.WithoutCancel(ctx), 20))
	}
	ctx, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	for _, h := range d.cluster.Hosts {
		watch.Go(func() { d.supervise(ctx, h) })
	}
	if d.Exec != "" {
		return d.execute(ctx)
	}
	if err := d.greet(ctx); err != nil {
		return err
	}
	if err := demoWatch(ctx, d.cluster, nil, d.Stdout); err != nil {
		return err
	}
	fmt.Fprintln(d.Stderr, "\ntaking everything down")
	return nil
}

// make makes the hosts, in the first of 256 subnets that this machine does not know.
func (d *demo) make(ctx context.Context) error {
	unlock, err := lockDemos()
	if err != nil {
		return err
	}
	defer unlock()
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own program: %w", err)
	}
	for i := range 256 {
		subnet := fmt.Sprintf("10.77.%d", i)
		if nettest.NetworkFree(subnet+".1/24") != nil {
			continue
		}
		d.cluster, err = rig.New(ctx, rig.Options{
			Dir: d.dir, Binary: binary, Fresh: true, LogLevel: "info",
			Subnet: subnet, Root: fmt.Sprintf("pgproxydemo%d", i),
		})
		if err != nil {
			return err
		}
		d.state = demoStateFile(os.Getpid())
		if err := d.cluster.Save(d.state); err != nil {
			return errors.Join(err, d.close())
		}
		return nil
	}
	return errors.New("start hosts: this machine knows all networks from 10.77.0.0/24 to 10.77.255.0/24")
}

// close takes everything down.
func (d *demo) close() error {
	err := d.cluster.Close()
	if removeErr := os.Remove(d.state); removeErr != nil && !errors.Is(removeErr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove the demo's state: %w", removeErr))
	}
	return err
}

// supervise starts a pgproxy again that has ended, as systemd would.
func (d *demo) supervise(ctx context.Context, h *rig.Host) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.MemberEnded():
		}
		fmt.Fprintf(d.Stderr, "pgproxy on %s has ended; it is started again in %s, as by systemd\n", h.Name, demoRestart)
		restart := time.NewTimer(demoRestart)
		select {
		case <-ctx.Done():
			restart.Stop()
			return
		case <-restart.C:
		}
		if err := h.StartMember(); err != nil {
			fmt.Fprintf(d.Stderr, "%v\n", err)
			return
		}
	}
}

// execute runs the command with the way to the cluster in its environment; its exit
// status becomes ours.
func (d *demo) execute(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", d.Exec)
	cmd.Env = append(os.Environ(), d.cluster.Environment()...)
	cmd.Env = append(cmd.Env, demoStateVariable+"="+d.state)
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

// lockDemos keeps two demos from choosing the same network, and removes what dead ones
// have left.
func lockDemos() (unlock func(), err error) {
	if err := os.MkdirAll(demoStateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	f, err := os.OpenFile(demoStateDir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the demos: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock the demos: %w", err)
		}
		break
	}
	if err := sweepDemos(); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
