package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// logs finds those of all of pgbench's threads.
func logs(prefix string) []string {
	all, _ := filepath.Glob(prefix + ".*") // the pattern is our own
	return all
}

// logged tells whether pgbench has written transactions already; it does so when 4 KB
// have come together.
func logged(prefix string) bool {
	return slices.ContainsFunc(logs(prefix), func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.Size() > 0
	})
}

func removeLogs(prefix string) {
	for _, name := range logs(prefix) {
		_ = os.Remove(name) // the directory goes in the end anyway
	}
}

// readLogs returns the times of all transactions in milliseconds, sorted and at least
// one, and how many have ended between two moments.
func readLogs(prefix string, from, to time.Time) (times []float64, within int, err error) {
	for _, name := range logs(prefix) {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, fmt.Errorf("read pgbench's log: %w", err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			took, ended, err := parseLine(lines.Text())
			if err != nil {
				return nil, 0, fmt.Errorf("read pgbench's log: line %q: %w", lines.Text(), err)
			}
			times = append(times, took)
			if ended.After(from) && !ended.After(to) {
				within++
			}
		}
		if err := lines.Err(); err != nil {
			return nil, 0, fmt.Errorf("read pgbench's log: %w", err)
		}
	}
	if len(times) == 0 {
		return nil, 0, errors.New("read pgbench's logs: no transaction in them")
	}
	slices.Sort(times)
	return times, within, nil
}

// parseLine reads client, transaction, time in microseconds, script, and the seconds
// and microseconds of the end (pgbench, "Per-Transaction Logging").
func parseLine(line string) (took float64, ended time.Time, err error) {
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return 0, ended, errors.New("too short")
	}
	us, err1 := strconv.ParseFloat(fields[2], 64)
	sec, err2 := strconv.ParseInt(fields[4], 10, 64)
	usec, err3 := strconv.ParseInt(fields[5], 10, 64)
	return us / 1000, time.Unix(sec, usec*1000), errors.Join(err1, err2, err3)
}
