package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
)

// crowd is what one system does with many clients on few server connections.
type crowd struct {
	System  string    `json:"system"`
	Clients int       `json:"clients"`
	Servers int       `json:"server_connections"` // the bound that was configured
	Memory  float64   `json:"bytes_per_idle_client,omitempty"`
	Runs    []waiting `json:"runs"`
	Err     string    `json:"error,omitempty"`
}

// waiting is a run of pgbench with all clients. The time of a transaction is nearly all
// waiting for a server connection: with a hundred clients for each, 99 parts of 100.
type waiting struct {
	Protocol   string  `json:"protocol"`
	Err        string  `json:"error,omitempty"`
	Throughput float64 `json:"throughput"` // transactions per second
	Mean       float64 `json:"mean_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
}

// crowdTransactions are run by each client. A time would begin before all are connected
// (pgbench -T), and some seconds go by until they are.
const crowdTransactions = 20

// crowdSystems are those that share server connections between transactions, with
// that many of them. All go to the primary, so that the bound is one for all.
func crowdSystems(servers int) []definition {
	return []definition{
		{name: "pgbouncer-transaction", command: pgbouncerCommand("transaction", servers)},
		{name: "pgproxy-transaction", command: pgproxyCommand("pgproxy-crowd", "off", fmt.Sprintf("pool: {mode: transaction, size: %d, wait: 1m}\n", servers))},
	}
}

// measureCrowd runs the crowd on each system alone, and prints the table.
func measureCrowd(ctx context.Context, r *rig, o options) error {
	if err := raiseFiles(uint64(2*o.crowd + 1000)); err != nil {
		return err
	}
	var all []crowd
	for _, d := range crowdSystems(o.crowdServers) {
		if !d.wanted(o.systems) {
			continue
		}
		s, err := r.start(ctx, d, o.crowd+20)
		if err != nil {
			return err
		}
		c := crowd{System: d.name, Clients: o.crowd, Servers: o.crowdServers}
		c.measure(ctx, r, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.stop(s)
		c.print(os.Stdout)
		all = append(all, c)
	}
	return writeJSON(o.output, all)
}

func (c *crowd) measure(ctx context.Context, r *rig, s *system) {
	m, err := idleMemory(ctx, s, c.Clients)
	if err != nil {
		c.Err = err.Error()
	}
	c.Memory = m.SessionMemory
	for _, protocol := range []string{"simple", "extended", "prepared"} {
		fmt.Fprintf(os.Stderr, "%s: %d clients, %s\n", c.System, c.Clients, protocol)
		run, err := c.pgbench(ctx, r, s, protocol)
		run.Protocol = protocol
		if err != nil {
			run.Err = err.Error()
		}
		c.Runs = append(c.Runs, run)
	}
}

// pgbench runs it with all clients. It has succeeded only when none of them had an
// error.
func (c *crowd) pgbench(ctx context.Context, r *rig, s *system, protocol string) (waiting, error) {
	prefix := filepath.Join(r.dir, "crowd-log")
	defer removeLogs(prefix)
	var stderr strings.Builder
	cmd := r.client(ctx, s.port, "pgbench", "-n", "-S", "-M", protocol, "-c", strconv.Itoa(c.Clients), "-j", "2",
		"-t", strconv.Itoa(crowdTransactions), "--log", "--log-prefix="+prefix)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return waiting{}, fmt.Errorf("run pgbench: %w: %s", err, line)
	}
	if strings.Contains(stderr.String(), "aborted") {
		return waiting{}, fmt.Errorf("run pgbench: %s", stderr.String())
	}
	var w waiting
	if w.Throughput, err = number(out, `tps = ([0-9.]+) `); err != nil {
		return w, fmt.Errorf("%w: %s%s", err, out, stderr.String())
	}
	times, err := transactionTimes(prefix)
	if err != nil {
		return w, err
	}
	for _, t := range times {
		w.Mean += t / float64(len(times))
	}
	w.P99, w.Max = times[int(0.99*float64(len(times)-1))], times[len(times)-1]
	return w, nil
}

// raiseFiles lets this process and its children open so many files.
func raiseFiles(files uint64) error {
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	if limit.Max < files {
		return fmt.Errorf("the limit of open files is %d and cannot be raised to %d: see ulimit -Hn", limit.Max, files)
	}
	// Set explicitly, also where it is as high: the children get what was set.
	limit.Cur = max(limit.Cur, files)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	return nil
}

func (c *crowd) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %d clients on %d server connections, %.1f KiB for an idle client\n", c.System, c.Clients, c.Servers, c.Memory/1024)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "protocol\ttx per second\tmean wait ms\tp99 ms\tmax ms\tp99 of mean\t")
	for _, r := range c.Runs {
		if r.Err != "" {
			fmt.Fprintf(t, "%s\tfails%s\n", r.Protocol, strings.Repeat("\t", 5))
			continue
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.1f\t%.1f\t%.1f\t%.2f\t\n", r.Protocol, r.Throughput, r.Mean, r.P99, r.Max, r.P99/r.Mean)
	}
	_ = t.Flush() // nothing can be done about a terminal that does not take it
	if c.Err != "" {
		fmt.Fprintln(w, "  idle clients: "+c.Err)
	}
	for _, r := range c.Runs {
		if r.Err != "" {
			fmt.Fprintf(w, "  %s: %s\n", r.Protocol, r.Err)
		}
	}
}
