package main

import (
	"context"
	"slices"
)

// measurement is one run of one case on one system.
type measurement struct {
	Units         float64 `json:"units,omitempty"`             // done while the clocks were read
	Throughput    float64 `json:"throughput,omitempty"`        // units per second
	P50           float64 `json:"p50_ms,omitempty"`            // of a transaction, in milliseconds
	P99           float64 `json:"p99_ms,omitempty"`            // likewise
	P999          float64 `json:"p999_ms,omitempty"`           // likewise
	Connect       float64 `json:"connect_ms,omitempty"`        // mean time to connect, where each transaction does
	CPU           float64 `json:"cpu_us,omitempty"`            // processor time of the proxy per unit, in microseconds
	Kernel        float64 `json:"kernel_share,omitempty"`      // of CPU
	ServerCPU     float64 `json:"server_cpu_us,omitempty"`     // likewise of all PostgreSQL servers
	ClientCPU     float64 `json:"client_cpu_us,omitempty"`     // likewise of the client
	Switches      float64 `json:"context_switches,omitempty"`  // of the proxy per unit
	Cores         float64 `json:"cores,omitempty"`             // that the proxy kept busy
	SessionMemory float64 `json:"bytes_per_session,omitempty"` // what an idle session adds to the proxy
	TotalMemory   float64 `json:"bytes_total,omitempty"`       // of the proxy with all idle sessions
	IdleCPU       float64 `json:"idle_core_percent,omitempty"` // of one core, with all of them idle
	Err           string  `json:"error,omitempty"`             // why there is no number
}

// numbers are the fields that have a median.
func (m *measurement) numbers() []*float64 {
	return []*float64{
		&m.Units, &m.Throughput, &m.P50, &m.P99, &m.P999, &m.Connect, &m.CPU, &m.Kernel, &m.ServerCPU, &m.ClientCPU,
		&m.Switches, &m.Cores, &m.SessionMemory, &m.TotalMemory, &m.IdleCPU,
	}
}

// medians of each number by itself. A system that failed once has failed: its
// other runs would be compared as if all was well.
func medians(runs []measurement) (all measurement) {
	for _, m := range runs {
		if m.Err != "" {
			return measurement{Err: m.Err}
		}
	}
	for i, into := range all.numbers() {
		values := make([]float64, 0, len(runs))
		for _, m := range runs {
			values = append(values, *m.numbers()[i])
		}
		*into = median(values)
	}
	return all
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

// benchCase is one load; run puts it on a system and enters what came of it.
type benchCase struct {
	name    string
	unit    string   // tx, MB; session where it is memory that is measured
	systems []string // that it makes sense for; empty: all
	run     func(ctx context.Context, t *trial) error
}

// trial is one run of a case on a system.
type trial struct {
	*rig
	on      *system
	options options
	tool    tool // nil: none
	begun   bool // what tool does
	measurement
}

// tool watches a system while it works, between the two readings of the clocks.
type tool interface {
	begin(ctx context.Context, s *system) error
	end() error
}

// measure runs a case once.
func (c benchCase) measure(ctx context.Context, t *trial) measurement {
	if err := c.run(ctx, t); err != nil {
		return measurement{Err: err.Error()}
	}
	return t.measurement
}
