package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pollEvery is how often what only polling shows is looked at.
const pollEvery = 5 * time.Millisecond

// processesIn returns the processes whose working directory is dir: every process
// of a PostgreSQL server has its data directory as its own, also when its
// postmaster is gone. Zombies have none.
func processesIn(dir string) []int {
	entries, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		panic("BUG: bad glob pattern: " + err.Error())
	}
	var pids []int
	for _, e := range entries {
		cwd, err := os.Readlink(e)
		if err != nil || cwd != dir+" (deleted)" && (cwd != dir || !sameFile(e, dir)) {
			continue // another's, or gone since
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// postmaster returns the process id of the running postmaster of dir, 0 when there
// is none. The file may be left from one that was killed, and its number be
// another process by now.
func postmaster(dir string) int {
	content, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 { // negative: postgres --single
		return 0
	}
	link := fmt.Sprintf("/proc/%d/cwd", pid)
	if cwd, err := os.Readlink(link); err != nil || cwd != dir || !sameFile(link, dir) {
		return 0
	}
	return pid
}

// sameFile tells a server from one in a container, whose directory may have the same
// name.
func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two)
}

// killAll kills the postmaster and all its children, and waits until they are gone.
// A process that is stopped (SIGSTOP) ends by this and by nothing else.
func killAll(ctx context.Context, dir string) error {
	if pid := postmaster(dir); pid != 0 {
		if err := signal(pid, syscall.SIGKILL); err != nil { // first, so that it makes no more
			return err
		}
	}
	return pollUntil(ctx, func() (bool, error) {
		pids := processesIn(dir)
		for _, pid := range pids {
			if err := signal(pid, syscall.SIGKILL); err != nil {
				return false, err
			}
		}
		return len(pids) == 0, nil
	})
}

// killCopies kills the copying into dir of a pgproxy that was killed itself: a
// pg_basebackup dies with it, its child that receives the log not at once, and would
// go on writing into what the next one makes.
func killCopies(dir string) error {
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		panic("BUG: bad glob pattern: " + err.Error())
	}
	for _, e := range entries {
		content, err := os.ReadFile(e)
		if err != nil {
			continue // gone since
		}
		args := strings.Split(string(content), "\x00")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e)))
		if err != nil || filepath.Base(args[0]) != "pg_basebackup" ||
			!slices.Contains(args, dir) || !slices.Contains(args, copyLabel) { // an operator's own
			continue
		}
		if err := signal(pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

func signal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
	}
	return nil
}

// awaitGone waits until no process of the server is left.
func awaitGone(ctx context.Context, dir string) error {
	return pollUntil(ctx, func() (bool, error) { return len(processesIn(dir)) == 0, nil })
}

// pollUntil calls done again and again until it says so, fails, or ctx ends.
func pollUntil(ctx context.Context, done func() (bool, error)) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
