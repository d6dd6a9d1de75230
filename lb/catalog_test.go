package lb_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/lb"
)

// loadCatalog runs the two queries as the monitor role, which has no rights here.
func loadCatalog(t *testing.T, server *pgtest.Server) ([]lb.FunctionRow, []lb.RelationRow) {
	t.Helper()
	config, err := pgx.ParseConfig(server.DSN("postgres", pgtest.MonitorUser))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = "pg_catalog"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), lb.FunctionsQuery)
	if err != nil {
		t.Fatal(err)
	}
	functions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[lb.FunctionRow])
	if err != nil {
		t.Fatal(err)
	}
	rows, err = conn.Query(t.Context(), lb.RelationsQuery)
	if err != nil {
		t.Fatal(err)
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[lb.RelationRow])
	if err != nil {
		t.Fatal(err)
	}
	return functions, relations
}

// TestFingerprint: the fingerprint changes with what the queries see, and only then.
func TestFingerprint(t *testing.T) {
	server := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	fingerprint := func() string {
		t.Helper()
		got, err := server.QueryValue(t.Context(), "postgres", lb.FingerprintQuery)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	exec := func(sql string) {
		t.Helper()
		if err := server.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE busy (a int)")
	before := fingerprint()
	for _, sql := range []string{
		"CREATE TABLE t (a int)",
		"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"ALTER FUNCTION f() STABLE",
		"CREATE VIEW v AS SELECT 1 AS a",
		"CREATE OR REPLACE VIEW v AS SELECT 2 AS a",
		"ALTER TABLE t ENABLE ROW LEVEL SECURITY",
		"CREATE POLICY p ON t USING (a = 1)",
		"ALTER POLICY p ON t USING (a = 2)",
		"CREATE TABLE c () INHERITS (t)",
		"ALTER TABLE c NO INHERIT t",
		"ALTER TABLE t SET UNLOGGED",
		"ALTER TABLE c RENAME TO d",
		"DROP FUNCTION f()",
	} {
		exec(sql)
		after := fingerprint()
		if after == before {
			t.Errorf("%s does not change the fingerprint", sql)
		}
		before = after
	}
	exec("INSERT INTO busy SELECT generate_series(1, 1000); ANALYZE busy; UPDATE busy SET a = 1; DELETE FROM busy; CREATE TEMP TABLE x (a int)")
	exec("VACUUM busy")
	if fingerprint() != before {
		t.Error("the fingerprint changed although no definition did")
	}
}

// TestCatalogQueries makes objects by script on a real server and shows what the
// queries say about them and what that makes of statements.
func TestCatalogQueries(t *testing.T) {
	cluster := pgtest.StartCluster(t, pgtest.Options{})
	server := cluster.Primary()
	var functions []lb.FunctionRow
	var relations []lb.RelationRow
	datadriven.RunTest(t, "testdata/catalog.txt", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		switch d.Cmd {
		case "exec":
			if err := server.Exec(t.Context(), "postgres", d.Input); err != nil {
				return err.Error()
			}
			functions, relations = loadCatalog(t, server)
		case "functions": // one name a line
			for _, name := range strings.Fields(d.Input) {
				there := false
				for _, f := range functions {
					if f.Name == name {
						there = true
						fmt.Fprintf(&out, "%s: %s volatile=%t argument=%t opaque=%t bodies=%d\n",
							f.Name, f.Kind, f.Volatile, f.Argument, f.Opaque, len(f.Bodies))
					}
				}
				if !there {
					fmt.Fprintf(&out, "%s: not there\n", name)
				}
			}
		case "relations":
			lines := make([]string, 0, len(relations))
			for _, r := range relations {
				lines = append(lines, fmt.Sprintf("%s: %s %s\n", r.Name, r.Kind, r.Ref))
			}
			slices.Sort(lines)
			return strings.Join(lines, "")
		case "classify":
			c, err := lb.NewClassifier(lb.Default())
			if err != nil {
				t.Fatal(err)
			}
			catalog := lb.NewCatalog(functions, relations)
			var scratch lb.Scratch
			for _, text := range strings.Split(d.Input, "\n") {
				v := c.Classify(catalog, lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true}, []byte(text), &scratch)
				if v.Read {
					fmt.Fprint(&out, "read")
				} else {
					fmt.Fprintf(&out, "primary: %s", v.Why)
				}
				if v.Effects != 0 {
					fmt.Fprintf(&out, " | %s", v.Effects)
				}
				fmt.Fprintln(&out)
			}
		default:
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		return out.String()
	})
}
