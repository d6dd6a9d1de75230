package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// settings are what an administrator would set for a cluster of this size, and
// otherwise PostgreSQL's defaults: also fsync.
var settings = map[string]string{
	"listen_addresses":    "*",
	"port":                strconv.Itoa(ServerPort),
	"max_connections":     "100",
	"shared_buffers":      "32MB",
	"wal_level":           "replica",
	"wal_log_hints":       "on",
	"hot_standby":         "on",
	"max_wal_senders":     "10",
	"password_encryption": "scram-sha-256",
	"timezone":            "UTC",
	"log_timezone":        "UTC",
	"lc_messages":         "C",
	"log_line_prefix":     "%m [%p] %q%u@%d %a ",
}

func (c *Cluster) identFile() string { return filepath.Join(c.o.Dir, "pg_ident.conf") }

// makeData makes the data directories while no server runs, so that the standbys
// are copies of the primary.
func (c *Cluster) makeData(ctx context.Context) error {
	for i, h := range c.Servers() {
		var err error
		if i == 0 {
			err = c.bin.MakeData(ctx, h.DataDir, c.o.Fresh)
		} else {
			err = c.bin.CopyData(ctx, c.Hosts[0].DataDir, h.DataDir)
		}
		if err != nil {
			return err
		}
		if err := h.writeServerConfig(); err != nil {
			return err
		}
	}
	return nil
}

// serverConfDir is where postgresql.conf lies.
func (h *Host) serverConfDir() string {
	if h.c.o.Outside {
		return h.confDir()
	}
	return h.DataDir
}

func (h *Host) writeServerConfig() error {
	c := h.c
	all := maps.Clone(settings)
	maps.Copy(all, c.o.Settings)
	dir := h.serverConfDir()
	maps.Copy(all, map[string]string{
		"unix_socket_directories": h.SocketDir,
		"ident_file":              c.identFile(),
		"hba_file":                filepath.Join(dir, "pg_hba.conf"),
	})
	if c.o.Outside {
		all["data_directory"] = h.DataDir
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(all[k], "'", "''"))
	}
	// The superuser by the socket, from the user that runs pgproxy and from us.
	hba := fmt.Sprintf(`local all postgres peer map=rig
host all all %[1]s.0/24 scram-sha-256
host replication %[2]s %[1]s.0/24 scram-sha-256
`, c.o.Subnet, pgtest.ReplUser)
	if c.o.Outside {
		for _, name := range []string{"postgresql.conf", "pg_hba.conf"} {
			if err := os.Remove(filepath.Join(h.DataDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove file: %w", err)
			}
		}
	}
	return errors.Join(
		c.writeFile(filepath.Join(dir, "postgresql.conf"), b.String()),
		c.writeFile(filepath.Join(dir, "pg_hba.conf"), hba),
	)
}

// makeStandby writes what pg_basebackup -R writes.
func (h *Host) makeStandby(primary *Host) error {
	conninfo := fmt.Sprintf("host=%s port=%d user=%s password=%s application_name=%s",
		primary.IP, ServerPort, pgtest.ReplUser, h.c.passwords[pgtest.ReplUser], h.Name)
	return errors.Join(
		h.c.writeFile(filepath.Join(h.DataDir, "postgresql.auto.conf"), "primary_conninfo = '"+conninfo+"'\n"),
		h.c.writeFile(filepath.Join(h.DataDir, "standby.signal"), ""),
	)
}

// space is where the tablespace lies with Options.Space. The hosts share their files,
// so it lies elsewhere on each of them.
func (h *Host) space() string { return filepath.Join(h.dir, "space") }

