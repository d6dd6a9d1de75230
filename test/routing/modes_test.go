package routing

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestBalanceModes: what balance.mode, balance.consistency and the weights say is
// where reads go.
func TestBalanceModes(t *testing.T) {
	f := newFixture(t, "")
	for _, c := range []struct {
		name       string
		options    proxytest.Options
		perSession int            // servers that a session reads from
		want       map[string]int // reads of 8 sessions that read 10 times each,
		off        int            // and how far they may be off: each session starts somewhere
	}{
		{
			"statement",
			proxytest.Options{Balance: "mode: statement", Weights: map[string]int{"h1": 0, "h2": 1, "h3": 3}},
			1,
			map[string]int{"h1": 0, "h2": 20, "h3": 60},
			0,
		},
		{
			"session",
			proxytest.Options{Balance: "mode: session", Weights: map[string]int{"h1": 0, "h2": 1, "h3": 3}},
			1,
			map[string]int{"h1": 0, "h2": 20, "h3": 60},
			0,
		},
		{
			"session, the primary too",
			proxytest.Options{Balance: "mode: session", Weights: map[string]int{"h1": 2, "h2": 1, "h3": 1}},
			1,
			map[string]int{"h1": 40, "h2": 20, "h3": 20},
			0,
		},
		{
			"eventual, the primary too",
			proxytest.Options{Balance: "mode: statement, consistency: eventual", Weights: map[string]int{"h1": 1, "h2": 0, "h3": 1}},
			2,
			map[string]int{"h1": 40, "h2": 0, "h3": 40},
			8,
		},
		{
			"off",
			proxytest.Options{Balance: "mode: off", Weights: map[string]int{"h1": 0, "h2": 1, "h3": 3}},
			1,
			map[string]int{"h1": 80, "h2": 0, "h3": 0},
			0,
		},
		{
			"consistency primary",
			proxytest.Options{Balance: "mode: statement, consistency: primary"},
			1,
			map[string]int{"h1": 80, "h2": 0, "h3": 0},
			0,
		},
		{
			"a standby without weight",
			proxytest.Options{Balance: "mode: statement", Weights: map[string]int{"h1": 0, "h2": 0, "h3": 1}},
			1,
			map[string]int{"h1": 0, "h2": 0, "h3": 80},
			0,
		},
		{
			"nobody has a weight",
			proxytest.Options{Balance: "mode: statement", Weights: map[string]int{}},
			1,
			map[string]int{"h1": 80, "h2": 0, "h3": 0},
			0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := f.start(t, c.options)
			total := make(map[string]int)
			for range 8 {
				got := f.spread(t, connect(t, p), 10)
				servers := 0
				for name, n := range got {
					total[name] += n
					servers += min(n, 1)
				}
				if servers != c.perSession {
					t.Errorf("a session read from %v, want %d servers", got, c.perSession)
				}
			}
			if !maps.EqualFunc(total, c.want, func(a, b int) bool { return max(a-b, b-a) <= c.off }) {
				t.Errorf("reads: got %v, want %v", total, c.want)
			}
		})
	}
}

// spread has a session read so often, and returns how often each server was asked.
func (f *fixture) spread(t *testing.T, conn *pgconn.PgConn, reads int) map[string]int {
	t.Helper()
	f.count(t)
	for i := range reads {
		must(t, read(t.Context(), conn, i))
	}
	return f.count(t, "/* spread */")[0]
}

// read reads once, with the mark that spread counts.
func read(ctx context.Context, conn *pgconn.PgConn, n int) error {
	return readMarked(ctx, conn, n, "/* spread */")
}

func readMarked(ctx context.Context, conn *pgconn.PgConn, n int, mark string) error {
	got, err := ask(ctx, conn, protocol(n%2), "", fmt.Sprintf("SELECT %d %s", n, mark))
	if err != nil {
		return err
	}
	if got != strconv.Itoa(n) {
		return fmt.Errorf("read: got %s, want %d", got, n)
	}
	return nil
}
