package lb

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// pgbenchTexts are the statements of pgbench, one function for each that writes it with
// literals of its own, as pgbench -M simple sends them.
var pgbenchTexts = []struct {
	name string
	text func(r *rand.Rand) string
}{
	{"select", func(r *rand.Rand) string {
		return fmt.Sprintf("SELECT abalance FROM pgbench_accounts WHERE aid = %d;", r.IntN(2_000_000))
	}},
	{"begin", func(*rand.Rand) string { return "BEGIN;" }},
	{"accounts", func(r *rand.Rand) string {
		return fmt.Sprintf("UPDATE pgbench_accounts SET abalance = abalance + %d WHERE aid = %d;", r.IntN(10_000)-5000, r.IntN(2_000_000))
	}},
	{"tellers", func(r *rand.Rand) string {
		return fmt.Sprintf("UPDATE pgbench_tellers SET tbalance = tbalance + %d WHERE tid = %d;", r.IntN(10_000)-5000, r.IntN(200))
	}},
	{"branches", func(r *rand.Rand) string {
		return fmt.Sprintf("UPDATE pgbench_branches SET bbalance = bbalance + %d WHERE bid = %d;", r.IntN(10_000)-5000, r.IntN(20))
	}},
	{"history", func(r *rand.Rand) string {
		return fmt.Sprintf("INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (%d, %d, %d, %d, CURRENT_TIMESTAMP);",
			r.IntN(200), r.IntN(20), r.IntN(2_000_000), r.IntN(10_000)-5000)
	}},
	{"end", func(*rand.Rand) string { return "END;" }},
	{"join", func(r *rand.Rand) string {
		return fmt.Sprintf("SELECT u.id, u.name, count(*) AS orders, sum(o.total) FROM users u LEFT JOIN orders o ON o.user_id = u.id "+
			"WHERE u.created_at > '20%d-01-01' AND u.status IN ('active', 'new', 'trial') GROUP BY u.id, u.name HAVING count(*) > %d ORDER BY 4 DESC LIMIT 50",
			10+r.IntN(15), r.IntN(10))
	}},
}

// sessionScratch keeps the scratches of two sessions as far apart as those of the proxy
// are: a line of the processor's cache between them is shared by nobody.
type sessionScratch struct {
	Scratch
	_ [128]byte
}

// BenchmarkClassify is a hit in the cache for a text that was not seen before; with -cpu 1,2
// alone and beside another session that hits the same entry. Marked looks for marks too.
func BenchmarkClassify(b *testing.B) {
	c := newTestClassifier(b, Default())
	marking := newTestClassifier(b, Default())
	marking.MarkPrimary("app", usual, []byte("SELECT something_else"), 0, 1)
	cat := testCatalog()
	run := func(name string, texts [][]byte, call func(s *Scratch, text []byte)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var s sessionScratch
				for i := 0; pb.Next(); i++ {
					call(&s.Scratch, texts[i%len(texts)])
				}
			})
		})
	}
	for _, p := range pgbenchTexts {
		r := rand.New(rand.NewPCG(1, 2))
		texts := make([][]byte, 1024)
		for i := range texts {
			texts[i] = []byte(p.text(r))
		}
		run(p.name, texts, func(s *Scratch, text []byte) { c.Classify(cat, usual, text, s) })
		if p.name == "select" {
			run("select-marked", texts, func(s *Scratch, text []byte) {
				marking.Classify(cat, usual, text, s)
				marking.Marked("app", s, 2)
			})
		}
	}
}

func BenchmarkClassifyMiss(b *testing.B) {
	c := newTestClassifier(b, Config{})
	cat := testCatalog()
	text := []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;")
	var scratch Scratch
	b.ReportAllocs()
	for b.Loop() {
		c.Classify(cat, usual, text, &scratch)
	}
}

// BenchmarkWheel is a choice among three servers, with -cpu 1,2 beside other sessions'.
func BenchmarkWheel(b *testing.B) {
	candidates := []Candidate{
		{Name: "h1", Weight: 1, Usable: true, Primary: true}, {Name: "h2", Weight: 2, Usable: true}, {Name: "h3", Weight: 2, Usable: true},
	}
	var w Wheel
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w.Next(candidates)
		}
	})
}
