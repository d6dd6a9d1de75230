package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the report was made.
type machine struct {
	CPUs      int    `json:"cpus"`
	Processor string `json:"processor"`
	Kernel    string `json:"kernel"`
}

// version is what a program says about itself; pgproxy names its compiler too.
type version struct {
	Program string `json:"program"`
	Version string `json:"version"`
}

func newReport(ctx context.Context, r *rig, o options) *report {
	return &report{
		Started: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(), Versions: r.versions(ctx),
		Rounds: o.rounds, Seconds: o.duration.Seconds(), Scale: o.scale,
	}
}

func thisMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), Processor: "unknown", Kernel: "unknown"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	info, _ := os.ReadFile("/proc/cpuinfo") // other architectures have other keys
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.Processor = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// versions asks every program that is measured, or measured with.
func (r *rig) versions(ctx context.Context) []version {
	all := []version{{"postgres", firstLine(r.cluster.Primary().QueryValue(ctx, "postgres", "SELECT 'PostgreSQL ' || current_setting('server_version')"))}}
	for _, p := range []struct{ name, flag string }{{"pgbouncer", "--version"}, {"pgpool", "--version"}, {"haproxy", "-v"}} {
		path, err := program(p.name)
		if err != nil {
			continue // where it is needed its absence is an error
		}
		out, err := exec.CommandContext(ctx, path, p.flag).CombinedOutput() // pgpool writes to standard error
		all = append(all, version{p.name, firstLine(string(out), err)})
	}
	out, err := exec.CommandContext(ctx, r.pgproxy, "version").Output()
	all = append(all, version{"pgproxy", firstLine(string(out), err)})
	return all
}

func firstLine(text string, err error) string {
	if err != nil {
		return "unknown: " + err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
