package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processesIn returns the processes whose working directory is dir: every
// process of a PostgreSQL server has its data directory as its own, also one
// whose postmaster is gone. Zombies have none.
func processesIn(dir string) []int {
	entries, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		panic("BUG: bad glob pattern: " + err.Error())
	}
	var pids []int
	for _, e := range entries {
		cwd, err := os.Readlink(e)
		if err != nil || cwd != dir && cwd != dir+" (deleted)" {
			continue // another's, or gone since
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e)))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// awaitExit waits until the process has ended, without being its parent.
func awaitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int((100 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch process %d: %w", pid, err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("wait for the end of process %d: %w", pid, ctx.Err())
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
