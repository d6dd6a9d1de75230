package main

import (
	"context"
	"errors"
	"os"
	"time"
)

// usage is what a system has used so far, and those around it.
type usage struct {
	at       time.Time
	proxy    time.Duration // processor time of all of the proxy's processes
	kernel   time.Duration // part of it
	switches int64         // context switches of the proxy's threads that live
	servers  time.Duration // of all PostgreSQL servers
	client   time.Duration // of pgbench, or of this process where it is the client itself
}

// usage reads the clocks; a client of 0 has none. Everything that descends from this
// process and is neither a proxy nor the client belongs to a server.
func (r *rig) usage(s *system, client int) (u usage, err error) {
	all, err := listProcesses()
	if err != nil {
		return u, err
	}
	others := []int{client}
	for _, proxy := range r.running {
		others = append(others, proxy.cmd.Process.Pid)
	}
	u.at = time.Now()
	if s.cmd != nil {
		tree := all.tree(s.cmd.Process.Pid)
		if u.proxy, u.kernel, err = cpuTime(tree); err != nil {
			return u, err
		}
		if u.switches, err = switches(tree); err != nil {
			return u, err
		}
	}
	if client != 0 {
		if u.client, err = cpuClock(client); err != nil {
			return u, err
		}
	}
	u.servers, _, err = cpuTime(all.tree(os.Getpid(), others...)[1:])
	return u, err
}

// begin reads the clocks where the counting begins.
func (t *trial) begin(ctx context.Context, client int) (usage, error) {
	if t.tool != nil {
		if err := t.tool.begin(ctx, t.on); err != nil {
			return usage{}, err
		}
		t.begun = true
	}
	return t.usage(t.on, client)
}

// end reads the clocks where the counting ends.
func (t *trial) end(client int) (usage, error) {
	u, err := t.usage(t.on, client)
	if err != nil || t.tool == nil {
		return u, err
	}
	if !t.begun {
		return u, errors.New("the run was over before it was seen to begin")
	}
	return u, t.tool.end()
}

// spent enters what was used between two readings, for so many units.
func (m *measurement) spent(before, after usage, units float64) {
	m.Units = units
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / units }
	m.CPU = each(after.proxy - before.proxy)
	m.Kernel = min(1, share((after.kernel-before.kernel).Seconds(), (after.proxy-before.proxy).Seconds()))
	m.ServerCPU = each(after.servers - before.servers)
	m.ClientCPU = each(after.client - before.client)
	m.Switches = float64(after.switches-before.switches) / units
	m.Cores = (after.proxy - before.proxy).Seconds() / after.at.Sub(before.at).Seconds()
}
