package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// StopMode is how a server is told to stop (PostgreSQL manual, "Shutting Down
// the Server").
type StopMode uint8

// The modes.
const (
	StopUnknown   StopMode = iota
	StopFast               // SIGINT: sessions are ended, a checkpoint is made
	StopImmediate          // SIGQUIT: like a crash, but orderly
)

// startTimeout bounds what waits for a server to start or to stop: recovery of
// a small cluster takes a second, a loaded machine a minute.
const startTimeout = 2 * time.Minute

// settings are what every server has unless Options.Settings says otherwise.
var settings = map[string]string{
	"max_connections":              "100",
	"max_prepared_transactions":    "10",
	"shared_buffers":               "32MB",
	"max_wal_senders":              "20",
	"max_replication_slots":        "20",
	"wal_level":                    "replica",
	"wal_log_hints":                "on",
	"hot_standby":                  "on",
	"fsync":                        "off",
	"autovacuum":                   "on",
	"password_encryption":          "scram-sha-256",
	"timezone":                     "UTC",
	"log_timezone":                 "UTC",
	"lc_messages":                  "C",
	"log_line_prefix":              "%m [%p] %q%u@%d ",
	"log_min_messages":             "warning",
	"wal_receiver_status_interval": "1s",
	"wal_retrieve_retry_interval":  "100ms",
}

// defaultHBA trusts nobody but the superuser on the socket.
const defaultHBA = `local all         postgres trust
local replication postgres trust
local all         all      scram-sha-256
local replication all      scram-sha-256
host  all         all      127.0.0.1/32 scram-sha-256
host  replication all      127.0.0.1/32 scram-sha-256
`

// Options say what servers to make. The zero value makes fast ones for a test:
// they lose data when the machine crashes, not when they are killed.
type Options struct {
	Standbys   int               // of a Cluster: streaming standbys beside the primary
	Settings   map[string]string // of postgresql.conf, over the defaults; numbers without quotes
	HBA        string            // whole content of pg_hba.conf; empty: scram, the superuser trusted on the socket
	Fresh      bool              // initdb anew, for a system identifier of its own
	InitdbArgs []string          // further arguments of initdb; each set has its own template
	Durable    bool              // fsync
	Binaries   *Binaries         // nil: FindBinaries
}

// Server is one PostgreSQL server that may be running or not. Its methods are
// for one goroutine at a time, but for the ones that only read its fields.
type Server struct {
	Name      string // h1, h2, ...; its application_name as a standby
	Port      int    // on 127.0.0.1 and in the name of the socket
	SocketDir string
	DataDir   string
	LogFile   string

	bin  Binaries
	port *Port
	proc *process // nil when it has been stopped or was never started
}

// process is a running postmaster.
type process struct {
	pid    int
	ended  chan struct{} // closed after err is set
	err    error
	paused []int // the processes that Pause has stopped
}

// newServer makes the server's directories in runDir/name, with a data directory
// copied from template, and does not start it.
func newServer(ctx context.Context, bin Binaries, runDir, name, template string, o Options) (_ *Server, err error) {
	dir := filepath.Join(runDir, name)
	s := &Server{
		Name:      name,
		SocketDir: dir,
		DataDir:   filepath.Join(dir, "data"),
		LogFile:   filepath.Join(dir, "log"),
		bin:       bin,
	}
	if err := bin.mkdir(dir); err != nil {
		return nil, err
	}
	// Others reach the socket; the data directory guards itself.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if s.port, err = ReservePort(); err != nil {
		return nil, err
	}
	s.Port = s.port.Number
	if n := len(s.socket()); n > 107 {
		s.port.Release()
		return nil, fmt.Errorf("make server: the path of its socket has %d bytes, more than 107: %s (set TMPDIR to a shorter path)", n, s.socket())
	}
	if err := s.fill(ctx, template, o); err != nil {
		s.port.Release()
		return nil, err
	}
	return s, nil
}

