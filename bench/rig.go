package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// maxConnections of each server: the idle sessions of the memory case, and what
// the pools of all other systems hold at the same time.
const maxConnections = 900

// rig is what the systems have in common: the servers and a directory.
type rig struct {
	cluster   *pgtest.Cluster
	dir       string // of the servers' user, as whom the proxies run too
	pgproxy   string // the program to measure
	installed string // its copy, that the servers' user can execute; "" not yet
	cert, key string // files, of all proxies
	running   []*system
}

// newRig starts the servers and fills the database.
func newRig(ctx context.Context, o options) (_ *rig, err error) {
	cluster, err := pgtest.New(ctx, pgtest.Options{Standbys: 2, Settings: map[string]string{
		"max_connections":    strconv.Itoa(maxConnections),
		"shared_buffers":     "256MB",
		"max_wal_size":       "4GB",
		"checkpoint_timeout": "1h",
		"full_page_writes":   "off",
		"autovacuum":         "off",
	}})
	if err != nil {
		return nil, err
	}
	r := &rig{cluster: cluster, dir: filepath.Join(cluster.Dir(), "bench"), pgproxy: o.pgproxy}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close(context.WithoutCancel(ctx)))
		}
	}()
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := r.own(r.dir); err != nil {
		return nil, err
	}
	if err := r.writeClientFiles(); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "filling the database (scale %d)\n", o.scale)
	fill := r.client(ctx, cluster.Primary().Port, false, "pgbench", "-i", "-q", "-s", strconv.Itoa(o.scale))
	if out, err := fill.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("run pgbench -i: %w: %s", err, out)
	}
	if err := cluster.Primary().Exec(ctx, pgtest.AppDatabase, fmt.Sprintf(`CREATE UNLOGGED TABLE bench_copy (line text);
		ALTER TABLE bench_copy OWNER TO %[1]s;
		CREATE ROLE %[2]s LOGIN PASSWORD '%[3]s' IN ROLE %[1]s`, pgtest.AppUser, trustedUser, pgtest.Password(trustedUser))); err != nil {
		return nil, err
	}
	return r, cluster.WaitForCatchup(ctx) // a proxy may look for the role on a standby
}

// own gives a file to the servers' user.
func (r *rig) own(name string) error {
	cred := r.sysProcAttr().Credential
	if cred == nil {
		return nil
	}
	if err := os.Chown(name, int(cred.Uid), int(cred.Gid)); err != nil {
		return fmt.Errorf("give file to the servers' user: %w", err)
	}
	return nil
}

// sysProcAttr makes a child the servers' user's, and lets a Ctrl-C reach only us.
func (r *rig) sysProcAttr() *syscall.SysProcAttr {
	attr := r.cluster.Primary().Command(context.Background(), "pgbench").SysProcAttr
	attr.Setpgid = true
	return attr
}

// installPgproxy prepares the program and the servers for it, once.
func (r *rig) installPgproxy(ctx context.Context) error {
	if r.installed != "" {
		return nil
	}
	path, err := r.install(r.pgproxy)
	if err != nil {
		return err
	}
	setup, err := exec.CommandContext(ctx, path, "setup-sql").Output()
	if err != nil {
		return fmt.Errorf("run pgproxy setup-sql: %w", err)
	}
	if err := r.cluster.Primary().Exec(ctx, "postgres", string(setup)); err != nil {
		return err
	}
	r.installed = path
	return nil
}

// install copies a program to where the servers' user can execute it.
func (r *rig) install(program string) (string, error) {
	from, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("copy the program to measure: %w", err)
	}
	defer from.Close()
	name := filepath.Join(r.dir, filepath.Base(program))
	to, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return "", fmt.Errorf("copy the program to measure: %w", err)
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return "", fmt.Errorf("copy the program to measure: %w", err)
	}
	if err := to.Close(); err != nil {
		return "", fmt.Errorf("copy the program to measure: %w", err)
	}
	return name, nil
}

// writeFile writes a file that only the servers' user reads, and returns its path.
func (r *rig) writeFile(name, content string) (string, error) {
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return "", fmt.Errorf("write file: %w", err)
	}
	return path, r.own(path)
}

// settle waits until no standby has work left from what was measured before.
func (r *rig) settle(ctx context.Context) error { return r.cluster.WaitForCatchup(ctx) }

// close stops what runs and removes all files.
func (r *rig) close(ctx context.Context) error {
	for len(r.running) > 0 {
		r.stop(r.running[0])
	}
	return r.cluster.Close(ctx)
}
