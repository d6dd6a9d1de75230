package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

const (
	// maxClients is the room that systems are started with: the largest case, the
	// probes of our own, and pgpool's need of a process for each.
	maxClients = 80
	// idleSessions are opened for the memory case.
	idleSessions = 500
	// resultBytes and copyBytes are the sizes of the bulk cases.
	resultBytes = 200e6
	copyBytes   = 100e6
	lineBytes   = 1000 // of one row of either
)

// measurement is one run of one case on one system.
type measurement struct {
	Throughput    float64 `json:"throughput,omitempty"`        // units per second
	P50           float64 `json:"p50_ms,omitempty"`            // of a transaction, in milliseconds
	P99           float64 `json:"p99_ms,omitempty"`            // likewise
	Connect       float64 `json:"connect_ms,omitempty"`        // mean time to connect, where each transaction does
	CPU           float64 `json:"cpu_us,omitempty"`            // processor time of the proxy per unit, in microseconds
	SessionMemory float64 `json:"bytes_per_session,omitempty"` // what an idle session adds to the proxy
	TotalMemory   float64 `json:"bytes_total,omitempty"`       // of the proxy with all idle sessions
	Err           string  `json:"error,omitempty"`             // why there is no number
}

// benchCase is one load; run puts it on a system and returns how many units were
// done in which time.
type benchCase struct {
	name string
	unit string // tx, MB
	run  func(ctx context.Context, r *rig, s *system, o options, m *measurement) (units float64, err error)
}

// cases in the order of the report; the memory case stands by itself.
func cases() []benchCase {
	var all []benchCase
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 16, 64} {
			all = append(all, pgbenchCase(fmt.Sprintf("select %s, c=%d", mode, clients), clients, "-S", "-M", mode))
		}
	}
	return append(all,
		pgbenchCase("tpc-b, c=16", 16, "-b", "tpcb-like"),
		pgbenchCase("connect per transaction, c=16", 16, "-S", "-C"),
		benchCase{name: "result of 200 MB", unit: "MB", run: runResult},
		benchCase{name: "copy in of 100 MB", unit: "MB", run: runCopy},
	)
}

// measureCase runs a case once and adds what it cost the proxy.
func measureCase(ctx context.Context, r *rig, s *system, c benchCase, o options) measurement {
	var m measurement
	fail := func(err error) measurement { return measurement{Err: err.Error()} }
	before, err := s.cpu()
	if err != nil {
		return fail(err)
	}
	units, err := c.run(ctx, r, s, o, &m)
	if err != nil {
		return fail(err)
	}
	after, err := s.cpu()
	if err != nil {
		return fail(err)
	}
	m.CPU = float64((after - before).Microseconds()) / units
	return m
}

// cpu returns the processor time that the proxy has used so far.
func (s *system) cpu() (time.Duration, error) {
	pids, err := s.pids()
	if err != nil {
		return 0, err
	}
	return cpuTime(pids)
}

// pgbenchCase is a run of pgbench.
func pgbenchCase(name string, clients int, args ...string) benchCase {
	return benchCase{name: name, unit: "tx", run: func(ctx context.Context, r *rig, s *system, o options, m *measurement) (float64, error) {
		prefix := filepath.Join(r.dir, "pgbench-log")
		all := append([]string{
			"-n", "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)),
			"-T", strconv.Itoa(int(o.duration.Seconds())), "--log", "--log-prefix=" + prefix,
		}, args...)
		defer removeLogs(prefix)
		var stderr strings.Builder
		cmd := r.client(ctx, s.port, "pgbench", all...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
			return 0, fmt.Errorf("run pgbench: %w: %s", err, line)
		}
		done, err := number(out, `number of transactions actually processed: (\d+)`)
		if err != nil {
			return 0, err
		}
		if m.Throughput, err = number(out, `tps = ([0-9.]+) `); err != nil {
			return 0, err
		}
		if slices.Contains(args, "-C") {
			if m.Connect, err = number(out, `average connection time = ([0-9.]+) ms`); err != nil {
				return 0, err
			}
		}
		m.P50, m.P99, err = percentiles(prefix)
		return done, err
	}}
}

