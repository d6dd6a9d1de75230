package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Go's Linux ports have.
const tick = 10 * time.Millisecond

// stat is what we need of one line of /proc/PID/stat (proc(5)).
type stat struct {
	parent int
	cpu    time.Duration // user and system, of itself and of the children that it has waited for
}

// readStat reads /proc/PID/stat; false when the process is gone.
func readStat(pid int) (stat, bool, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if gone(err) {
		return stat{}, false, nil
	}
	if err != nil {
		return stat{}, false, fmt.Errorf("read processor time: %w", err)
	}
	// The name in parentheses may hold anything, parentheses too. Behind it: state,
	// ppid, and at 12 to 15 utime, stime, cutime, cstime.
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	numbers := make([]int, 0, 5)
	for _, i := range []int{1, 11, 12, 13, 14} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return stat{}, false, fmt.Errorf("read processor time: %w", err)
		}
		numbers = append(numbers, n)
	}
	ticks := numbers[1] + numbers[2] + numbers[3] + numbers[4]
	return stat{parent: numbers[0], cpu: time.Duration(ticks) * tick}, true, nil
}

// processTree returns a process and all that descend from it.
func processTree(root int) ([]int, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(filepath.Base(e))
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		s, ok, err := readStat(pid)
		if err != nil {
			return nil, err
		}
		if ok {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree, nil
}

// cpuTime sums the processor time of processes.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		s, _, err := readStat(pid)
		if err != nil {
			return 0, err
		}
		sum += s.cpu
	}
	return sum, nil
}

// memory sums the proportional set sizes of processes, in bytes: a page that n
// processes share counts a n-th for each.
func memory(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read memory: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Pss:" {
				kib, err := strconv.ParseInt(fields[1], 10, 64)
				if err != nil {
					return 0, fmt.Errorf("read memory: %w", err)
				}
				sum += kib << 10
			}
		}
	}
	return sum, nil
}

// gone tells whether a read of /proc failed because the process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// median of numbers; NaN-free and not empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
