package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// rootDir returns the directory of all that this package keeps for this user,
// and makes it. The servers' user must be able to pass through it.
func rootDir() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pgproxy-pgtest-%d", os.Geteuid()))
	if err := os.Mkdir(dir, 0o711); err != nil && !os.IsExist(err) {
		return "", fmt.Errorf("make directory: %w", err)
	}
	// The name can be guessed, and the temporary directory is everybody's.
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("make directory %s: it belongs to somebody else", dir)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask is
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// makeRunDir makes the directory of one cluster, and removes those of processes
// that are gone. Its name is short because Unix sockets lie in it (their paths
// have at most 107 bytes) and starts with the process id of its owner.
func makeRunDir() (string, error) {
	root, err := rootDir()
	if err != nil {
		return "", err
	}
	if err := sweep(root); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(root, fmt.Sprintf("run-%d-", os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// sweep removes what killed processes have left: their servers (those that were
// stopped by SIGSTOP outlive their parent) and then their files.
func sweep(root string) error {
	left, err := filepath.Glob(filepath.Join(root, "run-*"))
	if err != nil {
		return fmt.Errorf("look for old directories: %w", err)
	}
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "run-"), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
			continue
		}
		nodes, err := filepath.Glob(filepath.Join(dir, "*", "data"))
		if err != nil {
			return fmt.Errorf("look for old directories: %w", err)
		}
		for _, data := range nodes {
			for _, p := range processesIn(data) {
				_ = syscall.Kill(p, syscall.SIGKILL) // it may have ended by itself
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove old directory: %w", err)
		}
	}
	return nil
}
