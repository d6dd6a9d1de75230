package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

func (c *Cluster) secretFile() string      { return filepath.Join(c.o.Dir, "secret") }
func (c *Cluster) monitorFile() string     { return filepath.Join(c.o.Dir, "monitor.password") }
func (c *Cluster) replicationFile() string { return filepath.Join(c.o.Dir, "repl.password") }

// writeShared writes the files that every host has a copy of; here they share them.
func (c *Cluster) writeShared() error {
	secret, err := exec.Command(c.binary(), "keygen").Output()
	if err != nil {
		return fmt.Errorf("make the members' secret: %w", err)
	}
	return errors.Join(
		c.writeFile(c.secretFile(), string(secret)),
		c.writeFile(c.monitorFile(), c.passwords[pgtest.MonitorUser]+"\n"),
		c.writeFile(c.replicationFile(), c.passwords[pgtest.ReplUser]+"\n"),
		c.writeFile(c.identFile(), "rig root postgres\nrig postgres postgres\n"),
	)
}

// writeConfig writes the file that an administrator would write on that host.
func (h *Host) writeConfig() error {
	c := h.c
	var b strings.Builder
	fmt.Fprintf(&b, `name: %s
data_dir: %s
listen: {address: "*:%d", tls: {mode: disable}, drain: %s}
monitor: {user: %s, password_file: %s, database: postgres}
metrics: {listen: "*:%d"}
pcp: {listen: "127.0.0.1:9898", unix_socket: %s}
log: {level: %s}
`, h.Name, h.MemberDir, ProxyPort, c.o.Drain, pgtest.MonitorUser, c.monitorFile(), metricsPort, h.pcpSocket(), c.o.LogLevel)
	fmt.Fprintln(&b, "backends:")
	for _, s := range c.Servers() {
		fmt.Fprintf(&b, "  - {name: %s, address: \"%s:%d\", weight: 1, agent: %s}\n", s.Name, s.IP, ServerPort, s.Name)
	}
	fmt.Fprintf(&b, "watchdog:\n  listen: \"%s:%d\"\n  secret_file: %s\n%s  members:\n", h.IP, watchdogPort, c.secretFile(), indented(c.o.Watchdog))
	for _, m := range c.Hosts {
		witness := ""
		if !m.HasServer {
			witness = ", witness: true"
		}
		fmt.Fprintf(&b, "    - {name: %s, address: \"%s:%d\"%s}\n", m.Name, m.IP, watchdogPort, witness)
	}
	if h.HasServer {
		fmt.Fprintf(&b, "vip:\n  - {address: %s/24, interface: eth0}\n", c.VIP)
		fmt.Fprintf(&b, `agent:
  data_directory: %s
  bin_directory: %s
  connect: "host=%s port=%d user=%s"
  replication: {user: %s, password_file: %s}
`, h.DataDir, c.bin.Dir, h.SocketDir, ServerPort, pgtest.Superuser, pgtest.ReplUser, c.replicationFile())
		if c.o.Space {
			fmt.Fprintln(&b, "  tablespaces:")
			for _, other := range c.Servers() {
				if other != h {
					fmt.Fprintf(&b, "    %s: %s\n", other.space(), h.space())
				}
			}
		}
	}
	b.WriteString(c.o.Sections)
	return c.writeFile(h.Config, b.String())
}

// indented are keys of a section, from lines that are not.
func indented(keys string) string {
	var b strings.Builder
	for line := range strings.Lines(keys) {
		b.WriteString("  " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}

// StartMember starts pgproxy on the host, as systemd would: as user postgres, with
// the two capabilities.
func (h *Host) StartMember() error {
	log, err := os.OpenFile(h.MemberLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(h.c.binary(), "run", "-c", h.Config)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "GOTRACEBACK=all"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  h.c.bin.Credential(),
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW},
		Setsid:      true, // an interrupt from the terminal is for us
	}
	err = h.c.reaper.except(func() (int, error) {
		if err := h.Net.Start(cmd); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	h.mu.Lock()
	h.mu.ended = ended
	h.mu.Unlock()
	go func() {
		defer close(ended)
		err := cmd.Wait()
		// Into its own log: who reads that asks how it ended.
		if f, openErr := os.OpenFile(h.MemberLog, os.O_WRONLY|os.O_APPEND, 0); openErr == nil {
			fmt.Fprintf(f, "pgproxy ended: %v\n", errors.Join(err))
			f.Close()
		}
	}()
	return nil
}

// MemberEnded is closed when the member that was started last has ended.
func (h *Host) MemberEnded() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.ended
}

// awaitMember waits for a member that was killed.
func (h *Host) awaitMember() {
	if ended := h.MemberEnded(); ended != nil {
		<-ended
	}
}

// MemberProcesses returns the pgproxy processes of the host.
func (h *Host) MemberProcesses() []int {
	all, err := h.Net.Processes()
	if err != nil {
		return nil
	}
	var pids []int
	for _, pid := range all {
		exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
		if err == nil && strings.TrimSuffix(exe, " (deleted)") == h.c.binary() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// MemberFrozen tells whether a member is there that SIGSTOP has stopped.
func (h *Host) MemberFrozen() bool {
	return slices.ContainsFunc(h.MemberProcesses(), frozen)
}

// frozen tells whether a process is stopped (proc(5), state T).
func frozen(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.HasPrefix(string(b[strings.LastIndexByte(string(b), ')')+1:]), " T")
}

// signalMember fails where no member runs.
func (h *Host) signalMember(sig syscall.Signal) error {
	pids := h.MemberProcesses()
	if len(pids) == 0 {
		return fmt.Errorf("send %v to pgproxy on %s: it does not run", sig, h.Name)
	}
	return signalAll(pids, sig)
}

// KillMember kills pgproxy with SIGKILL.
func (h *Host) KillMember() error { return h.signalMember(syscall.SIGKILL) }

// FreezeMember stops it by SIGSTOP: its kernel goes on accepting connections.
func (h *Host) FreezeMember() error { return h.signalMember(syscall.SIGSTOP) }

// ThawMember ends FreezeMember.
func (h *Host) ThawMember() error { return h.signalMember(syscall.SIGCONT) }

// StopMember stops pgproxy in order and waits for its end.
func (h *Host) StopMember(ctx context.Context) error {
	if err := h.signalMember(syscall.SIGTERM); err != nil {
		return err
	}
	return Poll(ctx, "pgproxy on "+h.Name+" has ended", func(context.Context) error {
		if len(h.MemberProcesses()) > 0 {
			return errors.New("it runs")
		}
		return nil
	})
}

// DeleteMemberData removes all that a member that does not run has kept.
func (h *Host) DeleteMemberData() error {
	if err := os.RemoveAll(h.MemberDir); err != nil {
		return fmt.Errorf("delete pgproxy's data of %s: %w", h.Name, err)
	}
	return h.makeDirs()
}

// signalAll sends a signal to processes, some of which may be gone.
func signalAll(pids []int, sig syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
		}
	}
	return nil
}
