package lb

import "testing"

func BenchmarkClassify(b *testing.B) {
	c, err := NewClassifier(Default())
	if err != nil {
		b.Fatal(err)
	}
	cat := testCatalog()
	settings := LexSettings{StandardConformingStrings: true, SafeEncoding: true}
	for name, sql := range map[string]string{
		"pgbench-select": "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;",
		"pgbench-update": "UPDATE pgbench_accounts SET abalance = abalance + -2345 WHERE aid = 1234567;",
		"begin":          "BEGIN;",
		"join": "SELECT u.id, u.name, count(*) AS orders, sum(o.total) FROM users u LEFT JOIN orders o ON o.user_id = u.id " +
			"WHERE u.created_at > '2024-01-01' AND u.status IN ('active', 'new', 'trial') GROUP BY u.id, u.name HAVING count(*) > 3 ORDER BY 4 DESC LIMIT 50",
	} {
		b.Run(name, func(b *testing.B) {
			text := []byte(sql)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var scratch Scratch
				for pb.Next() {
					c.Classify(cat, settings, text, &scratch)
				}
			})
		})
	}
}

func BenchmarkClassifyMiss(b *testing.B) {
	c, err := NewClassifier(Config{})
	if err != nil {
		b.Fatal(err)
	}
	cat := testCatalog()
	settings := LexSettings{StandardConformingStrings: true, SafeEncoding: true}
	text := []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;")
	var scratch Scratch
	b.ReportAllocs()
	for b.Loop() {
		c.Classify(cat, settings, text, &scratch)
	}
}
