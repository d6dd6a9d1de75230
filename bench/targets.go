package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// metric is a number of a result that there is a target for.
type metric struct {
	name string
	of   func(m measurement) float64
}

var (
	perUnit    = metric{"CPU", func(m measurement) float64 { return m.CPU }}
	throughput = metric{"throughput", func(m measurement) float64 { return m.Throughput }}
	p50        = metric{"p50", func(m measurement) float64 { return m.P50 }}
	p99        = metric{"p99", func(m measurement) float64 { return m.P99 }}
	memoryKiB  = metric{"KiB for each", func(m measurement) float64 { return m.SessionMemory / 1024 }}
	idleCore   = metric{"% of a core", func(m measurement) float64 { return m.IdleCPU }}
)

// target bounds a metric of a system, as a share of another system's or, where there is
// none, itself.
type target struct {
	benchCase string
	metric    metric
	of, than  string
	most      float64 // 0: least is the bound
	least     float64
}

// targets are what pgproxy is to reach: balancing, read-your-writes, metrics and health
// checks are on, and it is compared with PgBouncer in the same pool mode.
func targets(o options) []target {
	var all []target
	for _, clients := range []int{16, 64} {
		for _, name := range []string{selectName("simple", clients), selectName("extended", clients), tpcbName(clients)} {
			all = append(all, cheap(name, pgproxy, pgbouncer)...)
		}
		// PgBouncer keeps prepared statements apart in session mode only, before 1.21.
		all = append(all, cheap(selectName("prepared", clients), pgproxyS, pgbouncerS)...)
	}
	all = append(all,
		target{benchCase: selectName("simple", 1), metric: p50, of: pgproxy, than: pgbouncer, most: 1.10},
		target{benchCase: selectName("simple", 64), metric: p99, of: pgproxy, than: pgbouncer, most: 1},
		target{benchCase: selectName("extended", 64), metric: p99, of: pgproxy, than: pgbouncer, most: 1},
		target{benchCase: tpcbName(64), metric: p99, of: pgproxy, than: pgbouncer, most: 1},
	)
	for _, bulk := range []struct {
		name string
		most float64
	}{{resultCase, 0.60}, {copyOutCase, 1}, {copyInCase, 0.85}} {
		all = append(all,
			target{benchCase: bulk.name, metric: perUnit, of: pgproxy, than: pgbouncer, most: bulk.most},
			target{benchCase: bulk.name, metric: throughput, of: pgproxy, than: direct, least: 0.8})
	}
	for _, name := range []string{connectCase, trustedCase} {
		all = append(all,
			target{benchCase: name, metric: perUnit, of: pgproxy, than: pgbouncer, most: 1.2},
			target{benchCase: name, metric: throughput, of: pgproxy, than: pgbouncer, least: 0.9})
	}
	return append(all,
		target{benchCase: tlsName(selectName("simple", 16)), metric: perUnit, of: pgproxy, than: pgbouncer, most: 1.3},
		target{benchCase: selectName("simple", 64), metric: throughput, of: pgproxy, than: pgproxy1, least: 1.7},
		target{benchCase: idleName(o), metric: memoryKiB, of: pgproxy, most: 4},
		target{benchCase: idleName(o), metric: idleCore, of: pgproxy, most: 1},
		target{benchCase: idleTLSName(o), metric: memoryKiB, of: pgproxy, most: 20},
	)
}

// cheap is the target of an ordinary load.
func cheap(name, of, than string) []target {
	return []target{
		{benchCase: name, metric: perUnit, of: of, than: than, most: 1.10},
		{benchCase: name, metric: perUnit, of: of, than: pgpool, most: 0.35},
	}
}

// targetRow is what came of a target.
type targetRow struct {
	Target   string  `json:"target"`
	Bound    string  `json:"bound"`
	Measured float64 `json:"measured"`
	Met      bool    `json:"met"`
	Err      string  `json:"error,omitempty"` // why it was not measured
}

// judge compares the target with its numbers in the report.
func (t target) judge(p *report) targetRow {
	row := targetRow{Target: fmt.Sprintf("%s: %s of %s", t.benchCase, t.metric.name, t.of), Bound: fmt.Sprintf("<= %.2f", t.most)}
	if t.most == 0 {
		row.Bound = fmt.Sprintf(">= %.2f", t.least)
	}
	if row.Measured, row.Err = t.number(p, t.of); row.Err != "" {
		return row
	}
	if t.than != "" {
		row.Target += " / " + t.than
		than, err := t.number(p, t.than)
		if err != "" {
			row.Err = err
			return row
		}
		row.Measured = share(row.Measured, than)
	}
	row.Met = row.Measured >= t.least && (t.most == 0 || row.Measured <= t.most)
	return row
}

func (t target) number(p *report, system string) (n float64, err string) {
	r := p.find(t.benchCase, system)
	if r.Err != "" {
		return 0, system + ": " + r.Err
	}
	return t.metric.of(r.measurement), ""
}

// judge fills in the targets of what was measured.
func (p *report) judge(o options) {
	for _, t := range targets(o) {
		if p.find(t.benchCase, t.of) != nil && (t.than == "" || p.find(t.benchCase, t.than) != nil) {
			p.Targets = append(p.Targets, t.judge(p))
		}
	}
}

// verdict is one word of a row.
func (row targetRow) verdict() string {
	switch {
	case row.Err != "":
		return row.Err
	case row.Met:
		return "met"
	default:
		return "missed"
	}
}

func (p *report) printTargets(w io.Writer) {
	if len(p.Targets) == 0 {
		return
	}
	fmt.Fprintln(w, "\ntargets")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range p.Targets {
		fmt.Fprintf(t, "%s\t%.2f\t%s\t%s\n", row.Target, row.Measured, row.Bound, row.verdict())
	}
	_ = t.Flush() // as for the other tables
}
