package lb

import (
	"fmt"
	"testing"
)

// TestBodies: what a source does to its session by itself.
func TestBodies(t *testing.T) {
	for _, c := range []struct {
		body string
		want Effect
	}{
		{"SELECT 1", 0},
		{"", 0},
		{"BEGIN UPDATE t SET a = 1; UPDATE ONLY \"public\".t * AS x SET (a, b) = (1, 2); END", 0},
		{"BEGIN INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2; END", 0},
		{"MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT (a) VALUES (1)", 0},
		{"WITH x AS (UPDATE t SET a = 1 RETURNING *) SELECT * FROM x", 0},
		{"BEGIN FOR r IN SELECT * FROM t FOR UPDATE LOOP UPDATE t SET a = 1; END LOOP; END", 0},
		{"BEGIN FOR r IN SELECT * FROM t FOR UPDATE LOOP SET work_mem = '1MB'; END LOOP; END", EffectMayChangeState},
		{"BEGIN FOR r IN SELECT * FROM t FOR NO KEY UPDATE LOOP SET work_mem = '1MB'; END LOOP; END", EffectMayChangeState},
		{"BEGIN UPDATE t SET a = 1; SET work_mem = '1MB'; END", EffectMayChangeState},
		{"BEGIN -- update t\n SET work_mem = '1MB'; END", EffectMayChangeState},
		{"BEGIN /* update */ SET SESSION work_mem = '1MB'; END", EffectMayChangeState},
		{"DECLARE update bool; BEGIN IF update THEN SET work_mem = '1MB'; END IF; END", EffectMayChangeState},
		{"BEGIN IF a THEN NULL; ELSE SET ROLE x; END IF; END", EffectMayChangeState},
		{"<<l>> BEGIN <<m>> LOOP SET ROLE x; END LOOP; END", EffectMayChangeState},
		{"set search_path to x; select 1", EffectMayChangeState},
		{"BEGIN SET LOCAL work_mem = '1MB'; SET TRANSACTION READ ONLY; SET CONSTRAINTS ALL DEFERRED; END", 0},
		{"BEGIN SET LOCAL app.tenant = '1'; END", EffectMayChangeState},
		{"BEGIN RAISE NOTICE 'SET work_mem, EXECUTE, LISTEN, LOAD'; END", 0},
		{"BEGIN x := $q$ EXECUTE 'SET' $q$; END", 0},
		{"BEGIN EXECUTE 'SET ROLE x'; END", EffectMayChangeState},
		{"BEGIN RETURN QUERY EXECUTE format('x'); END", EffectMayChangeState},
		{"BEGIN RESET ALL; END", EffectMayChangeState},
		{"BEGIN LISTEN x; END", EffectMayChangeState},
		{"UNLISTEN *", EffectMayChangeState},
		{"DISCARD PLANS", EffectMayChangeState},
		{"PREPARE p AS SELECT 1", EffectMayChangeState},
		{"DEALLOCATE ALL", EffectMayChangeState},
		{"LOAD 'x'", EffectMayChangeState | EffectLeftover},
		{"SELECT t.load, load FROM t", 0},
		{"BEGIN CREATE TEMP TABLE x (a int); END", EffectMayChangeState},
		{"CREATE LOCAL TEMPORARY TABLE x (a int)", EffectMayChangeState},
		{"SELECT 1 INTO TEMP x", EffectMayChangeState},
		{"DECLARE temp int := 1; BEGIN temp := temp + 1; RETURN temp; END", 0},
		{"INSERT INTO pg_temp.x VALUES (1)", EffectMayChangeState},
		{"DECLARE c CURSOR WITH HOLD FOR SELECT 1", EffectMayChangeState},
		{"BEGIN SELECT t.set, r.execute, n.reset INTO x FROM t; END", 0},
		{"ALTER TABLE t ALTER a SET DEFAULT 1; ALTER TABLE t SET (fillfactor = 10)", 0},
		{"ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u ON UPDATE SET NULL ON DELETE SET NULL", 0},
		{"DO $$ BEGIN END $$", EffectMayChangeState},
		{"DO LANGUAGE plpgsql $$ BEGIN END $$", EffectMayChangeState},
		{"BEGIN x := 'a\\'; SET ROLE y; --'; END", EffectMayChangeState | EffectLeftover},
		{"BEGIN x := 'unfinished", EffectMayChangeState | EffectLeftover},
		{"SELECT U&\"set_config\"('a', 'b', false)", EffectMayChangeState | EffectLeftover},
		{"CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql SET work_mem TO '1MB' BEGIN ATOMIC SELECT 1; END", 0},
		{"CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql SET work_mem TO '1MB' RETURN 1", 0},
		{"SELECT größe(1)", EffectMayChangeState},
	} {
		if got, _ := readBody(c.body); got != c.want {
			t.Errorf("%s: %s, want %s", c.body, got, c.want)
		}
	}
}

