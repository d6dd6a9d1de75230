package lb

import "testing"

// TestQuiet: what may run twice although no standby may answer it.
func TestQuiet(t *testing.T) {
	c := newTestClassifier(t, Default())
	cat := NewCatalog([]FunctionRow{
		{Name: "count"}, {Name: "lower"}, {Name: "f", Volatile: true}, {Name: "nextval", Volatile: true, Argument: true},
	}, nil)
	for sql, want := range map[string]bool{
		"SHOW TimeZone":                true,
		"SHOW ALL":                     true,
		"SELECT relname FROM pg_class": true,
		"SELECT count(*) FROM pg_catalog.pg_type":                      true,
		"SELECT current_setting('TimeZone')":                           true,
		"SELECT pg_backend_pid()":                                      true,
		"SELECT 1":                                                     true,
		"SELECT relname FROM pg_class, f()":                            false,
		"SELECT nextval('s')":                                          false,
		"SELECT setval('s', 1)":                                        false,
		"SELECT lo_unlink(1)":                                          false,
		"SELECT pg_advisory_lock(1)":                                   false,
		"SELECT pg_advisory_xact_lock(1)":                              false,
		"SELECT set_config('a', 'b', false)":                           false,
		"SELECT unheard(1) FROM pg_class":                              false,
		"SELECT relname FROM pg_class FOR UPDATE":                      false,
		"SELECT * INTO t FROM pg_class":                                false,
		"WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM pg_class": false,
		"INSERT INTO t SELECT relname FROM pg_class":                   false,
		"SHOW TimeZone; DELETE FROM t":                                 false,
		"EXPLAIN ANALYZE DELETE FROM t":                                false,
		"COPY t TO PROGRAM 'x'":                                        false,
		"SELECT pg_terminate_backend(1)":                               false,
		"SELECT pg_notify('a', 'b')":                                   false,
		"SELECT dblink_exec('DELETE FROM t')":                          false,
	} {
		var s Scratch
		v := c.Classify(cat, LexSettings{StandardConformingStrings: true, SafeEncoding: true}, []byte(sql), &s)
		if v.Quiet != want {
			t.Errorf("%s: quiet %t, want %t (%s)", sql, v.Quiet, want, v.Why)
		}
	}
}
