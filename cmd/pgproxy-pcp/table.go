package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgproxy/pgproxy/pcp"
)

// tableWidth is what a table takes at most, in characters.
const tableWidth = 100

// gap is between two columns.
const gap = 2

// column is one column of a table.
type column struct {
	name  string
	right bool
	least int // width below which it is not cut; 0: never cut
}

// table lays rows out in at most tableWidth characters: what is too wide is cut in
// the middle of its widest columns, where names and addresses tell least.
func table(columns []column, rows [][]string) string {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = len(c.name)
		for _, row := range rows {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for total(widths) > tableWidth {
		widest := -1
		for i, c := range columns {
			if c.least > 0 && widths[i] > c.least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	var b strings.Builder
	header := make([]string, len(columns))
	for i, c := range columns {
		header[i] = c.name
	}
	for _, row := range slices.Insert(slices.Clone(rows), 0, header) {
		line := ""
		for i, value := range row {
			value = cut(value, widths[i])
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(value))
			if columns[i].right {
				value = pad + value
			} else {
				value += pad
			}
			line += value + strings.Repeat(" ", gap)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func total(widths []int) int {
	sum := gap * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return sum
}

// cut leaves out the middle of what is too wide.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// printable keeps a peer's text from moving the cursor, and on its line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func nodesTable(nodes []pcp.Node, now time.Time) string {
	columns := []column{
		{name: "NAME", least: 6},
		{name: "ADDRESS", least: 10},
		{name: "STATUS"},
		{name: "ROLE"},
		{name: "WT", right: true},
		{name: "TL", right: true},
		{name: "LAG", right: true},
		{name: "AGE", right: true},
		{name: "STATE", least: 6},
		{name: "SYNC", least: 4},
		{name: "SINCE"},
	}
	rows := make([][]string, len(nodes))
	for i, n := range nodes {
		rows[i] = []string{
			n.Name, n.Address, n.Status, n.Role, strconv.Itoa(n.Weight), optional(n.Timeline, decimal),
			optional(n.LagBytes, size), optional(n.LagSeconds, seconds),
			orDash(n.ReplicationState), orDash(n.SyncState), when(n.Since, now),
		}
	}
	return table(columns, rows)
}

func watchdogTable(w pcp.Watchdog, now time.Time) string {
	leader := "no leader"
	if w.Leader != "" {
		leader = "leader " + printable(w.Leader)
	}
	text := fmt.Sprintf("%s, term %d, %s, failover %s\n\n", leader, w.Term,
		map[bool]string{false: "NO QUORUM", true: "quorum"}[w.Quorum], map[bool]string{false: "OFF", true: "on"}[w.Failover])
	if p := w.Paused; p != nil {
		text = strings.TrimSuffix(text, "\n") + fmt.Sprintf("PAUSED since %s, %s; resume ends it\n\n", when(p.Since, now), printable(p.Reason))
	}
	columns := []column{
		{name: "NAME", least: 8},
		{name: "ADDRESS", least: 12},
		{name: "STATE"},
		{name: "KIND"},
		{name: "ADDRESSES HELD", least: 14},
		{name: "CONFIGURATION", least: 13},
	}
	rows := make([][]string, len(w.Members))
	for i, m := range w.Members {
		kind, configuration := "member", "same"
		if m.Witness {
			kind = "witness"
		}
		if m.Differs != "" {
			configuration = m.Differs
		}
		rows[i] = []string{m.Name, orDash(m.Address), m.State, kind, orDash(strings.Join(m.VIP, " ")), configuration}
	}
	return text + table(columns, rows)
}

func healthTable(all []pcp.Health, now time.Time) string {
	columns := []column{
		{name: "NAME", least: 8},
		{name: "STATUS"},
		{name: "LSN", right: true},
		{name: "TOOK", right: true},
		{name: "CHECKS", right: true},
		{name: "FAILED", right: true},
		{name: "LAST FAILED"},
		{name: "AGENT"},
	}
	var said strings.Builder
	rows := make([][]string, len(all))
	for i, h := range all {
		agent, failed := "-", "-"
		if h.Agent != nil {
			agent = h.Agent.Server
		}
		if h.Checks.LastFail != nil {
			failed = when(*h.Checks.LastFail, now)
		}
		rows[i] = []string{
			h.Name, h.Status, optional(h.LSN, func(s string) string { return s }), optional(h.Took, milliseconds),
			strconv.FormatUint(h.Checks.Total, 10), strconv.FormatUint(h.Checks.Fail, 10), failed, agent,
		}
		for _, remark := range remarks(h) {
			said.WriteString(printable(h.Name+": "+remark) + "\n")
		}
	}
	text := table(columns, rows)
	if said.Len() > 0 {
		text += "\n" + said.String()
	}
	return text
}

// remarks stand below the table, in full, the worst first.
func remarks(h pcp.Health) []string {
	all := []string{h.Error, h.Warning}
	if a := h.Agent; a != nil {
		if a.Task != "" {
			all = append(all, strings.TrimSpace(a.Task+" "+optional(a.Progress, percent)+" "+a.Detail))
		}
		if a.DiskSlow {
			all = append(all, "the disk does not answer in time")
		}
		all = append(all, a.Trouble)
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

func poolsTable(pools []pcp.Pool, _ time.Time) string {
	columns := []column{
		{name: "BACKEND", least: 8},
		{name: "DATABASE", least: 10},
		{name: "USER", least: 10},
		{name: "IDLE", right: true},
		{name: "USED", right: true},
		{name: "WAITING", right: true},
		{name: "SIZE", right: true},
	}
	rows := make([][]string, len(pools))
	for i, p := range pools {
		size := "-"
		if p.Size > 0 {
			size = strconv.Itoa(p.Size)
		}
		rows[i] = []string{p.Backend, p.Database, p.User, strconv.Itoa(p.Idle), strconv.Itoa(p.Used), strconv.Itoa(p.Waiting), size}
	}
	return table(columns, rows)
}

func sessionsTable(sessions []pcp.Session, now time.Time) string {
	columns := []column{
		{name: "ID", right: true},
		{name: "USER", least: 8},
		{name: "DATABASE", least: 8},
		{name: "CLIENT", least: 9},
		{name: "APPLICATION", least: 11},
		{name: "STATE", least: 8},
		{name: "BACKEND", least: 8},
		{name: "PIN"},
		{name: "BEGAN"},
	}
	var said strings.Builder
	rows := make([][]string, len(sessions))
	for i, s := range sessions {
		rows[i] = []string{
			strconv.FormatUint(s.ID, 10), s.User, s.Database, s.Client, orDash(s.Application), s.State,
			orDash(s.Backend), pins(s), when(s.Began, now),
		}
		for _, p := range s.Pinned {
			fmt.Fprintf(&said, "%d: %s, until %s\n", s.ID, printable(p.Reason), printable(p.End))
		}
	}
	text := table(columns, rows)
	if said.Len() > 0 {
		text += "\nPinned to their connection to the primary:\n" + said.String()
	}
	return text
}

// pins counts them; what they are stands below the table.
func pins(s pcp.Session) string {
	if len(s.Pinned) == 0 {
		return "-"
	}
	return strconv.Itoa(len(s.Pinned))
}

// optional shows what is not known as a dash.
func optional[T any](v *T, show func(T) string) string {
	if v == nil {
		return "-"
	}
	return show(*v)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// size shows bytes in at most seven characters.
func size(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		v /= 1000
		switch {
		case v < 9.95:
			return fmt.Sprintf("%.1f %s", v, unit)
		case v < 999.5 || unit == "EB":
			return fmt.Sprintf("%.0f %s", v, unit)
		}
	}
	return "-"
}

// seconds shows a time in at most six characters.
func seconds(s float64) string {
	switch {
	case s < 99.95:
		return fmt.Sprintf("%.1fs", s)
	case s < 3600:
		return fmt.Sprintf("%.0fm", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%.0fh", s/3600)
	}
	return fmt.Sprintf("%.0fd", s/86400)
}

func milliseconds(s float64) string { return fmt.Sprintf("%.1f ms", s*1000) }

func percent(f float64) string { return fmt.Sprintf("%.0f%%", 100*f) }

// when shows the time of day, or the day when it was another one.
func when(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	t, now = t.Local(), now.Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateOnly)
}
