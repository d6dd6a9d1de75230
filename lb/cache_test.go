package lb

import (
	"fmt"
	"sync"
	"testing"
)

var usual = LexSettings{StandardConformingStrings: true, SafeEncoding: true}

func newTestClassifier(t testing.TB, cfg Config) *Classifier {
	t.Helper()
	c, err := NewClassifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEqualShapesShareAVerdict(t *testing.T) {
	c := newTestClassifier(t, Default())
	cat := testCatalog()
	var s Scratch
	for _, pair := range [][2]string{
		{"SELECT a FROM t WHERE id = 1", "select A\n from T -- c\n where ID=$1"},
		{"SELECT a FROM t WHERE id IN (1, 2, 3)", "SELECT a FROM t WHERE id IN ('x', -5)"},
		{"INSERT INTO t VALUES (1, NULL, 'x')", "INSERT INTO t VALUES (-1, true, $1), (+2, 3.5, $$y$$)"},
	} {
		if c.Classify(cat, usual, []byte(pair[0]), &s) != c.Classify(cat, usual, []byte(pair[1]), &s) {
			t.Errorf("%q and %q have different verdicts", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{
		{"SELECT a FROM t", `SELECT "a" FROM t`},
		{"SELECT a FROM t", "SELECT a FROM t /* pgproxy: standby */"},
		{"SELECT a FROM t", "SELECT a FROM t;"},
		{"PREPARE a AS SELECT 1", "PREPARE b AS SELECT 1"},
		{"SELECT t.null", "SELECT t.?"},
	} {
		if c.Classify(cat, usual, []byte(pair[0]), &s) == c.Classify(cat, usual, []byte(pair[1]), &s) {
			t.Errorf("%q and %q share a verdict", pair[0], pair[1])
		}
	}
}

func TestVerdictsBelongToTheirCatalog(t *testing.T) {
	c := newTestClassifier(t, Default())
	var s Scratch
	sql := []byte("SELECT f(1)")
	stable := NewCatalog([]FunctionRow{{Name: "f"}, {Name: "g"}}, nil)
	volatile := NewCatalog([]FunctionRow{{Name: "f", Volatile: true}, {Name: "g"}}, nil)
	same := NewCatalog([]FunctionRow{{Name: "g"}, {Name: "f"}}, nil)
	first := c.Classify(stable, usual, sql, &s)
	if !first.Read {
		t.Error("a stable function is not a read")
	}
	if c.Classify(volatile, usual, sql, &s).Read {
		t.Error("a volatile function is a read")
	}
	if c.Classify(nil, usual, sql, &s).Read {
		t.Error("an unknown function is a read")
	}
	if c.Classify(same, usual, sql, &s) != first {
		t.Error("a catalog loaded again without a change lost its verdicts")
	}
}

func TestHitsDoNotAllocate(t *testing.T) {
	c := newTestClassifier(t, Default())
	cat := testCatalog()
	var s Scratch
	sql := []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 12345;")
	c.Classify(cat, usual, sql, &s)
	if n := testing.AllocsPerRun(100, func() { c.Classify(cat, usual, sql, &s) }); n != 0 {
		t.Errorf("%.0f allocations on a hit", n)
	}
}

func TestCacheStaysWithinItsSize(t *testing.T) {
	const size = 256 << 10
	c := newTestClassifier(t, Config{CacheSize: size})
	cat := testCatalog()
	var s Scratch
	hot := []byte("SELECT hot FROM t")
	first := c.Classify(cat, usual, hot, &s)
	kept := 0
	for i := range 20000 {
		c.Classify(cat, usual, fmt.Appendf(nil, "SELECT c%d FROM a_table_with_a_long_name_%d", i, i), &s)
		if c.Classify(cat, usual, hot, &s) == first {
			kept++
		}
		if c.cache.mu.bytes > c.cache.limit {
			t.Fatalf("%d bytes after %d shapes, limit %d", c.cache.mu.bytes, i, c.cache.limit)
		}
	}
	if kept < 15000 {
		t.Errorf("a shape in use survived only %d of 20000 others", kept)
	}
	sum := 0
	for i := range c.cache.slots {
		if e := c.cache.slots[i].Load(); e != nil {
			sum += e.size()
		}
	}
	if sum != c.cache.mu.bytes {
		t.Errorf("%d bytes counted, %d held", c.cache.mu.bytes, sum)
	}
}

func TestNoCache(t *testing.T) {
	c := newTestClassifier(t, Config{})
	var s Scratch
	if !c.Classify(testCatalog(), usual, []byte("SELECT 1"), &s).Read {
		t.Error("SELECT 1 is not a read")
	}
}

func TestConcurrentUse(t *testing.T) {
	c := newTestClassifier(t, Config{CacheSize: 64 << 10, PrimaryPatterns: []string{"secret"}})
	catalogs := []*Catalog{testCatalog(), nil, NewCatalog(nil, nil)}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var s Scratch
			for i := range 3000 {
				cat := catalogs[i%len(catalogs)]
				sql := fmt.Sprintf("SELECT c%d FROM t", (i*7+g)%500)
				write := i%5 == 0
				if write {
					sql += " FOR UPDATE"
				}
				v := c.Classify(cat, usual, []byte(sql), &s)
				if v.Read != (!write && cat != nil) {
					t.Errorf("%s: read = %t", sql, v.Read)
					return
				}
				if i%100 == 0 {
					c.MarkPrimary("db", usual, []byte(sql), int64(i), int64(i+10))
				}
				c.Marked("db", &s, int64(i))
			}
		})
	}
	wg.Wait()
}

func TestMarks(t *testing.T) {
	c := newTestClassifier(t, Default())
	cat := testCatalog()
	var s Scratch
	marked := func(database, sql string, now int64) bool {
		c.Classify(cat, usual, []byte(sql), &s)
		return c.Marked(database, &s, now)
	}
	if marked("db", "SELECT f FROM t WHERE a = 1", 0) {
		t.Error("marked before anything was")
	}
	c.MarkPrimary("db", usual, []byte("SELECT f FROM t WHERE a = 1"), 100, 200)
	for _, c := range []struct {
		database, sql string
		now           int64
		want          bool
	}{
		{"db", "SELECT f FROM t WHERE a = 2", 100, true},
		{"db", "select f from t where a=3 /* c */", 199, true},
		{"db", "SELECT f FROM t WHERE a = 2", 200, false},
		{"other", "SELECT f FROM t WHERE a = 2", 100, false},
		{"db", "SELECT g FROM t WHERE a = 2", 100, false},
	} {
		if got := marked(c.database, c.sql, c.now); got != c.want {
			t.Errorf("%s at %d in %s: marked = %t, want %t", c.sql, c.now, c.database, got, c.want)
		}
	}
	cat = nil // marks do not depend on the catalog
	if !marked("db", "SELECT f FROM t WHERE a = 2", 150) {
		t.Error("a mark was lost with the catalog")
	}
}

func TestMarksAreBounded(t *testing.T) {
	c := newTestClassifier(t, Default())
	for i := range 3 * maxMarks {
		c.MarkPrimary("db", usual, fmt.Appendf(nil, "SELECT c%d", i), 0, 100)
	}
	if n := len(c.marks.all()); n != maxMarks {
		t.Errorf("%d marks, limit %d", n, maxMarks)
	}
	c.MarkPrimary("db", usual, []byte("SELECT last"), 100, 200)
	if n := len(c.marks.all()); n != 1 {
		t.Errorf("%d marks after the others had expired, want 1", n)
	}
}
