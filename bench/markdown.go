package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// Between these lines of the document stands what the bench has written.
const (
	markBegin = "<!-- bench: begin -->\n"
	markEnd   = "<!-- bench: end -->\n"
)

// writeMarkdown puts the tables into a document.
func (p *report) writeMarkdown(name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	before, rest, ok1 := strings.Cut(string(content), markBegin)
	_, after, ok2 := strings.Cut(rest, markEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("write tables: %s lacks the lines %q and %q", name, strings.TrimSpace(markBegin), strings.TrimSpace(markEnd))
	}
	var tables strings.Builder
	p.markdown(&tables)
	if err := os.WriteFile(name, []byte(before+markBegin+tables.String()+markEnd+after), 0o644); err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	return nil
}

// markdown writes everything that was measured.
func (p *report) markdown(w io.Writer) {
	fmt.Fprintf(w, "\nMeasured on %s: %d processors (%s), %s.\n", p.Started.Format(time.DateOnly), p.Machine.CPUs, p.Machine.Processor, p.Machine.Kernel)
	fmt.Fprint(w, "Programs: ")
	for i, v := range p.Versions {
		if i > 0 {
			fmt.Fprint(w, "; ")
		}
		fmt.Fprint(w, v.Version)
	}
	fmt.Fprintf(w, ".\nMedians of %d rounds of %.0f s each, scale %d.\n", p.Rounds, p.Seconds, p.Scale)
	if len(p.Targets) > 0 {
		fmt.Fprint(w, "\n### Targets\n\n| target | measured | bound | |\n|---|--:|--:|---|\n")
		for _, row := range p.Targets {
			fmt.Fprintf(w, "| %s | %.2f | %s | %s |\n", row.Target, row.Measured, row.Bound, row.verdict())
		}
	}
	of := func(format string, number func(*result) float64) func(*result) string {
		return func(r *result) string { return cell(format, number(r)) }
	}
	p.markdownTable(w, "Processor time of the proxy for a transaction, in microseconds", "tx", of("%.1f", func(r *result) float64 { return r.CPU }))
	p.markdownTable(w, "The same as a share of PgBouncer's", "tx", of("%.2f", func(r *result) float64 { return r.VsPgbouncer }))
	p.markdownTable(w, "Transactions per second", "tx", of("%.0f", func(r *result) float64 { return r.Throughput }))
	p.markdownTable(w, "Latency in milliseconds: median / 99 % / 99.9 %", "tx", func(r *result) string {
		return fmt.Sprintf("%.2f / %.1f / %.0f", r.P50, r.P99, r.P999)
	})
	p.markdownTable(w, "Share of the processor time that is the kernel's", "tx", of("%.2f", func(r *result) float64 { return r.Kernel }))
	p.markdownTable(w, "Context switches of the proxy for a transaction", "tx", of("%.2f", func(r *result) float64 { return r.Switches }))
	p.markdownTable(w, "Processors that the proxy keeps busy", "tx", of("%.2f", func(r *result) float64 { return r.Cores }))
	p.markdownTable(w, "Processor time of PostgreSQL + pgbench for a transaction, in microseconds", "tx", func(r *result) string {
		return fmt.Sprintf("%.0f + %.0f", r.ServerCPU, r.ClientCPU)
	})
	p.markdownTable(w, "Processors of a machine on which two loops could do 1.7 times the work of one", "tx", func(r *result) string {
		if r.System != pgproxy {
			return missing
		}
		return cell("%.0f", math.Ceil(1.7*share(r.CPU+r.ServerCPU+r.ClientCPU, r.CPU)))
	})
	p.markdownTable(w, "System calls of the proxy for a transaction", "tx", func(r *result) string { return calls(r.Syscalls) })
	p.markdownTable(w, "Large results: processor time of the proxy, in microseconds for a megabyte", "MB", of("%.0f", func(r *result) float64 { return r.CPU }))
	p.markdownTable(w, "Large results: megabytes per second", "MB", of("%.0f", func(r *result) float64 { return r.Throughput }))
	p.markdownTable(w, "System calls of the proxy for a megabyte", "MB", func(r *result) string { return calls(r.Syscalls) })
	p.markdownTable(w, "Idle clients: KiB for each / share of a processor for all", sessionUnit, func(r *result) string {
		return fmt.Sprintf("%.1f / %.2f %%", r.SessionMemory/1024, r.IdleCPU)
	})
	p.markdownTable(w, "System calls of the proxy in a second while all clients are idle", sessionUnit, func(r *result) string { return calls(r.Syscalls) })
	p.markdownFailures(w)
}

// markdownTable writes one number of all cases of a unit: a line for each case, a
// column for each system that has any.
func (p *report) markdownTable(w io.Writer, title, unit string, show func(*result) string) {
	text := func(name, system string) string {
		switch r := p.find(name, system); {
		case r == nil:
			return missing
		case r.Err != "":
			return "fails"
		default:
			return show(r)
		}
	}
	var cases []string
	for _, r := range p.Results {
		if r.Unit == unit && !slices.Contains(cases, r.Case) {
			cases = append(cases, r.Case)
		}
	}
	systems := slices.DeleteFunc(systemNames(), func(system string) bool {
		return !slices.ContainsFunc(cases, func(name string) bool { return text(name, system) != missing })
	})
	if len(systems) == 0 {
		return
	}
	fmt.Fprintf(w, "\n### %s\n\n| | %s |\n|---|%s\n", title, strings.Join(systems, " | "), strings.Repeat("--:|", len(systems)))
	for _, name := range cases {
		fmt.Fprintf(w, "| %s |", name)
		for _, system := range systems {
			fmt.Fprintf(w, " %s |", text(name, system))
		}
		fmt.Fprintln(w)
	}
}

// markdownFailures says why a table has no number.
func (p *report) markdownFailures(w io.Writer) {
	title := "\n### What fails\n\n"
	for _, r := range p.Results {
		if r.Err != "" {
			fmt.Fprintf(w, "%s- %s, %s: `%s`\n", title, r.Case, r.System, strings.Join(strings.Fields(r.Err), " "))
			title = ""
		}
	}
}

// calls lists the system calls that are made at least once in twenty units, the most
// frequent one first.
func calls(all map[string]float64) string {
	var text []string
	for _, name := range slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b], all[a]), cmp.Compare(a, b))
	}) {
		if all[name] >= 0.05 {
			text = append(text, fmt.Sprintf("%s %.2f", name, all[name]))
		}
	}
	if len(text) == 0 {
		return missing
	}
	return strings.Join(text, ", ")
}
