package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// report collects the measurements and becomes the tables and the JSON file.
type report struct {
	Started  time.Time   `json:"started"`
	Machine  machine     `json:"machine"`
	Versions []version   `json:"versions"`
	Rounds   int         `json:"rounds"`
	Seconds  float64     `json:"seconds"` // of one run of pgbench
	Scale    int         `json:"scale"`
	Results  []*result   `json:"results"`
	Targets  []targetRow `json:"targets,omitempty"`
}

// result is one case on one system: the medians of its rounds.
type result struct {
	Case   string `json:"case"`
	System string `json:"system"`
	Unit   string `json:"unit"`
	measurement
	VsDirect    float64       `json:"vs_direct,omitempty"`    // throughput, as a share of the primary's own
	VsPgbouncer float64       `json:"vs_pgbouncer,omitempty"` // processor time per unit or memory, as a share of PgBouncer's in transaction mode
	Runs        []measurement `json:"runs"`
	// Syscalls are those of the proxy per unit, by name, where they were counted.
	Syscalls map[string]float64 `json:"system_calls,omitempty"`
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
func (p *report) add(c benchCase, system string, m measurement) {
	r := p.find(c.name, system)
	if r == nil {
		r = &result{Case: c.name, System: system, Unit: c.unit}
		p.Results = append(p.Results, r)
	}
	r.Runs = append(r.Runs, m)
	r.measurement = medians(r.Runs)
}

// compare fills in the ratios of a case.
func (p *report) compare(name string) {
	for _, r := range p.Results {
		if r.Case != name {
			continue
		}
		if d := p.find(name, direct); d != nil {
			r.VsDirect = share(r.Throughput, d.Throughput)
		}
		if b := p.find(name, pgbouncer); b != nil {
			r.VsPgbouncer = share(r.CPU+r.SessionMemory, b.CPU+b.SessionMemory) // a case has one of the two
		}
	}
}

// share is 0 where there is nothing to compare.
func share(of, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return of / whole
}

// column is one of a table.
type column struct {
	title string
	cell  func(r *result) string
}

var (
	memoryColumns = []column{
		{"KiB/session", func(r *result) string { return cell("%.1f", r.SessionMemory/1024) }},
		{"MiB in all", func(r *result) string { return cell("%.1f", r.TotalMemory/(1<<20)) }},
		{"of pgbouncer", func(r *result) string { return cell("%.2f", r.VsPgbouncer) }},
		{"% of a core", func(r *result) string { return cell("%.2f", r.IdleCPU) }},
	}
	loadColumns = []column{
		{"per second", func(r *result) string { return fmt.Sprintf("%.0f %s", r.Throughput, r.Unit) }},
		{"of direct", func(r *result) string { return cell("%.2f", r.VsDirect) }},
		{"p50 ms", func(r *result) string { return cell("%.3f", r.P50) }},
		{"p99 ms", func(r *result) string { return cell("%.3f", r.P99) }},
		{"p99.9 ms", func(r *result) string { return cell("%.3f", r.P999) }},
		{"connect ms", func(r *result) string { return cell("%.3f", r.Connect) }},
		{"cpu us", func(r *result) string { return cell("%.1f", r.CPU) }},
		{"of pgbouncer", func(r *result) string { return cell("%.2f", r.VsPgbouncer) }},
		{"kernel", func(r *result) string { return cell("%.2f", r.Kernel) }},
		{"switches", func(r *result) string { return cell("%.2f", r.Switches) }},
		{"servers us", func(r *result) string { return cell("%.1f", r.ServerCPU) }},
		{"client us", func(r *result) string { return cell("%.1f", r.ClientCPU) }},
	}
)

// print writes the table of one case.
func (p *report) print(w io.Writer, c benchCase) {
	p.compare(c.name)
	columns := loadColumns
	if c.unit == sessionUnit {
		columns = memoryColumns
	}
	fmt.Fprintf(w, "\n%s\n", c.name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "system\t")
	for _, col := range columns {
		fmt.Fprint(t, col.title+"\t")
	}
	fmt.Fprintln(t)
	var failures []string
	for _, system := range systemNames() {
		r := p.find(c.name, system)
		switch {
		case r == nil:
			continue
		case r.Err != "": // a line with fewer cells would end the alignment
			fmt.Fprintf(t, "%s\tfails%s\n", system, strings.Repeat("\t", len(columns)))
			failures = append(failures, system+": "+r.Err)
			continue
		}
		fmt.Fprint(t, system+"\t")
		for _, col := range columns {
			fmt.Fprint(t, col.cell(r)+"\t")
		}
		fmt.Fprintln(t)
	}
	// Nothing can be done about a terminal that does not take its lines; the JSON
	// file holds the same numbers and its error counts.
	_ = t.Flush()
	for _, f := range failures {
		fmt.Fprintln(w, "  "+f)
	}
}

// missing stands for a number that there is none of.
const missing = "-"

// cell formats a number that may be missing.
func cell(format string, v float64) string {
	if v == 0 {
		return missing
	}
	return fmt.Sprintf(format, v)
}

// write makes the JSON file.
func (p *report) write(name string) error {
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(name, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	fmt.Fprintln(os.Stderr, "results in", name)
	return nil
}
