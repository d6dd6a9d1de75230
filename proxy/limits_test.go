package proxy

import (
	"fmt"
	"testing"

	"github.com/pgproxy/pgproxy/proxy/session"
)

func TestCensus(t *testing.T) {
	first := newLimits([]LimitConfig{
		{User: "app", Database: "shop", MaxClients: 1},
		{User: "app", MaxClients: 2},
		{User: "free"},
		{MaxClients: 1},
	})
	c := newCensus()
	enter := func(l *limits, user, database, refusal string) {
		t.Helper()
		got := ""
		if err := c.enter(l, user, database); err != nil {
			got = err.Error()
		}
		want := ""
		if refusal != "" {
			want = "pgproxy: too many clients" + refusal + " (SQLSTATE 53300)"
		}
		if got != want {
			t.Errorf("%s of %s: %q, want %q", user, database, got, want)
		}
	}
	enter(first, "app", "shop", "")
	enter(first, "app", "shop", ` for database "shop", user "app": at most 1 at a time`)
	enter(first, "app", "a", "") // the entry counts all databases together
	enter(first, "app", "b", "")
	enter(first, "app", "c", ` for user "app": at most 2 at a time`)
	for range 10 {
		enter(first, "free", "shop", "")
	}
	enter(first, "x", "shop", "")
	enter(first, "y", "a", ": at most 1 at a time")
	c.leave("app", "a")
	c.leave("x", "shop")
	enter(first, "app", "c", "")
	enter(first, "y", "a", "")

	second := newLimits([]LimitConfig{{Database: "shop", MaxClients: 12}}) // 1 of app and 10 of free are there
	enter(second, "z", "shop", "")
	enter(second, "z", "shop", ` for database "shop": at most 12 at a time`)
	enter(second, "z", "other", "")
	c.leave("free", "shop")
	enter(second, "z", "shop", "")

	enter(newLimits(nil), "z", "shop", "")
	third := newLimits([]LimitConfig{{User: "z", MaxClients: 4}})
	enter(third, "z", "shop", ` for user "z": at most 4 at a time`)
	for range 2 {
		c.leave("z", "shop")
	}
	enter(third, "z", "shop", "")
	if n := len(c.mu.byKey); n != 7 {
		t.Errorf("%d users and databases are remembered, want those 7 that are there: %v", n, c.mu.byKey)
	}
}

// BenchmarkSweep is one look at 10,000 idle sessions; between two of them is at least
// a tenth of a second.
func BenchmarkSweep(b *testing.B) {
	var entries []LimitConfig
	for i := range 10 {
		entries = append(entries, LimitConfig{User: fmt.Sprint("user ", i), Query: 1e12, Idle: 1e15})
	}
	entries = append(entries, LimitConfig{Query: 1e12, Idle: 1e15, Stalled: 1e15})
	l := newLimits(entries)
	sh := &sessions{}
	sh.mu.byID = make(map[uint64]*clientSession)
	for i := range uint64(10_000) {
		s := &clientSession{shared: sh, client: testClient(fmt.Sprint("user ", i%20)), id: i}
		s.mu.core = session.New(nil)
		sh.add(s)
	}
	b.ReportAllocs()
	for b.Loop() {
		sh.sweep(l, func(*clientSession, breach) { b.Fatal("a breach") })
	}
}
