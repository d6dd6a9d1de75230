package nettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killTimeout bounds the death of a process after SIGKILL.
const killTimeout = 20 * time.Second

// processesIn returns the processes, but for this one, whose network namespace the
// path names. Zombies are in none.
func processesIn(path string) ([]int, error) {
	var ns unix.Stat_t
	if err := unix.Stat(path, &ns); err != nil {
		return nil, fmt.Errorf("look at network namespace: %w", err)
	}
	entries, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat(e, &st) != nil || st.Ino != ns.Ino || st.Dev != ns.Dev {
			continue // another's, or gone since
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(e))))
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killProcesses kills until none is left: a child may be born between the look and
// the blow.
func killProcesses(path string) error {
	deadline := time.Now().Add(killTimeout)
	for {
		pids, err := processesIn(path)
		if errors.Is(err, unix.ENOENT) {
			return nil // another sweep was faster
		}
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes %v: still there after %s", pids, killTimeout)
		}
		for _, pid := range pids {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it is gone
			}
			_ = unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0)
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
			unix.Close(fd)
		}
	}
}
