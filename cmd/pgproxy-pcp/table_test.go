package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pgproxy/pgproxy/pcp"
)

var testNow = time.Date(2026, 3, 1, 18, 0, 0, 0, time.UTC)

// read takes what the server's own test says that it answers.
func read[T any](t *testing.T, name string) T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "pcp", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// fits checks that no line is too wide.
func fits(t *testing.T, name, text string) {
	t.Helper()
	for _, l := range strings.Split(text, "\n") {
		if n := utf8.RuneCountInString(l); n > tableWidth {
			t.Errorf("%s: %d columns: %s", name, n, l)
		}
		if strings.TrimRight(l, " ") != l {
			t.Errorf("%s: %q ends with blanks", name, l)
		}
	}
}

func TestTables(t *testing.T) {
	for name, text := range map[string]string{
		"nodes.txt":    nodesTable(read[[]pcp.Node](t, "nodes.json"), testNow),
		"watchdog.txt": watchdogTable(read[pcp.Watchdog](t, "watchdog.json"), testNow),
		"health.txt":   healthTable(read[[]pcp.Health](t, "health.json"), testNow),
		"pools.txt":    poolsTable(read[[]pcp.Pool](t, "pools.json"), testNow),
		"sessions.txt": sessionsTable(read[[]pcp.Session](t, "sessions.json"), testNow),
		"events.txt":   eventLines(read[[]pcp.Event](t, "events.json"), testNow),
	} {
		golden(t, name, text)
		if strings.HasPrefix(name, "health") {
			text, _, _ = strings.Cut(text, "\n\n") // remarks are shown in full
		}
		fits(t, name, text)
	}
}

// TestWideTables: everything is as long as it gets.
func TestWideTables(t *testing.T) {
	long := "database-server-17.frankfurt.example.com"
	lag, age, timeline, progress, took := uint64(1<<63), 1e9, uint32(4294967295), 0.5, 60.0
	since := time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)
	node := pcp.Node{
		Name: long, Address: long + ":5432", Status: "recovering", Role: "primary", Weight: 1000, Timeline: &timeline,
		LagBytes: &lag, LagSeconds: &age, ReplicationState: "streaming", SyncState: "potential", Since: since,
	}
	member := pcp.Member{
		Name: long, Address: "[2001:db8::1234:5678]:9000", State: "follower", Witness: true, Differs: "backends, vip",
		VIP: []string{"10.77.0.100/24", "2001:db8::ffff:100/64", "10.77.0.101/24"},
	}
	lsn := "FFFFFFFF/FFFFFFFF"
	health := pcp.Health{
		Name: long, Status: "recovering", LSN: &lsn, Took: &took, Error: strings.Repeat("no route to host, ", 6) + "none",
		Checks: pcp.Checks{Total: 1 << 30, Fail: 1 << 30, LastFail: &since},
		Agent:  &pcp.Agent{Server: "starting", Task: "rebuild", Progress: &progress, Trouble: "a\x1b[2Jb"},
	}
	for name, text := range map[string]string{
		"nodes-wide.txt":    nodesTable([]pcp.Node{node}, testNow),
		"watchdog-wide.txt": watchdogTable(pcp.Watchdog{Paused: &pcp.Pause{Since: since, Reason: "ordered by root"}, Members: []pcp.Member{member}}, testNow),
		"health-wide.txt":   healthTable([]pcp.Health{health}, testNow),
		"pools-wide.txt":    poolsTable([]pcp.Pool{{Backend: long, Database: long, User: long, Idle: 99999, Used: 99999, Waiting: 99999, Size: 99999}}, testNow),
		"sessions-wide.txt": sessionsTable([]pcp.Session{{
			ID: 1 << 63, User: long, Database: long, Client: long, Application: "psql\nü\t", State: "idle in transaction", Backend: long, Began: since,
		}}, testNow),
	} {
		golden(t, name, text)
		if strings.HasPrefix(name, "health") {
			text, _, _ = strings.Cut(text, "\n\n") // remarks are shown in full
		}
		fits(t, name, text)
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		16 << 20: "17 MB", 1 << 40: "1.1 TB", 1<<64 - 1: "18 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	for s, want := range map[float64]string{0: "0.0s", 0.04: "0.0s", 1.25: "1.2s", 99.94: "99.9s", 100: "2m", 3600: "1h", 1e6: "12d"} {
		if got := seconds(s); got != want {
			t.Errorf("%g s are %q, want %q", s, got, want)
		}
	}
}
