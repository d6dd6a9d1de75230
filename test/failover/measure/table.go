package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/test/failover/installation"
	"github.com/pgproxy/pgproxy/test/failover/scenario"
)

// reportLines is how much of each log is shown.
const reportLines = 80

// table collects the runs of one scenario.
type table struct {
	scenario scenario.Scenario
	results  []scenario.Result
	failed   int
}

// run runs the scenario on one installation, or on a new one after each failure.
func (t *table) run(ctx context.Context, p installation.Programs, o options) error {
	if t.scenario.Rig != nil {
		t.scenario.Rig(&o.rig)
	}
	var in *installation.Installation
	defer func() {
		if in != nil {
			_ = in.Close() // what was measured stands
		}
	}()
	for i := range o.runs {
		if in == nil {
			starting, cancel := context.WithTimeout(ctx, startTimeout)
			var err error
			in, err = installation.Start(starting, p, o.rig)
			cancel()
			if err != nil {
				return err
			}
		}
		res, err := t.scenario.Execute(ctx, in.Cluster, i, func(format string, args ...any) {
			if o.verbose {
				fmt.Printf("  "+format+"\n", args...)
			}
		})
		if o.verbose && err == nil {
			fmt.Printf("%s %d: %s\n", t.scenario.Name, i+1, &res)
		}
		if o.report && err == nil {
			fmt.Fprintln(os.Stderr, in.Report(ctx, reportLines))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			t.results = append(t.results, res)
			continue
		}
		t.failed++
		fmt.Fprintf(os.Stderr, "%s, run %d failed: %v\n%s\n%s\n", t.scenario.Name, i+1, err, &res, in.Report(ctx, reportLines))
		closeErr := in.Close()
		in = nil
		if closeErr != nil {
			return closeErr
		}
		if !o.keep {
			return errFailed
		}
	}
	if t.failed > 0 {
		return errFailed
	}
	return nil
}

// String is a line for the gap and one for each mark.
func (t *table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: %d runs, %d failed\n", t.scenario.Name, t.scenario.What, len(t.results)+t.failed, t.failed)
	if len(t.results) == 0 {
		return b.String()
	}
	var gaps []time.Duration
	var failed, unknown, lost, sessions int
	marks := map[string][]time.Duration{}
	var order []string
	for _, r := range t.results {
		gaps = append(gaps, r.Account.Gap)
		failed, unknown = failed+len(r.Account.Failed), unknown+len(r.Account.Unknown)
		lost, sessions = lost+len(r.Account.Lost), sessions+r.Account.Sessions
		for _, m := range r.Marks {
			if marks[m.What] == nil {
				order = append(order, m.What)
			}
			marks[m.What] = append(marks[m.What], m.After)
		}
	}
	bar := ""
	if t.scenario.Bar > 0 {
		bar = fmt.Sprintf("  (bar for the median: %.1f s)", t.scenario.Bar.Seconds())
	}
	fmt.Fprintf(&b, "  %-36s %s%s\n", "without an acknowledged write", spread(gaps), bar)
	for _, what := range order {
		fmt.Fprintf(&b, "  %-36s %s\n", what, spread(marks[what]))
	}
	n := float64(len(t.results))
	fmt.Fprintf(&b, "  each run: %.1f failed, %.1f unknown, %.1f lost rows, %.1f lost sessions\n",
		float64(failed)/n, float64(unknown)/n, float64(lost)/n, float64(sessions)/n)
	return b.String()
}

func spread(all []time.Duration) string {
	all = slices.Sorted(slices.Values(all))
	median := (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	return fmt.Sprintf("median %6.2f s  best %6.2f s  worst %6.2f s", median.Seconds(), all[0].Seconds(), all[len(all)-1].Seconds())
}
