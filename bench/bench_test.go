package main

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentilesOfAllThreads(t *testing.T) {
	prefix := filepath.Join(t.TempDir(), "log")
	// client_id transaction_no time script_no time_epoch time_us
	for name, content := range map[string]string{
		prefix + ".77":   "0 1 1000 0 1700000000 1\n0 2 3000 0 1700000000 2\n",
		prefix + ".77.1": "1 1 2000 0 1700000000 3\n1 2 9000 0 1700000001 4\n1 3 4000 0 1700000001 5\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const out = "number of transactions actually processed: 5\ninitial connection time = 20 ms\ntps = 2.5 (without initial connection time)\n"
	before := usage{at: time.Unix(1700000000, 2000), proxy: time.Second}
	after := usage{at: time.Unix(1700000001, 4000), proxy: time.Second + 500*time.Microsecond, switches: 6}
	var m measurement
	err := pgbench{clients: 5}.read(out, prefix, time.Second, before, after, &m)
	if err != nil || m.P50 != 3 || m.P99 != 4 {
		t.Errorf("p50 %v, p99 %v, error %v; want 3, 4 (the fourth of five)", m.P50, m.P99, err)
	}
	if m.CPU != 250 || m.Switches != 3 {
		t.Errorf("%v us and %v switches for each of the two that ended between the readings; want 250, 3", m.CPU, m.Switches)
	}
	if err := (pgbench{clients: 5}).read(out, prefix, 30*time.Millisecond, before, after, &m); !errors.Is(err, errConnecting) {
		t.Errorf("a run of which two thirds went into connecting: %v", err)
	}
	removeLogs(prefix)
	if err := (pgbench{clients: 5}).read(out, prefix, time.Second, before, after, &m); err == nil {
		t.Error("no error without a log")
	}
}

func TestNumberOfPgbench(t *testing.T) {
	out := "number of transactions actually processed: 1234\n" +
		"average connection time = 2.375 ms\ntps = 617.25 (including reconnection times)\n"
	for pattern, want := range map[string]float64{
		`number of transactions actually processed: (\d+)`: 1234,
		`average connection time = ([0-9.]+) ms`:           2.375,
		`tps = ([0-9.]+) `:                                 617.25,
	} {
		if got, err := number(out, pattern); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", pattern, got, err, want)
		}
	}
	if _, err := number(out, `latency average = ([0-9.]+)`); err == nil {
		t.Error("no error for what is not there")
	}
}

func TestProcessTreeHasGrandchildren(t *testing.T) {
	// The shell waits for its child, which waits for its input to end.
	cmd := exec.Command("sh", "-c", "cat; true")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // cat runs
		t.Fatal(err)
	}
	all, err := listProcesses()
	if err != nil {
		t.Fatal(err)
	}
	pids := all.tree(os.Getpid())
	if i := slices.Index(pids, cmd.Process.Pid); pids[0] != os.Getpid() || i < 1 || len(pids) < 3 {
		t.Errorf("processes %v, want this one, its child %d and that one's", pids, cmd.Process.Pid)
	}
	if others := all.tree(os.Getpid(), cmd.Process.Pid); len(others) != len(pids)-2 {
		t.Errorf("processes %v without the shell and its child, of %v", others, pids)
	}
	if cpu, kernel, err := cpuTime(pids[1:]); err != nil || cpu <= 0 || kernel > cpu+tick {
		t.Errorf("processor time %v, in the kernel %v, error %v", cpu, kernel, err)
	}
	if bytes, err := memory(pids); err != nil || bytes <= 0 {
		t.Errorf("memory %d, error %v", bytes, err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := readStat(cmd.Process.Pid); ok || err != nil {
		t.Errorf("a process that is gone: %v, %v", ok, err)
	}
}

func TestReportComparesMedians(t *testing.T) {
	var p report
	load := benchCase{name: "load", unit: "tx"}
	for _, tps := range []float64{90, 300, 100} {
		p.add(load, direct, measurement{Throughput: 2 * tps})
		p.add(load, pgproxy, measurement{Throughput: tps, CPU: 10})
	}
	p.add(load, haproxy, measurement{Throughput: 50})
	p.add(load, haproxy, measurement{Err: "it ended"})
	var table strings.Builder
	p.print(&table, load)
	if r := p.find("load", pgproxy); r.Throughput != 100 || r.VsDirect != 0.5 || r.VsPgbouncer != 0 {
		t.Errorf("median %v, of direct %v, of pgbouncer %v; want 100, 0.5, none", r.Throughput, r.VsDirect, r.VsPgbouncer)
	}
	for _, want := range []string{"100 tx", "0.50", "fails", "haproxy: it ended"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, table.String())
		}
	}
}

