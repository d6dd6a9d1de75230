package lb

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func FuzzClassify(f *testing.F) {
	for _, s := range []string{
		"SELECT 1", "select f(a) from t where b = 'x' -- c\n", "/* a /* b */ */ VALUES (1), (2)",
		"WITH a (b) AS (DELETE FROM t RETURNING *) SELECT * FROM a", "COPY (SELECT 1) TO STDOUT",
		"PREPARE a (int) AS SELECT $1", "EXECUTE a (1)", "SET LOCAL a.b = 1", "BEGIN READ ONLY",
		"SELECT E'\\'', $$x$$, U&\"\\0041\", B'1'\n'0', 1e5, .5, 0x1F", "SHOW pool_nodes",
		"CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END; SELECT 2", "SELECT ((1)", "\"a", "$a$", "'\\'",
		"SELECT set_config('a', $1, true), pg_catalog.set_config('a.b', 'x', false) AS y", "SELECT set_config(E'a', 'b', true)",
		"DO $$ BEGIN PERFORM f(); END $$ LANGUAGE plpgsql", "DO 'x' 'y'; SELECT 'z'", "do language sql ,",
		"SET a = 1; RESET b.c; SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SAVEPOINT a", "ROLLBACK TO SAVEPOINT b",
		"EXPLAIN (ANALYZE) SELECT 1", "CALL s.p(1)", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "DEALLOCATE",
	} {
		f.Add([]byte(s), true, true)
		f.Add([]byte(s), false, false)
	}
	c := newTestClassifier(f, Default())
	fresh := newTestClassifier(f, Config{})
	cat := testCatalog()
	f.Fuzz(func(t *testing.T, sql []byte, scs, safe bool) {
		if bytes.IndexByte(sql, 0) >= 0 {
			return // ends the string in every message
		}
		settings := LexSettings{StandardConformingStrings: scs, SafeEncoding: safe}
		var s Scratch
		classify := func(sql []byte) *Verdict { return c.Classify(cat, settings, sql, &s) }
		v := classify(sql)

		if got := *fresh.Classify(cat, settings, sql, &s); !reflect.DeepEqual(got, *v) {
			t.Fatalf("cached %+v, fresh %+v", *v, got)
		}
		if v.Read && (v.Unknown || v.Why != "") || !v.Read && v.Why == "" {
			t.Fatalf("inconsistent verdict %+v", *v)
		}
		if v.Read && v.Effects&^EffectMayChangeState != 0 {
			t.Fatalf("a read with effects %s", v.Effects)
		}
		checkInvariants(t, v)
		if changes, ok := SetConfig(sql, settings); ok &&
			(len(changes) == 0 || v.Statements != 1 || v.Effects&(EffectSetConfig|EffectMayChangeState) != EffectSetConfig) {
			t.Fatalf("SetConfig tells %v, the verdict %+v", changes, *v)
		}
		if v.Read && !safe {
			t.Fatal("a read in an encoding that cannot be read")
		}
		if !v.Read {
			return
		}
		if got := classify(append(bytes.Clone(sql), "\n/* comment */ -- and another"...)); !got.Read || got.Statements != v.Statements {
			t.Fatalf("a comment behind it makes %+v of a read", *got)
		}
		if got := classify(append([]byte("/* pgproxy: primary */"), sql...)); got.Read {
			t.Fatal("the hint for the primary is not obeyed")
		}
		if got := classify(append(bytes.Clone(sql), "\n; DELETE FROM t"...)); got.Read || got.Statements != v.Statements+1 {
			t.Fatalf("a DELETE behind it gives %+v", *got)
		}
		if got := fresh.Classify(nil, settings, sql, &s); got.Read && v.Statements > 0 && v.Hint != ToStandby {
			t.Fatal("a read before the catalog is loaded")
		}
		for _, word := range []string{"insert", "update", "delete", "merge", "set", "begin", "call", "do"} {
			if strings.HasPrefix(strings.ToLower(string(sql)), word+" ") {
				t.Fatalf("%s is a read", word)
			}
		}
		if got := classify(append([]byte("INSERT "), sql...)); v.Statements > 0 && got.Read {
			t.Fatal("INSERT before it is a read")
		}
	})
}

// checkInvariants holds what the parts of a verdict say against each other.
func checkInvariants(t *testing.T, v *Verdict) {
	t.Helper()
	has := func(e Effect) bool { return v.Effects&e != 0 }
	fields := 0
	for _, set := range []bool{v.Setting != "", v.Settings != nil} {
		if set {
			fields++
		}
	}
	switch {
	case has(EffectSet) != (fields == 1) && !has(EffectUnknownInSession), fields > 1:
		t.Fatalf("settings %q and %q with effects %s", v.Setting, v.Settings, v.Effects)
	case len(v.Settings) == 1, v.Settings != nil && has(EffectUnknownInSession|EffectSetLocal|EffectResetAll|EffectDiscardAll):
		t.Fatalf("settings %q with effects %s", v.Settings, v.Effects)
	case has(EffectCustom) != (len(v.Custom) > 0):
		t.Fatalf("custom settings %q with effects %s", v.Custom, v.Effects)
	case v.Savepoint != NoSavepoint && (v.Statements != 1 || v.Name == "" || !has(EffectSavepoint)):
		t.Fatalf("inconsistent savepoint %+v", *v)
	case v.Rollback && (v.Statements != 1 || !has(EffectEnd)):
		t.Fatalf("inconsistent rollback %+v", *v)
	}
}
