package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pgproxy/pgproxy/proxy/loop"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// TestPinned: an operator sees what keeps a session on its connection, and what is said
// to end it does.
func TestPinned(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Pool.Mode = PoolTransaction })
	conn := l.client()
	seen := make(map[string]bool)
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(testPatience); ; {
			var reasons []string
			for _, s := range l.Sessions() {
				for _, p := range s.Pinned {
					reasons = append(reasons, p.Reason)
					seen[p.Reason] = true
				}
			}
			got := strings.Join(reasons, ", ")
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("pinned by %q, want %q", got, want)
			}
		}
	}
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	await("")
	for _, tt := range []struct{ begin, reason, end string }{
		{"CREATE TEMP TABLE x (n int)", "temporary table", "DROP TABLE x"},
		{"CREATE TEMP TABLE x (n int)", "temporary table", "DISCARD ALL"},
		{"LISTEN c", "LISTEN", "UNLISTEN *"},
		{"SELECT pg_advisory_lock(1)", "advisory lock", "SELECT pg_advisory_unlock_all()"},
		{"DECLARE c CURSOR WITH HOLD FOR SELECT 1", "WITH HOLD cursor", "CLOSE ALL"},
		{"DO $$ BEGIN EXECUTE 'SET work_mem = 100'; END $$", "unknown state", "DISCARD ALL"},
	} {
		exec(tt.begin)
		await(tt.reason)
		if i := slices.IndexFunc(session.AllPins, func(p session.Pin) bool { return p.Reason == tt.reason }); i < 0 ||
			!strings.Contains(session.AllPins[i].End, strings.Fields(strings.TrimPrefix(tt.end, "SELECT "))[0]) {
			t.Errorf("%s is not what is said to end: %s", tt.end, tt.reason)
		}
		exec(tt.end)
		await("")
	}
	if _, err := conn.Prepare(t.Context(), "large", "SELECT '"+strings.Repeat("x", 2*loop.BufferLen)+"'"); err != nil {
		t.Fatal(err)
	}
	await("large statement")
	if err := conn.Deallocate(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
	await("")
	for _, p := range session.AllPins {
		if !seen[p.Reason] {
			t.Errorf("no statement here makes: %s", p.Reason)
		}
	}

	exec("LISTEN c")
	await("LISTEN")
	other := connect(t, appDSN(l.Server, ""))
	if _, err := other.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	metrics := make(chan prometheus.Metric, 1000)
	connectionCollector{l.sessions}.Collect(metrics)
	close(metrics)
	var pinned []string
	for m := range metrics {
		if m.Desc() == pinnedSessions {
			pinned = append(pinned, metricText(t, m))
		}
	}
	slices.Sort(pinned)
	if got, want := strings.Join(pinned, " "), "LISTEN=1 WITH HOLD cursor=0 advisory lock=0 large statement=0 temporary table=0 unknown state=0"; got != want {
		t.Errorf("metric %s, want %s", got, want)
	}
}

func metricText(t *testing.T, m prometheus.Metric) string {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s=%g", out.GetLabel()[0].GetValue(), out.GetGauge().GetValue())
}
