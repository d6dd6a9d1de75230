package lb

import (
	"slices"
	"testing"
)

func TestSetConfig(t *testing.T) {
	change := func(name string, local bool) ConfigChange { return ConfigChange{Name: name, Local: local} }
	for _, c := range []struct {
		sql  string
		want []ConfigChange // nil: cannot be told
	}{
		{"SELECT set_config('work_mem', '64MB', false)", []ConfigChange{change("work_mem", false)}},
		{"select pg_catalog.set_config('Search_Path', $1, true);", []ConfigChange{change("search_path", true)}},
		{`SELECT "pg_catalog"."set_config"('role'::text, $1::text, true::boolean)::varchar(3) AS "r"`, []ConfigChange{change("role", true)}},
		{
			"SELECT set_config('a', '1', true), set_config($$app.tenant$$, $1, false) x, set_config('a', NULL, false)",
			[]ConfigChange{change("a", true), change("app.tenant", false), change("a", false)},
		},
		{"SELECT set_config('a', E'x\\n', true)", []ConfigChange{change("a", true)}},
		{"/* c */ SELECT set_config -- c\n ('a', 'x' \n 'y', TRUE)", []ConfigChange{change("a", true)}},
		{"SELECT set_config($1, 'x', true)", nil},
		{"SELECT set_config('a', 'x', $1)", nil},
		{"SELECT set_config('a', 'x', 'true')", nil},
		{"SELECT set_config('a', 'x', NULL)", nil},
		{"SELECT set_config(NULL, 'x', true)", nil},
		{"SELECT set_config(E'a', 'x', true)", nil},
		{"SELECT set_config('a' \n 'b', 'x', true)", nil},
		{"SELECT set_config('a''b', 'x', true)", nil},
		{"SELECT set_config('größe.a', 'x', true)", nil},
		{"SELECT set_config('a'::varchar(1), 'x', true)", nil},
		{"SELECT set_config('seed', '0.5', false)", nil},
		{"SELECT set_config('transaction_isolation', 'serializable', false)", nil},
		{"SELECT set_config('a', 'x', true), f()", nil},
		{"SELECT set_config('a', f(), true)", nil},
		{"SELECT set_config('a', 'x', true) FROM t", nil},
		{"SELECT set_config('a', 'x')", nil},
		{"SELECT set_config('a', 'x', true, 'y')", nil},
		{"SELECT set_config('a', 'x', true,)", nil},
		{"SELECT set_config('a', 'x', true),", nil},
		{"SELECT set_config('a', 'x', true); SELECT 1", nil},
		{"PREPARE p AS SELECT set_config('a', 'x', true)", nil},
		{"SELECT U&\"set_config\"('a', 'x', true)", nil},
		{"SELECT set_config('a', 'x\\'', true)", nil},
		{"SELECT 1", nil},
		{"", nil},
	} {
		got, ok := SetConfig([]byte(c.sql), usual)
		if ok != (c.want != nil) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %t, want %v", c.sql, got, ok, c.want)
		}
	}
	if _, ok := SetConfig([]byte("SELECT set_config('a', 'x', true)"), LexSettings{StandardConformingStrings: true}); ok {
		t.Error("told in an encoding that cannot be read")
	}
}
