package clients

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes the results side by side.
func Print(w io.Writer, results []*Result) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(what string, cell func(*Result) string) {
		fmt.Fprint(t, what)
		for _, r := range results {
			fmt.Fprint(t, "\t"+cell(r))
		}
		fmt.Fprintln(t)
	}
	// A line without cells would end the alignment.
	empty := func() { row("", func(*Result) string { return "" }) }
	row("", func(r *Result) string { return r.Target })
	row("clients", func(r *Result) string { return fmt.Sprint(r.Clients) })
	row("rows and transactions acknowledged", func(r *Result) string { return fmt.Sprint(r.Acked) })
	for _, kind := range []string{failover, switchover} {
		if !slices.ContainsFunc(results, func(r *Result) bool { return r.Tallies[kind].Number > 0 }) {
			continue
		}
		empty()
		tally := func(what string, cell func(*Tally) string) {
			row(what, func(r *Result) string { return cell(r.Tallies[kind]) })
		}
		tally(kind+"s", func(t *Tally) string { return fmt.Sprint(t.Number) })
		tally("  connections dropped", func(t *Tally) string { return fmt.Sprint(t.Dropped) })
		tally("  connections refused", func(t *Tally) string { return fmt.Sprint(t.Refused) })
		tally("  errors by SQLSTATE", func(t *Tally) string { return states(t.Errors) })
		tally("  most errors of a client at one", func(t *Tally) string { return fmt.Sprint(t.Most) })
		tally("  listeners' connections ended", func(t *Tally) string { return fmt.Sprint(t.Listeners) })
		tally("  pause of writers, median/worst", func(t *Tally) string { return spread(t.Writing) })
		tally("  pause of readers, median/worst", func(t *Tally) string { return spread(t.Reading) })
	}
	empty()
	row("longest pause in between", func(r *Result) string { return fmt.Sprintf("%.2f s", r.Quiet.Seconds()) })
	row("outcome unknown (of these there)", func(r *Result) string { return fmt.Sprintf("%d (%d)", r.Unknown, r.UnknownIn) })
	row("acknowledged and lost", func(r *Result) string { return fmt.Sprint(r.Lost) })
	row("there twice", func(r *Result) string { return fmt.Sprint(r.Doubled) })
	row("there by half", func(r *Result) string { return fmt.Sprint(r.Torn) })
	row("refused and there", func(r *Result) string { return fmt.Sprint(r.Ghosts) })
	row("notifications missed in silence", func(r *Result) string { return fmt.Sprint(r.Missed) })
	_ = t.Flush() // nothing can be done about a terminal that does not take it
}

// states are the SQLSTATEs with their numbers, the frequent ones first.
func states(errors map[string]int) string {
	if len(errors) == 0 {
		return "none"
	}
	names := slices.Sorted(maps.Keys(errors))
	slices.SortStableFunc(names, func(a, b string) int { return errors[b] - errors[a] })
	var all []string
	for _, name := range names {
		shown := name
		if shown == "" {
			shown = "without"
		}
		all = append(all, fmt.Sprintf("%s: %d", shown, errors[name]))
	}
	return strings.Join(all, ", ")
}

// spread is median and worst.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	all = slices.Sorted(slices.Values(all))
	median := (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	return fmt.Sprintf("%.2f / %.2f s", median.Seconds(), all[len(all)-1].Seconds())
}
