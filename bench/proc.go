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

	"golang.org/x/sys/unix"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Go's Linux ports have.
const tick = 10 * time.Millisecond

// stat is what we need of one line of /proc/PID/stat (proc(5)).
type stat struct {
	parent   int
	system   time.Duration // processor time of its own in the kernel
	children time.Duration // processor time of the children that it has waited for
}

// readStat reads /proc/PID/stat; false when the process is gone.
func readStat(pid int) (stat, bool, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if gone(err) {
		return stat{}, false, nil
	}
	if err != nil {
		return stat{}, false, fmt.Errorf("read state of process: %w", err)
	}
	// The name in parentheses may hold anything, parentheses too. Behind it: state,
	// ppid, and at 12 to 14 stime, cutime and cstime.
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	numbers := make([]int, 0, 4)
	for _, i := range []int{1, 12, 13, 14} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return stat{}, false, fmt.Errorf("read state of process: %w", err)
		}
		numbers = append(numbers, n)
	}
	ticks := func(i int) time.Duration { return time.Duration(numbers[i]) * tick }
	return stat{parent: numbers[0], system: ticks(1), children: ticks(2) + ticks(3)}, true, nil
}

// processes is all that run, by their parent.
type processes map[int][]int

func listProcesses() (processes, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := processes{}
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
	return children, nil
}

// tree returns a process and all that descend from it, but for those below others.
func (p processes) tree(root int, others ...int) []int {
	all := []int{root}
	for i := 0; i < len(all); i++ {
		for _, child := range p[all[i]] {
			if !slices.Contains(others, child) {
				all = append(all, child)
			}
		}
	}
	return all
}

// cpuTime sums the processor time of processes, user and system, of threads that have
// ended too, and of the children that they have waited for. The kernel's part of it is
// in hundredths of a second and without those children.
func cpuTime(pids []int) (all, kernel time.Duration, err error) {
	for _, pid := range pids {
		own, err := cpuClock(pid)
		if err != nil {
			return 0, 0, err
		}
		s, _, err := readStat(pid)
		if err != nil {
			return 0, 0, err
		}
		all += own + s.children
		kernel += s.system
	}
	return all, kernel, nil
}

// cpuClock reads the processor clock of another process, in nanoseconds where
// /proc/PID/stat counts hundredths of a second. The number of the clock is as
// clock_getcpuclockid(3) makes it: the complement of the process, and CPUCLOCK_SCHED
// of the kernel's posix-timers.h.
func cpuClock(pid int) (time.Duration, error) {
	const sched = 2
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid)<<3|sched, &t)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESRCH) { // it has ended
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read processor clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// switches sums how often the threads of processes gave the processor up or lost it.
func switches(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return 0, fmt.Errorf("list threads: %w", err)
		}
		for _, name := range threads {
			n, err := sumLines(name, "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
			if err != nil {
				return 0, fmt.Errorf("read context switches: %w", err)
			}
			sum += n
		}
	}
	return sum, nil
}

// memory sums the proportional set sizes of processes, in bytes: a page that n
// processes share counts a n-th for each.
func memory(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		kib, err := sumLines(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if err != nil {
			return 0, fmt.Errorf("read memory: %w", err)
		}
		sum += kib << 10
	}
	return sum, nil
}

// sumLines sums the numbers behind the keys in a file of /proc; 0 when its process is
// gone.
func sumLines(name string, keys ...string) (int64, error) {
	content, err := os.ReadFile(name)
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.Contains(keys, fields[0]) {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// gone tells whether a read of /proc failed because the process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}
