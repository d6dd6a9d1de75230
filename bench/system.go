package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// readyTimeout bounds the start of a proxy.
const readyTimeout = 30 * time.Second

// system is a running one.
type system struct {
	name string
	port int // on 127.0.0.1

	reserved *pgtest.Port // nil: the primary itself
	cmd      *exec.Cmd
	log      string
	ended    chan struct{} // closed when the process is gone
}

// logTail is the end of what the proxy has written.
func (s *system) logTail() []byte {
	tail, _ := os.ReadFile(s.log) // the primary itself has none here
	return bytes.TrimSpace(tail[max(0, len(tail)-2000):])
}

// memory of all of its processes, in bytes.
func (s *system) memory() (int64, error) {
	all, err := listProcesses()
	if err != nil {
		return 0, err
	}
	return memory(all.tree(s.cmd.Process.Pid))
}

// dsn of the ordinary role on the system.
func (s *system) dsn(tls bool) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s user=%s password=%s sslmode=%s",
		s.port, pgtest.AppDatabase, pgtest.AppUser, pgtest.Password(pgtest.AppUser), sslMode(tls))
}

func sslMode(tls bool) string {
	if tls {
		return "require"
	}
	return "disable"
}

// start starts a system and waits until it answers a query.
func (r *rig) start(ctx context.Context, d definition, clients int) (*system, error) {
	if d.command == nil {
		return &system{name: d.name, port: r.cluster.Primary().Port}, nil
	}
	port, err := pgtest.ReservePort()
	if err != nil {
		return nil, err
	}
	args, err := d.command(ctx, r, port.Number, clients)
	if err != nil {
		port.Release()
		return nil, fmt.Errorf("configure %s: %w", d.name, err)
	}
	s := &system{
		name: d.name, port: port.Number, reserved: port,
		log: filepath.Join(r.dir, d.name+".log"), ended: make(chan struct{}),
	}
	log, err := os.Create(s.log)
	if err != nil {
		port.Release()
		return nil, fmt.Errorf("start %s: %w", d.name, err)
	}
	defer log.Close()
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Dir, s.cmd.SysProcAttr = r.dir, r.sysProcAttr()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		port.Release()
		return nil, fmt.Errorf("start %s: %w", d.name, err)
	}
	r.running = append(r.running, s)
	go func() {
		_ = s.cmd.Wait() // how it ended is in its log
		close(s.ended)
	}()
	err = s.awaitReady(ctx)
	if err == nil && d.tls {
		err = r.checkCipher(ctx, s)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w\n%s", d.name, err, s.logTail())
	}
	return s, nil
}

// awaitReady repeats a query until it is answered.
func (s *system) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.query(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the process has ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("no answer within %s: %w", readyTimeout, err)
		case <-tick.C:
		}
	}
}

func (s *system) query(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.dsn(false))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var n int
	return conn.QueryRow(ctx, "SELECT count(*) FROM pgbench_branches").Scan(&n)
}

// stop ends the system's process group, at once: nothing of it is kept.
func (r *rig) stop(s *system) {
	if s.cmd == nil {
		return
	}
	// The group is gone already where the process has ended by itself.
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.ended
	s.reserved.Release()
	r.running = slices.DeleteFunc(r.running, func(o *system) bool { return o == s })
}

// address of a port on the loopback interface.
func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