// fill makes the data directory and the configuration files.
func (s *Server) fill(ctx context.Context, template string, o Options) error {
	if o.Fresh && template == "" {
		if err := s.bin.mkdir(s.DataDir); err != nil {
			return err
		}
		if err := s.bin.initdb(ctx, s.DataDir, o.InitdbArgs); err != nil {
			return err
		}
	} else if err := copyDir(ctx, template, s.DataDir); err != nil {
		return err
	}
	hba := o.HBA
	if hba == "" {
		hba = defaultHBA
	}
	if err := s.bin.writeFile(filepath.Join(s.DataDir, "pg_hba.conf"), hba); err != nil {
		return err
	}
	return s.bin.writeFile(filepath.Join(s.DataDir, "postgresql.conf"), s.conf(o))
}

// conf writes postgresql.conf.
func (s *Server) conf(o Options) string {
	all := maps.Clone(settings)
	if o.Durable {
		all["fsync"] = "on"
	}
	maps.Copy(all, o.Settings)
	maps.Copy(all, map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.Port),
		"unix_socket_directories": s.SocketDir,
	})
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(all[k], "'", "''"))
	}
	return b.String()
}

func (s *Server) socket() string {
	return filepath.Join(s.SocketDir, ".s.PGSQL."+strconv.Itoa(s.Port))
}

// Address returns 127.0.0.1:port.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Running tells whether the postmaster lives, be it paused.
func (s *Server) Running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.ended:
		return false
	default:
		return true
	}
}

// Start starts the server and waits until it accepts connections.
func (s *Server) Start(ctx context.Context) error {
	if s.Running() {
		return fmt.Errorf("start server %s: it is running", s.Name)
	}
	if err := s.launch(); err != nil {
		return fmt.Errorf("start server %s: %w", s.Name, err)
	}
	if err := s.awaitReady(ctx); err != nil {
		return fmt.Errorf("start server %s: %w\n%s", s.Name, err, s.LogTail(20))
	}
	return nil
}

// launch starts the postmaster on a thread that lives as long as it does.
func (s *Server) launch() error {
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	defer log.Close()
	cmd := s.bin.Command(context.Background(), "postgres", "-D", s.DataDir)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: an interrupt from the terminal is for us, and we stop it.
	cmd.SysProcAttr.Setpgid = true
	p := &process{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("run postgres: %w", err)
	}
	p.pid = cmd.Process.Pid
	s.proc = p
	return nil
}

// awaitReady connects until it is let in, the postmaster ends, or ctx does.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := s.Conn(ctx, "postgres", Superuser)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.proc.ended:
			return fmt.Errorf("postgres ended: %w", errors.Join(s.proc.err, errEnded))
		case <-ctx.Done():
			return fmt.Errorf("wait for it to accept connections: %w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// errEnded stands for an exit status of zero where none was expected.
var errEnded = errors.New("the process is gone")

// Stop stops a running server and waits for its end. A paused one is continued.
func (s *Server) Stop(ctx context.Context, mode StopMode) error {
	if !s.Running() {
		return nil
	}
	sig := syscall.SIGINT
	switch mode {
	case StopFast:
	case StopImmediate:
		sig = syscall.SIGQUIT
	case StopUnknown:
		return fmt.Errorf("stop server %s: no mode given", s.Name)
	}
	if err := s.Continue(); err != nil {
		return err
	}
	if err := syscall.Kill(s.proc.pid, sig); err != nil {
		return fmt.Errorf("stop server %s: %w", s.Name, err)
	}
	return s.awaitEnd(ctx)
}

// Kill kills the postmaster, as a crash would, and waits until its children have
// noticed and are gone too.
func (s *Server) Kill(ctx context.Context) error {
	if s.proc == nil {
		return nil
	}
	if err := s.KillPostmaster(); err != nil {
		return err
	}
	if err := s.Continue(); err != nil { // the children, where they were paused
		return err
	}
	return s.awaitEnd(ctx)
}

// KillPostmaster kills the postmaster and does not wait. Kill waits for its children.
func (s *Server) KillPostmaster() error {
	if !s.Running() {
		return nil
	}
	if err := syscall.Kill(s.proc.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill server %s: %w", s.Name, err)
	}
	return nil
}

// awaitEnd waits for the postmaster and for every other process of the server.
func (s *Server) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-s.proc.ended:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of server %s: %w\n%s", s.Name, ctx.Err(), s.LogTail(20))
	}
	for _, pid := range processesIn(s.DataDir) {
		if err := awaitExit(ctx, pid); err != nil {
			return fmt.Errorf("wait for the end of server %s: %w", s.Name, err)
		}
	}
	s.proc = nil
	return nil
}