// makeSpace makes the tablespace and a table in it.
func (h *Host) makeSpace(ctx context.Context) error {
	if err := os.Mkdir(h.space(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := h.c.own(h.space()); err != nil {
		return err
	}
	if err := h.Exec(ctx, "CREATE TABLESPACE space LOCATION '"+h.space()+"'"); err != nil {
		return err
	}
	_, err := h.QueryApp(ctx, "CREATE TABLE spaced TABLESPACE space AS SELECT generate_series(1, 1000) AS n")
	return err
}

// copyFrom makes the data directory anew by pg_basebackup, as an operator does.
func (h *Host) copyFrom(ctx context.Context, primary *Host) error {
	if err := os.RemoveAll(h.DataDir); err != nil {
		return fmt.Errorf("remove data directory: %w", err)
	}
	cmd := h.c.bin.Command(ctx, "pg_basebackup", "-D", h.DataDir, "--checkpoint=fast", "-h", primary.IP,
		"-p", strconv.Itoa(ServerPort), "-U", pgtest.ReplUser, "-T", primary.space()+"="+h.space())
	cmd.Env = append(cmd.Env, "PGPASSWORD="+h.c.passwords[pgtest.ReplUser])
	cmd.SysProcAttr.Pdeathsig = 0
	if err := h.runIn(cmd); err != nil {
		return fmt.Errorf("copy server of %s to %s: %w", primary.Name, h.Name, err)
	}
	return h.writeServerConfig()
}

func (h *Host) serverLog() string { return filepath.Join(h.dir, "postgresql.log") }

// StartServer starts the server as an operator does, and waits until it accepts
// connections.
func (h *Host) StartServer(ctx context.Context) error {
	cmd := h.c.bin.Command(ctx, "pg_ctl", "start", "-w", "-D", h.serverConfDir(), "-l", h.serverLog())
	cmd.SysProcAttr.Pdeathsig = 0
	if err := h.runIn(cmd); err != nil {
		return fmt.Errorf("start server of %s: %w\n%s", h.Name, err, tail(h.serverLog(), 20))
	}
	return nil
}

// StopServer stops the server as an operator does; mode is pg_ctl's.
func (h *Host) StopServer(ctx context.Context, mode string) error {
	cmd := h.c.bin.Command(ctx, "pg_ctl", "stop", "-w", "-m", mode, "-D", h.serverConfDir())
	cmd.SysProcAttr.Pdeathsig = 0
	if err := h.runIn(cmd); err != nil {
		return fmt.Errorf("stop server of %s: %w", h.Name, err)
	}
	return nil
}

// runIn runs a prepared command on the host to its end.
func (h *Host) runIn(cmd *exec.Cmd) error {
	// A file, not a pipe: the postmaster inherits it and would keep a pipe open.
	out, err := os.CreateTemp(h.c.o.Dir, "out-")
	if err != nil {
		return fmt.Errorf("make file for output: %w", err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := h.Net.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		said := ""
		if _, seekErr := out.Seek(0, io.SeekStart); seekErr == nil {
			b, _ := io.ReadAll(out)
			said = strings.TrimSpace(string(b))
		}
		return fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, said)
	}
	return nil
}

// ServerProcesses returns all processes of the server, also without a postmaster.
func (h *Host) ServerProcesses() []int { return pgtest.ProcessesIn(h.DataDir) }

// postmaster returns the process of the server that is the parent of the others.
func (h *Host) postmaster() (int, error) {
	pids := h.ServerProcesses()
	for _, pid := range pids {
		if parent, err := parentOf(pid); err == nil && slices.Contains(pids, parent) {
			continue
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(strings.Split(string(comm), "\x00")[0], "/postgres") {
			return pid, nil // its children have titles such as "postgres: checkpointer"
		}
	}
	return 0, fmt.Errorf("find the postmaster of %s: it does not run", h.Name)
}

func parentOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read parent of process %d: %w", pid, err)
	}
	// "pid (comm) state ppid ...": comm may have spaces and parentheses (proc(5)).
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return strconv.Atoi(fields[1])
}

func (h *Host) signalPostmaster(sig syscall.Signal) error {
	pid, err := h.postmaster()
	if err != nil {
		return err
	}
	return signalAll([]int{pid}, sig)
}

// ServerRuns tells whether a postmaster is there, be it frozen.
func (h *Host) ServerRuns() bool {
	_, err := h.postmaster()
	return err == nil
}

// ServerFrozen tells whether the postmaster is stopped by SIGSTOP.
func (h *Host) ServerFrozen() bool {
	pid, err := h.postmaster()
	return err == nil && frozen(pid)
}

// KillServer kills the postmaster with SIGKILL; its children notice and end.
func (h *Host) KillServer() error { return h.signalPostmaster(syscall.SIGKILL) }

// FreezePostmaster stops the postmaster alone: new connections hang, old ones work.
func (h *Host) FreezePostmaster() error { return h.signalPostmaster(syscall.SIGSTOP) }

// FreezeServer stops all processes of the server by SIGSTOP.
func (h *Host) FreezeServer() error {
	if err := h.FreezePostmaster(); err != nil { // first, so that it makes no more children
		return err
	}
	return signalAll(h.ServerProcesses(), syscall.SIGSTOP)
}

// ThawServer ends FreezeServer and FreezePostmaster.
func (h *Host) ThawServer() error { return signalAll(h.ServerProcesses(), syscall.SIGCONT) }

// DeleteData kills the server and removes its data directory, and its tablespace.
func (h *Host) DeleteData() error {
	if err := signalAll(h.ServerProcesses(), syscall.SIGKILL); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(h.DataDir), os.RemoveAll(h.space())); err != nil {
		return fmt.Errorf("delete data directory of %s: %w", h.Name, err)
	}
	return nil
}

// BesideData lists what lies where a rebuild makes the new data directory.
func (h *Host) BesideData() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(h.dir, "*"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", h.dir, err)
	}
	return found, nil
}

// Exec runs statements on the host's server as superuser.
func (h *Host) Exec(ctx context.Context, sql string) error {
	_, err := h.Query(ctx, sql)
	return err
}

// Query runs statements as superuser, by the Unix socket: it works whatever the
// network does. It returns the first value of the last one, "" where there is none.
func (h *Host) Query(ctx context.Context, sql string) (string, error) {
	return h.query(ctx, "postgres", sql)
}

// QueryApp does so in the clients' database.
func (h *Host) QueryApp(ctx context.Context, sql string) (string, error) {
	return h.query(ctx, pgtest.AppDatabase, sql)
}

func (h *Host) query(ctx context.Context, database, sql string) (string, error) {
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d dbname=%s user=%s sslmode=disable",
		h.SocketDir, ServerPort, database, pgtest.Superuser))
	if err != nil {
		return "", fmt.Errorf("connect to server of %s: %w", h.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("query server of %s: %w", h.Name, err)
	}
	if len(results) == 0 {
		return "", nil
	}
	rows := results[len(results)-1].Rows
	if len(rows) == 0 || len(rows[0]) == 0 {
		return "", nil
	}
	return string(rows[0][0]), nil
}

// Primaries returns the hosts whose server runs and says that it is a primary. The
// servers are asked themselves; one that does not answer within ctx is none.
func (c *Cluster) Primaries(ctx context.Context) []*Host {
	is := make([]bool, len(c.Servers()))
	var g errgroup.Group
	for i, h := range c.Servers() {
		g.Go(func() error {
			value, err := h.Query(ctx, "SELECT NOT pg_is_in_recovery()")
			is[i] = err == nil && value == "t"
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	var all []*Host
	for i, h := range c.Servers() {
		if is[i] {
			all = append(all, h)
		}
	}
	return all
}
