package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report collects the measurements and becomes the table and the JSON file.
type report struct {
	Started    time.Time `json:"started"`
	CPUs       int       `json:"cpus"`
	PostgreSQL string    `json:"postgresql"`
	Rounds     int       `json:"rounds"`
	Seconds    float64   `json:"seconds"` // of one run of pgbench
	Scale      int       `json:"scale"`
	Results    []*result `json:"results"`
}

// result is one case on one system: the medians of its rounds.
type result struct {
	Case   string `json:"case"`
	System string `json:"system"`
	Unit   string `json:"unit"`
	measurement
	VsDirect    float64       `json:"vs_direct,omitempty"`    // throughput, as a share of the primary's own
	VsPgbouncer float64       `json:"vs_pgbouncer,omitempty"` // throughput or memory, as a share of PgBouncer's in session mode
	Runs        []measurement `json:"runs"`
}

func newReport(ctx context.Context, r *rig, o options) *report {
	version, err := r.cluster.Primary().QueryValue(ctx, "postgres", "SHOW server_version")
	if err != nil {
		version = "unknown: " + err.Error()
	}
	return &report{
		Started: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), PostgreSQL: version,
		Rounds: o.rounds, Seconds: o.duration.Seconds(), Scale: o.scale,
	}
}

// find returns the result of a case on a system, nil when there is none.
func (p *report) find(name, system string) *result {
	for _, r := range p.Results {
		if r.Case == name && r.System == system {
			return r
		}
	}
	return nil
}

// add takes one run and computes the medians anew.
func (p *report) add(name, unit, system string, m measurement) {
	r := p.find(name, system)
	if r == nil {
		r = &result{Case: name, System: system, Unit: unit}
		p.Results = append(p.Results, r)
	}
	r.Runs = append(r.Runs, m)
	r.measurement = medians(r.Runs)
}

// medians of each number by itself. A system that failed once has failed: its
// other runs would be compared as if all was well.
func medians(runs []measurement) measurement {
	for _, m := range runs {
		if m.Err != "" {
			return measurement{Err: m.Err}
		}
	}
	of := func(field func(measurement) float64) float64 {
		values := make([]float64, 0, len(runs))
		for _, m := range runs {
			values = append(values, field(m))
		}
		return median(values)
	}
	return measurement{
		Throughput:    of(func(m measurement) float64 { return m.Throughput }),
		P50:           of(func(m measurement) float64 { return m.P50 }),
		P99:           of(func(m measurement) float64 { return m.P99 }),
		Connect:       of(func(m measurement) float64 { return m.Connect }),
		CPU:           of(func(m measurement) float64 { return m.CPU }),
		SessionMemory: of(func(m measurement) float64 { return m.SessionMemory }),
		TotalMemory:   of(func(m measurement) float64 { return m.TotalMemory }),
	}
}

// size is the number by which systems are compared; a case has one of the two.
func (m measurement) size() float64 { return m.Throughput + m.SessionMemory }

// compare fills in the ratios of a case.
func (p *report) compare(name string) {
	ratio := func(r *result, to string) float64 {
		other := p.find(name, to)
		if other == nil || other.size() == 0 {
			return 0
		}
		return r.size() / other.size()
	}
	for _, r := range p.Results {
		if r.Case == name {
			r.VsDirect, r.VsPgbouncer = ratio(r, direct), ratio(r, pgbouncer)
		}
	}
}

// print writes the table of one case.
func (p *report) print(w io.Writer, name string) {
	p.compare(name)
	fmt.Fprintf(w, "\n%s\n", name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	columns := 8 // a line with fewer would end the alignment
	if name == idleCase {
		columns = 4
		fmt.Fprintln(t, "system\tKiB/session\tMiB in all\tof pgbouncer\t")
	} else {
		fmt.Fprintln(t, "system\tper second\tp50 ms\tp99 ms\tconnect ms\tcpu us/unit\tof direct\tof pgbouncer\t")
	}
	var failures []string
	for _, system := range systemNames() {
		r := p.find(name, system)
		switch {
		case r == nil:
		case r.Err != "":
			fmt.Fprintf(t, "%s\tfails%s\n", system, strings.Repeat("\t", columns-1))
			failures = append(failures, system+": "+r.Err)
		case name == idleCase:
			fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%s\t\n", system, r.SessionMemory/1024, r.TotalMemory/(1<<20), cell("%.2f", r.VsPgbouncer))
		default:
			fmt.Fprintf(t, "%s\t%.0f %s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", system, r.Throughput, r.Unit,
				cell("%.3f", r.P50), cell("%.3f", r.P99), cell("%.3f", r.Connect), cell("%.1f", r.CPU),
				cell("%.2f", r.VsDirect), cell("%.2f", r.VsPgbouncer))
		}
	}
	// Nothing can be done about a terminal that does not take its lines; the JSON
	// file holds the same numbers and its error counts.
	_ = t.Flush()
	for _, f := range failures {
		fmt.Fprintln(w, "  "+f)
	}
}

// cell formats a number that may be missing.
func cell(format string, v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// write makes the JSON file.
func (p *report) write(name string) error { return writeJSON(name, p) }

func writeJSON(name string, results any) error {
	content, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(name, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	fmt.Fprintln(os.Stderr, "results in", name)
	return nil
}