// Restart stops the server and starts it on the same port.
func (s *Server) Restart(ctx context.Context, mode StopMode) error {
	if err := s.Stop(ctx, mode); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Pause freezes every process of the server (SIGSTOP), as a hung host would:
// the kernel goes on accepting connections for it.
func (s *Server) Pause() error {
	if !s.Running() {
		return fmt.Errorf("pause server %s: it is not running", s.Name)
	}
	// The postmaster first, so that it makes no more children.
	if err := syscall.Kill(s.proc.pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause server %s: %w", s.Name, err)
	}
	s.proc.paused = processesIn(s.DataDir)
	if err := signalAll(s.proc.paused, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause server %s: %w", s.Name, err)
	}
	return nil
}

// Continue ends a Pause; without one it does nothing.
func (s *Server) Continue() error {
	if s.proc == nil {
		return nil
	}
	pids := s.proc.paused
	s.proc.paused = nil
	if err := signalAll(pids, syscall.SIGCONT); err != nil {
		return fmt.Errorf("continue server %s: %w", s.Name, err)
	}
	return nil
}

// Promote makes a standby a primary and waits until it is one.
func (s *Server) Promote(ctx context.Context) error {
	conn, err := s.Conn(ctx, "postgres", Superuser)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, $1)", int(startTimeout.Seconds())).Scan(&done); err != nil {
		return fmt.Errorf("promote server %s: %w", s.Name, err)
	}
	if !done {
		return fmt.Errorf("promote server %s: it did not become a primary within %s", s.Name, startTimeout)
	}
	return nil
}

// Conn connects: the superuser by the Unix socket, the others by TCP with their
// password from the template.
func (s *Server) Conn(ctx context.Context, database, user string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, s.DSN(database, user))
	if err != nil {
		return nil, fmt.Errorf("connect to server %s: %w", s.Name, err)
	}
	return conn, nil
}

// DSN returns the connection string of Conn, in libpq's keyword form.
func (s *Server) DSN(database, user string) string {
	if user == Superuser {
		return fmt.Sprintf("host=%s port=%d dbname=%s user=%s sslmode=disable", s.SocketDir, s.Port, database, user)
	}
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s user=%s password=%s sslmode=disable",
		s.Port, database, user, Password(user))
}

// Exec runs statements as superuser, in a session of their own.
func (s *Server) Exec(ctx context.Context, database, sql string) error {
	conn, err := s.Conn(ctx, database, Superuser)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := conn.PgConn().Exec(ctx, sql).Close(); err != nil {
		return fmt.Errorf("execute on server %s: %w", s.Name, err)
	}
	return nil
}

// QueryValue runs a query of one row and one column as superuser and returns
// its text form.
func (s *Server) QueryValue(ctx context.Context, database, sql string) (string, error) {
	conn, err := s.Conn(ctx, database, Superuser)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("query server %s: %w", s.Name, err)
	}
	last := results[len(results)-1]
	if len(last.Rows) != 1 || len(last.Rows[0]) != 1 {
		return "", fmt.Errorf("query server %s: %q did not return one value", s.Name, sql)
	}
	return string(last.Rows[0][0]), nil
}

// LogTail returns the last lines of the server's log.
func (s *Server) LogTail(lines int) string {
	content, err := os.ReadFile(s.LogFile)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Command prepares a program of the server's installation, with PGHOST, PGPORT
// and PGUSER set to the superuser's way in.
func (s *Server) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := s.bin.Command(ctx, program, args...)
	cmd.Env = append(cmd.Env, "PGHOST="+s.SocketDir, "PGPORT="+strconv.Itoa(s.Port), "PGUSER="+Superuser)
	return cmd
}

// close stops the server as fast as can be and gives its port back. The caller
// removes the files.
func (s *Server) close(ctx context.Context) error {
	err := s.Stop(ctx, StopImmediate)
	s.port.Release()
	return err
}