// TestRoutinesThatCallOthers: what is called counts, as far as names tell.
func TestRoutinesThatCallOthers(t *testing.T) {
	nobody := func(string) bool { return false }
	c := NewCatalog([]FunctionRow{
		{Name: "sets", Bodies: []string{"SELECT 1", "SET ROLE x"}},
		{Name: "foreign_f", Opaque: true},
		{Name: "a", Bodies: []string{"SELECT b()"}},
		{Name: "b", Bodies: []string{"SELECT c(1), a()"}},
		{Name: "c", Bodies: []string{"SELECT s.sets() FROM b"}},
		{Name: "attribute", Bodies: []string{"SELECT t.sets FROM t"}},
		{Name: "column_f", Bodies: []string{"SELECT sets FROM t"}},
		{Name: "locks", Bodies: []string{"SELECT pg_advisory_lock(1)"}},
		{Name: "locks_shortly", Bodies: []string{"SELECT pg_advisory_xact_lock(1)"}},
		{Name: "configures", Bodies: []string{"SELECT set_config('a', 'b', true)"}},
		{Name: "remote", Bodies: []string{"BEGIN PERFORM dblink_exec('x'); END"}},
		{Name: "dynamic", Bodies: []string{"SELECT query_to_xml('x', true, true, '')"}},
		{Name: "sequence", Bodies: []string{"INSERT INTO t VALUES (nextval('s')); SELECT lastval()"}},
		{Name: "calls_p", Bodies: []string{"BEGIN CALL s.p(1); END"}},
		{Name: "calls_nobody", Bodies: []string{"BEGIN CALL nobody_knows(); END"}},
		{Name: "calls_quiet", Bodies: []string{"BEGIN CALL quiet(); END"}},
		{Name: "p", Kind: KindProcedure, Bodies: []string{"BEGIN PERFORM foreign_f(); END"}},
		{Name: "quiet", Kind: KindProcedure, Bodies: []string{"BEGIN COMMIT; END"}},
		{Name: "quiet", Bodies: []string{"SELECT sets()"}},
		{Name: "itself", Bodies: []string{"SELECT itself()"}},
		{Name: "t", Kind: KindTrigger, Bodies: []string{"BEGIN PERFORM a(); END"}},
	}, nil)
	for _, want := range []struct {
		k       routine
		effects Effect
		exempt  string
	}{
		{k: routine{KindFunction, "sets"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "foreign_f"}, effects: changes},
		{k: routine{KindFunction, "a"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "b"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "c"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "a"}, exempt: "sets"},
		{k: routine{KindFunction, "a"}, exempt: "b"},
		{k: routine{KindFunction, "a"}, exempt: "a"},
		{k: routine{KindFunction, "a"}, exempt: "locks", effects: EffectMayChangeState},
		{k: routine{KindFunction, "attribute"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "column_f"}},
		{k: routine{KindFunction, "locks"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "locks_shortly"}},
		{k: routine{KindFunction, "configures"}, effects: changes},
		{k: routine{KindFunction, "configures"}, exempt: "set_config"},
		{k: routine{KindFunction, "remote"}, effects: changes},
		{k: routine{KindFunction, "dynamic"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "sequence"}},
		{k: routine{KindFunction, "calls_p"}, effects: changes},
		{k: routine{KindFunction, "calls_nobody"}, effects: changes},
		{k: routine{KindFunction, "calls_quiet"}},
		{k: routine{KindProcedure, "p"}, effects: changes},
		{k: routine{KindProcedure, "quiet"}},
		{k: routine{KindFunction, "quiet"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "itself"}},
		{k: routine{KindTrigger, "t"}, effects: EffectMayChangeState},
		{k: routine{KindFunction, "t"}},
	} {
		exempt := nobody
		if want.exempt != "" {
			exempt = func(name string) bool { return name == want.exempt }
		}
		if got := c.does(want.k, exempt); got != want.effects {
			t.Errorf("%s %s without %q: %s, want %s", want.k.kind, want.k.name, want.exempt, got, want.effects)
		}
	}
}

// TestManyRoutines: a chain as long as a catalog is followed to its end.
func TestManyRoutines(t *testing.T) {
	const n = 20000
	rows := []FunctionRow{{Name: "f0", Bodies: []string{"LISTEN x"}}}
	for i := 1; i < n; i++ {
		rows = append(rows, FunctionRow{Name: fmt.Sprintf("f%d", i), Bodies: []string{fmt.Sprintf("SELECT f%d()", i-1)}})
	}
	c := NewCatalog(rows, nil)
	if got := c.does(routine{KindFunction, fmt.Sprintf("f%d", n-1)}, func(string) bool { return false }); got != EffectMayChangeState {
		t.Errorf("the end of the chain: %s", got)
	}
}
