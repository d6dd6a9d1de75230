package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pgbench is a load of it.
type pgbench struct {
	clients      int
	transactions int  // of each client; 0: as many as the time allows
	tls          bool // to the system
	trusted      bool // as the user who needs no password
	args         []string
}

// beforeEnd is when the clocks are read the last time: before clients disconnect.
const beforeEnd = 100 * time.Millisecond

// errConnecting is a run whose time went into the connecting of its clients.
var errConnecting = errors.New("the clients connected for more than half of the run")

// run repeats what was no measurement: pgbench's time begins before its clients have
// connected, and pgpool-II takes seconds for 64 of them.
func (l pgbench) run(ctx context.Context, t *trial) error {
	const most = 16 * time.Second
	for duration := t.options.duration; ; duration *= 2 {
		err := l.once(ctx, t, duration)
		if !errors.Is(err, errConnecting) || duration >= most {
			return err
		}
	}
}

// once is one run of pgbench. What was used is counted from the first transactions of
// its log on, so that the price of connecting is not in that of a transaction.
func (l pgbench) once(ctx context.Context, t *trial, duration time.Duration) error {
	prefix := filepath.Join(t.dir, "pgbench-log")
	defer removeLogs(prefix)
	var stdout, stderr strings.Builder
	cmd := t.client(ctx, t.on.port, l.tls, "pgbench", l.arguments(prefix, duration)...)
	if l.trusted {
		cmd.Env = append(cmd.Env, "PGUSER="+trustedUser)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var end <-chan time.Time
	if l.transactions == 0 {
		end = time.After(duration - beforeEnd)
	}
	before, after, err := t.around(ctx, cmd, func() bool { return logged(prefix) }, end)
	if err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return fmt.Errorf("run pgbench: %w: %s", err, line)
	}
	if i := strings.Index(stderr.String(), "ERROR"); i >= 0 { // pgbench goes on after some
		line, _, _ := strings.Cut(stderr.String()[i:], "\n")
		return fmt.Errorf("run pgbench: %s", line)
	}
	return l.read(stdout.String(), prefix, duration, before, after, &t.measurement)
}

func (l pgbench) arguments(prefix string, duration time.Duration) []string {
	length := []string{"-T", strconv.Itoa(int(duration.Seconds()))}
	if l.transactions > 0 {
		length = []string{"-t", strconv.Itoa(l.transactions)}
	}
	return slices.Concat([]string{
		"-n", "-c", strconv.Itoa(l.clients), "-j", strconv.Itoa(min(l.clients, 2)), "--log", "--log-prefix=" + prefix,
	}, length, l.args)
}

// read takes the numbers from what pgbench has printed and logged.
func (l pgbench) read(out, prefix string, duration time.Duration, before, after usage, m *measurement) (err error) {
	done, err := number(out, `number of transactions actually processed: (\d+)`)
	if err != nil {
		return err
	}
	if done == 0 {
		return errConnecting
	}
	if m.Throughput, err = number(out, `tps = ([0-9.]+) `); err != nil {
		return err
	}
	if slices.Contains(l.args, "-C") {
		m.Connect, err = number(out, `average connection time = ([0-9.]+) ms`)
	} else if l.transactions == 0 {
		var connecting float64
		connecting, err = number(out, `initial connection time = ([0-9.]+) ms`)
		if err == nil && connecting > float64(duration.Milliseconds())/2 {
			return errConnecting
		}
	}
	if err != nil {
		return err
	}
	times, within, err := readLogs(prefix, before.at, after.at)
	if err != nil {
		return err
	}
	at := func(q float64) float64 { return times[int(q*float64(len(times)-1))] }
	m.P50, m.P99, m.P999 = at(0.50), at(0.99), at(0.999)
	if within == 0 {
		return errConnecting
	}
	m.spent(before, after, float64(within))
	return nil
}

// around runs a client and reads the clocks when begun is true for the first time, or
// before the start where that is never seen, and at the end, but for the client's way
// out.
func (t *trial) around(ctx context.Context, cmd *exec.Cmd, begun func() bool, end <-chan time.Time) (before, after usage, err error) {
	if before, err = t.usage(t.on, 0); err != nil {
		return before, after, err
	}
	if err := cmd.Start(); err != nil {
		return before, after, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for seen := false; ; {
		select {
		case <-poll.C:
			if seen || !begun() {
				continue
			}
			seen = true
			if before, err = t.begin(ctx, cmd.Process.Pid); err != nil {
				return before, after, errors.Join(err, <-ended)
			}
		case <-end:
			after, err = t.end(cmd.Process.Pid)
			err = errors.Join(err, <-ended)
			if err == nil && after.client == 0 { // it was faster
				after.client = processTime(cmd.ProcessState)
			}
			return before, after, err
		case err := <-ended:
			if err != nil {
				return before, after, err
			}
			after, err = t.end(0)
			after.client = processTime(cmd.ProcessState)
			return before, after, err
		}
	}
}

func processTime(p *os.ProcessState) time.Duration { return p.UserTime() + p.SystemTime() }

// number finds a number in what pgbench has printed.
func number(out, pattern string) (float64, error) {
	found := regexp.MustCompile(pattern).FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("read pgbench's output: no %q in it", pattern)
	}
	return strconv.ParseFloat(found[1], 64)
}