// number finds a number in what pgbench has printed.
func number(out []byte, pattern string) (float64, error) {
	found := regexp.MustCompile(pattern).FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("read pgbench's output: no %q in it", pattern)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// percentiles reads pgbench's logs, one per thread: client, transaction, time in
// microseconds, ... (pgbench, "Per-Transaction Logging").
func percentiles(prefix string) (p50, p99 float64, err error) {
	times, err := transactionTimes(prefix)
	if err != nil {
		return 0, 0, err
	}
	at := func(q float64) float64 { return times[int(q*float64(len(times)-1))] }
	return at(0.50), at(0.99), nil
}

// transactionTimes are those of all logs in milliseconds, sorted; there is at least one.
func transactionTimes(prefix string) ([]float64, error) {
	logs, err := filepath.Glob(prefix + ".*")
	if err != nil {
		return nil, fmt.Errorf("find pgbench's logs: %w", err)
	}
	var times []float64
	for _, name := range logs {
		if times, err = appendTimes(times, name); err != nil {
			return nil, err
		}
	}
	if len(times) == 0 {
		return nil, errors.New("read pgbench's logs: no transaction in them")
	}
	slices.Sort(times)
	return times, nil
}

func appendTimes(times []float64, name string) ([]float64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read pgbench's log: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			return nil, fmt.Errorf("read pgbench's log: line %q", lines.Text())
		}
		us, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			return nil, fmt.Errorf("read pgbench's log: %w", err)
		}
		times = append(times, us/1000)
	}
	return times, lines.Err()
}

func removeLogs(prefix string) {
	logs, _ := filepath.Glob(prefix + ".*") // the pattern is our own
	for _, name := range logs {
		_ = os.Remove(name) // the directory goes in the end anyway
	}
}

// runResult reads a large result and throws it away.
func runResult(ctx context.Context, _ *rig, s *system, _ options, m *measurement) (float64, error) {
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	started := time.Now()
	query := fmt.Sprintf("SELECT repeat('x', %d) FROM generate_series(1, %d)", lineBytes, int(resultBytes/lineBytes))
	results := conn.PgConn().Exec(ctx, query)
	var got int
	for results.NextResult() {
		rows := results.ResultReader()
		for rows.NextRow() {
			got += len(rows.Values()[0])
		}
	}
	if err := results.Close(); err != nil {
		return 0, fmt.Errorf("read large result: %w", err)
	}
	if got != resultBytes {
		return 0, fmt.Errorf("read large result: %d bytes instead of %d", got, int(resultBytes))
	}
	m.Throughput = resultBytes / 1e6 / time.Since(started).Seconds()
	return resultBytes / 1e6, nil
}

// runCopy loads a table that was emptied before.
func runCopy(ctx context.Context, r *rig, s *system, _ options, m *measurement) (float64, error) {
	if err := r.cluster.Primary().Exec(ctx, pgtest.AppDatabase, "TRUNCATE bench_copy"); err != nil {
		return 0, err
	}
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	line := strings.Repeat("x", lineBytes-1) + "\n"
	chunk := strings.Repeat(line, 64)
	lines := int(copyBytes / lineBytes)
	readers := make([]io.Reader, 0, lines/64+1)
	for left := lines; left > 0; left -= 64 {
		readers = append(readers, strings.NewReader(chunk[:min(left, 64)*lineBytes]))
	}
	started := time.Now()
	var tag pgconn.CommandTag
	if tag, err = conn.PgConn().CopyFrom(ctx, io.MultiReader(readers...), "COPY bench_copy FROM STDIN"); err != nil {
		return 0, fmt.Errorf("copy in: %w", err)
	}
	if tag.RowsAffected() != int64(lines) {
		return 0, fmt.Errorf("copy in: %d rows instead of %d", tag.RowsAffected(), lines)
	}
	m.Throughput = copyBytes / 1e6 / time.Since(started).Seconds()
	return copyBytes / 1e6, nil
}
