package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The roles of every server. The passwords are no secrets: the servers listen on
// 127.0.0.1 only, and who runs a demo may change them.
const (
	Superuser   = "postgres" // trusted on the Unix socket
	AppUser     = "app"      // an ordinary role that owns the database app
	MonitorUser = "pgproxy"  // has no rights yet: see pgproxy setup-sql
	ReplUser    = "repl"     // REPLICATION
	AppDatabase = "app"
)

// Password returns the password that a role has from the template.
func Password(role string) string { return role + "-password" }

// roles is run once in the template. The verifiers are made by the server itself
// (password_encryption is scram-sha-256).
var roles = strings.Join([]string{
	"ALTER ROLE postgres PASSWORD '" + Password(Superuser) + "'",
	"CREATE ROLE app LOGIN PASSWORD '" + Password(AppUser) + "'",
	"CREATE ROLE pgproxy LOGIN PASSWORD '" + Password(MonitorUser) + "'",
	"CREATE ROLE repl LOGIN REPLICATION PASSWORD '" + Password(ReplUser) + "'",
	"CREATE DATABASE app OWNER app",
}, ";\n") + ";\n"

// initdb makes a data directory with the roles in it.
func (b Binaries) initdb(ctx context.Context, dir string, args []string) error {
	all := append([]string{
		"-D", dir, "-U", Superuser, "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums",
		"--auth=trust", "--no-sync", "--no-instructions", // pg_hba.conf is replaced before the server starts
	}, args...)
	if err := b.run(ctx, "", "initdb", all...); err != nil {
		return err
	}
	// The control file remembers these settings, and a standby refuses to start with
	// smaller ones: keep them below what anybody will ask for.
	single := []string{
		"--single", "-D", dir, "-c", "fsync=off", "-c", "max_connections=5", "-c", "max_wal_senders=1",
		"-c", "max_worker_processes=0", "-c", "max_locks_per_transaction=10", "postgres",
	}
	return b.run(ctx, strings.ReplaceAll(roles, ";\n", "\n"), "postgres", single...)
}

// template returns a data directory to copy from, made by the first caller on
// this machine. A stopped server's directory serves for a primary and, with
// standby.signal in it, for its standbys.
func (b Binaries) template(ctx context.Context, args []string) (string, error) {
	root, err := rootDir()
	if err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(b.Dir + "\n" + strings.Join(args, "\n") + "\n" + roles))
	base := filepath.Join(root, fmt.Sprintf("template-%d-%s", b.Major, hex.EncodeToString(key[:6])))
	lock, err := lockFile(base+".lock", syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	dir := filepath.Join(base, "data")
	if _, err := os.Stat(filepath.Join(base, "ready")); err == nil {
		return dir, nil
	}
	if err := os.RemoveAll(base); err != nil { // of one who was killed in the middle
		return "", fmt.Errorf("make template: %w", err)
	}
	if err := b.mkdir(base); err != nil {
		return "", err
	}
	if err := b.mkdir(dir); err != nil {
		return "", err
	}
	if err := b.initdb(ctx, dir, args); err != nil {
		return "", fmt.Errorf("make template: %w", err)
	}
	return dir, b.writeFile(filepath.Join(base, "ready"), "")
}

// copyDir copies a data directory, owners and modes too.
func copyDir(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy data directory: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
