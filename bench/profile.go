package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// profileTime is that of a run whose processor time is profiled, with a hundred samples
// for each second of it.
const profileTime = 10 * time.Second

// profile runs the case again under each tool that is there, which makes the system
// slower: these runs do not count, and one that fails loses its profile only.
func (c benchCase) profile(ctx context.Context, r *rig, s *system, o options, report *report) {
	result := report.find(c.name, s.name)
	if o.profile == "" || s.cmd == nil || result.Err != "" { // there is nothing to explain
		return
	}
	name := filepath.Join(o.profile, regexp.MustCompile(`[^A-Za-z0-9.=-]+`).ReplaceAllString(c.name+"."+s.name, "-"))
	if strings.HasPrefix(s.name, pgproxy) {
		o := o
		operator := filepath.Join(filepath.Dir(o.pgproxy), "pgproxy-pcp") // built with it
		o.duration = max(o.duration, profileTime)
		p := &processorProfile{operator: operator, file: name + ".pprof", socket: r.socket(s.name), length: o.duration * 4 / 5}
		if m := c.measure(ctx, &trial{rig: r, on: s, options: o, tool: p}); m.Err != "" {
			fmt.Fprintf(os.Stderr, "no profile of %s on %s: %s\n", c.name, s.name, m.Err)
		}
	}
	if _, err := exec.LookPath("strace"); err != nil {
		return
	}
	trace := &strace{file: name + ".strace"}
	m := c.measure(ctx, &trial{rig: r, on: s, options: o, tool: trace})
	calls, err := trace.calls()
	if m.Err != "" || err != nil {
		fmt.Fprintf(os.Stderr, "no system calls of %s on %s: %s %v\n", c.name, s.name, m.Err, err)
		return
	}
	result.Syscalls = map[string]float64{}
	for name, n := range calls {
		result.Syscalls[name] = n / m.Units
	}
}

// socket is the operator's interface of a pgproxy.
func (r *rig) socket(system string) string { return filepath.Join(r.dir, system+".sock") }

// processorProfile asks a pgproxy for a profile of some length.
type processorProfile struct {
	operator string // the program to ask with
	file     string
	socket   string
	length   time.Duration
	cmd      *exec.Cmd
	said     bytes.Buffer
}

func (p *processorProfile) begin(ctx context.Context, _ *system) error {
	p.cmd = exec.CommandContext(ctx, p.operator, "--socket", p.socket, "profile", "--for", p.length.String(), p.file)
	p.cmd.Stderr = &p.said
	return p.cmd.Start()
}

func (p *processorProfile) end() error {
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("take profile: %w: %s", err, bytes.TrimSpace(p.said.Bytes()))
	}
	return nil
}

// strace counts the system calls of all threads of a system (strace(1), -c).
type strace struct {
	file string
	cmd  *exec.Cmd
}

func (t *strace) begin(ctx context.Context, s *system) error {
	all, err := listProcesses()
	if err != nil {
		return err
	}
	args := []string{"-c", "-f", "-o", t.file}
	for _, pid := range all.tree(s.cmd.Process.Pid) {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	t.cmd = exec.CommandContext(ctx, "strace", args...)
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := t.cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start strace: %w", err)
	}
	if err := t.cmd.Start(); err != nil {
		return fmt.Errorf("start strace: %w", err)
	}
	// It says so when it has attached.
	if n, err := stderr.Read(make([]byte, 1<<16)); n == 0 {
		return errors.Join(fmt.Errorf("start strace: %w", err), t.cmd.Wait())
	}
	return nil
}

func (t *strace) end() error {
	if err := t.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("stop strace: %w", err)
	}
	err := t.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); ok { // it ends by the signal that it was sent
		return nil
	}
	return err
}

// calls reads strace's table: share of time, seconds, microseconds, calls, errors or
// nothing, name.
func (t *strace) calls() (map[string]float64, error) {
	content, err := os.ReadFile(t.file)
	if err != nil {
		return nil, fmt.Errorf("read system calls: %w", err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[len(fields)-1] == "total" {
			continue
		}
		if n, err := strconv.ParseFloat(fields[3], 64); err == nil { // not of the heading
			all[fields[len(fields)-1]] = n
		}
	}
	return all, nil
}