// TestTargetsAreOfWhatIsMeasured: a case or system that has another name than in the
// target would never be measured.
func TestTargetsAreOfWhatIsMeasured(t *testing.T) {
	o, err := parseOptions([]string{"-targets"})
	if err != nil {
		t.Fatal(err)
	}
	measured := map[[2]string]bool{}
	for _, st := range stages(o) {
		for _, c := range st.cases {
			for _, d := range st.on(c, o) {
				measured[[2]string{c.name, d.name}] = true
			}
		}
	}
	for _, target := range targets(o) {
		if !measured[[2]string{target.benchCase, target.of}] || target.than != "" && !measured[[2]string{target.benchCase, target.than}] {
			t.Errorf("no stage measures %q of %q and %q", target.benchCase, target.of, target.than)
		}
	}
}

func TestTargetIsJudged(t *testing.T) {
	var p report
	load := benchCase{name: "load"}
	p.add(load, pgproxy, measurement{CPU: 11, Throughput: 70})
	p.add(load, pgbouncer, measurement{CPU: 10, Throughput: 100})
	p.add(load, pgpool, measurement{Err: "it ended"})
	for _, c := range []struct {
		target target
		want   string
	}{
		{target{metric: perUnit, than: pgbouncer, most: 1.10}, "met"},
		{target{metric: perUnit, than: pgbouncer, most: 1.09}, "missed"},
		{target{metric: throughput, than: pgbouncer, least: 0.7}, "met"},
		{target{metric: throughput, than: pgbouncer, least: 0.8}, "missed"},
		{target{metric: perUnit, most: 10}, "missed"},
		{target{metric: perUnit, than: pgpool, most: 9}, "pgpool: it ended"},
	} {
		c.target.benchCase, c.target.of = "load", pgproxy
		if got := c.target.judge(&p).verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.target, got, c.want)
		}
	}
}

func TestSystemCallsAreRead(t *testing.T) {
	trace := &strace{file: filepath.Join(t.TempDir(), "trace")}
	const table = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 57.02    1.591258         319      4978       213 futex
  6.97    0.194507          15     12181           write
------ ----------- ----------- --------- --------- ----------------
100.00    1.785765         104     17159       213 total
`
	if err := os.WriteFile(trace.file, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := trace.calls(); err != nil || !maps.Equal(all, map[string]float64{"futex": 4978, "write": 12181}) {
		t.Errorf("%v, %v", all, err)
	}
	if got := calls(map[string]float64{"futex": 0.5, "write": 2, "brk": 0.01}); got != "write 2.00, futex 0.50" {
		t.Errorf("%q", got)
	}
}

func TestTablesGoIntoTheirPlace(t *testing.T) {
	var p report
	load := benchCase{name: "load", unit: "tx"}
	p.add(load, pgbouncer, measurement{CPU: 10})
	p.add(load, pgproxy, measurement{CPU: 11})
	p.add(load, pgpool, measurement{Err: "it ended"})
	document := filepath.Join(t.TempDir(), "performance.md")
	for _, old := range []string{"", "what was measured before\n"} {
		if err := os.WriteFile(document, []byte("above\n"+markBegin+old+markEnd+"below\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.writeMarkdown(document); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		got := string(content)
		if !strings.HasPrefix(got, "above\n"+markBegin) || !strings.HasSuffix(got, markEnd+"below\n") || strings.Contains(got, "before") {
			t.Errorf("the document is\n%s", got)
		}
		for _, want := range []string{"| | pgbouncer | pgpool | pgproxy |", "| load | 10.0 | fails | 11.0 |", "- load, pgpool: `it ended`"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	}
	if err := os.WriteFile(document, []byte("no place\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.writeMarkdown(document); err == nil {
		t.Error("no error for a document without the place")
	}
}
