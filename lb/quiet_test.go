package lb

import "testing"

// TestQuiet: what may run twice although no standby may answer it, and what may not.
func TestQuiet(t *testing.T) {
	c := newTestClassifier(t, Default())
	cat := NewCatalog([]FunctionRow{
		{Name: "count"},
		{Name: "lower"},
		{Name: "f", Volatile: true},
		{Name: "nextval", Volatile: true, Argument: true},
	}, nil)
	judge := func(sql string, want bool) {
		t.Helper()
		var s Scratch
		v := c.Classify(cat, LexSettings{StandardConformingStrings: true, SafeEncoding: true}, []byte(sql), &s)
		if v.Quiet != want {
			t.Errorf("%s: quiet %t, want %t (%s)", sql, v.Quiet, want, v.Why)
		}
	}
	for _, sql := range []string{
		"SHOW TimeZone",
		"SHOW ALL",
		"SELECT relname FROM pg_class",
		"SELECT count(*) FROM pg_catalog.pg_type",
		"SELECT current_setting('TimeZone')",
		"SELECT pg_backend_pid()",
		"SELECT 1",
	} {
		judge(sql, true)
	}
	for _, sql := range []string{
		"SELECT relname FROM pg_class, f()",
		"SELECT nextval('s')",
		"SELECT setval('s', 1)",
		"SELECT lo_unlink(1)",
		"SELECT pg_advisory_lock(1)",
		"SELECT pg_advisory_xact_lock(1)",
		"SELECT set_config('a', 'b', false)",
		"SELECT unheard(1) FROM pg_class",
		"SELECT relname FROM pg_class FOR UPDATE",
		"SELECT * INTO t FROM pg_class",
		"WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM pg_class",
		"INSERT INTO t SELECT relname FROM pg_class",
		"SHOW TimeZone; DELETE FROM t",
		"EXPLAIN ANALYZE DELETE FROM t",
		"COPY t TO PROGRAM 'x'",
		"SELECT pg_terminate_backend(1)",
		"SELECT pg_notify('a', 'b')",
		"SELECT dblink_exec('DELETE FROM t')",
	} {
		judge(sql, false)
	}
}
