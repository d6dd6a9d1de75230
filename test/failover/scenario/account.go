package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Account compares what a client was told with what is there.
type Account struct {
	Rows     []Row // those of the time that is accounted for
	Acked    int
	Failed   []Row
	Unknown  []Row
	Lost     []Row         // acknowledged, and not there
	Ghosts   []Row         // refused, and there
	Gap      time.Duration // the longest time between two acknowledgements
	GapFrom  time.Time
	Sessions int // that were lost: each reconnection counts
	Refused  []string
}

// newAccount accounts for the rows sent after an instant. The gap is looked for from
// the last acknowledgement before it.
func newAccount(rows []Row, since time.Time, present map[int64]bool) Account {
	var a Account
	var last time.Time
	for _, r := range rows {
		before := !r.Sent.After(since)
		if r.Outcome == Acked {
			if gap := r.Done.Sub(last); !last.IsZero() && !before && gap > a.Gap {
				a.Gap, a.GapFrom = gap, last
			}
			last = r.Done
		}
		// Also of earlier rows: a late loss is a loss.
		switch {
		case r.Outcome == Acked && !present[r.ID]:
			a.Lost = append(a.Lost, r)
		case r.Outcome == Failed && present[r.ID]:
			a.Ghosts = append(a.Ghosts, r)
		}
		if before && r.Outcome == Acked {
			continue
		}
		a.Rows = append(a.Rows, r)
		switch r.Outcome {
		case Acked:
			a.Acked++
		case Failed:
			a.Failed = append(a.Failed, r)
		case Unknown, OutcomeUnset:
			a.Unknown = append(a.Unknown, r)
		}
	}
	return a
}

// LostBy returns the lost rows that a server had acknowledged, by the address/timeline
// of Row.Server.
func (a *Account) LostBy(server string) []Row {
	return slices.DeleteFunc(slices.Clone(a.Lost), func(r Row) bool { return r.Server != server })
}

// String is one line.
func (a *Account) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d acknowledged, %d failed, %d unknown, %d lost, %d ghosts, %d sessions lost, longest gap %.2f s",
		a.Acked, len(a.Failed), len(a.Unknown), len(a.Lost), len(a.Ghosts), a.Sessions, a.Gap.Seconds())
	for _, r := range slices.Concat(a.Failed, a.Unknown)[:min(3, len(a.Failed)+len(a.Unknown))] {
		fmt.Fprintf(&b, "\n  row %d, sent %s, answered %s: %v", r.ID, r.Sent.Format(stamp), r.Done.Format(stamp), r.Err)
	}
	for i, text := range a.Refused {
		if i == 0 || i == len(a.Refused)-1 {
			fmt.Fprintf(&b, "\n  connection %d refused %s", i+1, text)
		}
	}
	for i, r := range a.Lost {
		if i == 0 || r.Server != a.Lost[i-1].Server || i == len(a.Lost)-1 {
			fmt.Fprintf(&b, "\n  row %d lost, acknowledged %s by %s", r.ID, r.Done.Format(stamp), r.Server)
		}
	}
	return b.String()
}
