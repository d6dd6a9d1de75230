package robustness

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// leftovers are what one client leaves on a server connection and the next one
// must not see.
var leftovers = []struct {
	name  string
	leave []string
	probe string // of one value
	want  string // empty: what a new session answers
	// closed: DISCARD ALL does not remove it, so that the connection is not reused.
	closed bool
}{
	{name: "nothing", leave: nil, probe: "SELECT 1"},
	{name: "a read", leave: []string{"SELECT count(*) FROM pg_class"}, probe: "SELECT 1"},
	{name: "a setting", leave: []string{"SET work_mem = '77MB'"}, probe: "SELECT current_setting('work_mem')"},
	{name: "a reported setting", leave: []string{"SET DateStyle = 'German'"}, probe: "SELECT current_setting('DateStyle')"},
	{name: "an application name", leave: []string{"SET application_name = 'left'"}, probe: "SELECT current_setting('application_name')"},
	{name: "a search path", leave: []string{"SET search_path = pg_catalog"}, probe: "SELECT current_setting('search_path')"},
	{name: "a setting by set_config", leave: []string{"SELECT set_config('work_mem', '78MB', false)"}, probe: "SELECT current_setting('work_mem')"},
	// Which setting it is the text does not tell: taken for a custom one.
	{
		name:  "a setting by set_config of a column",
		leave: []string{"SELECT set_config(name, '78MB', false) FROM (VALUES ('work_mem')) settings (name)"},
		probe: "SELECT current_setting('work_mem')", closed: true,
	},
	{name: "a temporary table", leave: []string{"CREATE TEMP TABLE left_temp (n int)"}, probe: "SELECT to_regclass('left_temp') IS NULL", want: "t"},
	{
		name: "an advisory lock", leave: []string{"SELECT pg_advisory_lock(4711)"},
		probe: "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", want: "0",
	},
	{name: "LISTEN", leave: []string{"LISTEN left_channel"}, probe: "SELECT count(*) FROM pg_listening_channels()", want: "0"},
	{name: "a prepared statement", leave: []string{"PREPARE left_statement AS SELECT 1"}, probe: "SELECT count(*) FROM pg_prepared_statements", want: "0"},
	{name: "a role", leave: []string{"SET ROLE other"}, probe: "SELECT current_user"},
	{
		name: "a sequence's last value", leave: []string{"SELECT nextval('seq')"},
		probe: "SELECT public.last_value_known()", want: "f",
	},
	{
		name: "an open transaction", leave: []string{"BEGIN", "INSERT INTO kept VALUES (1)", "SET LOCAL work_mem = '79MB'"},
		probe: "SELECT count(*) || current_setting('work_mem') FROM kept", want: "04MB",
	},
	{
		name: "a failed transaction", leave: []string{"BEGIN", "INSERT INTO kept VALUES (1)", "SELECT 1/0"},
		probe: "SELECT count(*) FROM kept", want: "0",
	},
	{name: "a cursor with hold", leave: []string{"DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 1"}, probe: "SELECT count(*) FROM pg_cursors", want: "0"},
	{
		name: "serializable transactions", leave: []string{"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"},
		probe: "SELECT current_setting('transaction_isolation')", want: "read committed",
	},
	{name: "a custom setting", leave: []string{"SET leftover.setting = 'x'"}, probe: "SELECT coalesce(current_setting('leftover.setting', true), 'none')", want: "none", closed: true},
	{
		name: "a custom setting in a function", leave: []string{"SELECT set_config('leftover.other', 'x', false)"},
		probe: "SELECT coalesce(current_setting('leftover.other', true), 'none')", want: "none", closed: true,
	},
	{
		name: "DO", leave: []string{"DO $$ BEGIN PERFORM set_config('leftover.third', 'x', false); END $$"},
		probe: "SELECT coalesce(current_setting('leftover.third', true), 'none')", want: "none", closed: true,
	},
	{name: "a seed", leave: []string{"SELECT setseed(0.5)"}, probe: "SELECT random() = " + afterSeed, want: "f", closed: true},
}

// afterSeed is the first random() after setseed(0.5), from version 15 on.
const afterSeed = "0.9851677175347999"

// TestReuse looks at what the next client gets from a server connection.
func TestReuse(t *testing.T) {
	r := startRig(t, 0, proxytest.Options{})
	must(t, r.cluster.Primary().Exec(t.Context(), pgtest.AppDatabase, `
		CREATE ROLE other; GRANT other TO app;
		CREATE SEQUENCE seq; GRANT ALL ON SEQUENCE seq TO app;
		CREATE TABLE kept (n int); ALTER TABLE kept OWNER TO app;
		CREATE FUNCTION public.last_value_known() RETURNS bool LANGUAGE plpgsql AS
			$$ BEGIN PERFORM lastval(); RETURN true; EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN false; END $$`))
	observer := r.connect(t, pgtest.AppUser)
	for _, l := range leftovers {
		r.run(t, l.name, func(t *testing.T) {
			// The connections of an application_name are its own.
			named := " application_name='" + strings.ReplaceAll(l.name, "'", "") + "'"
			want := l.want
			if want == "" {
				direct := openWire(t, r.cluster.Primary().DSN(pgtest.AppDatabase, pgtest.AppUser)+named)
				want = direct.value(l.probe)
				must(t, direct.Close())
			}
			dsn := r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser) + named
			first := openWire(t, dsn)
			pid := first.value("SELECT pg_backend_pid()")
			for _, sql := range l.leave {
				first.query(sql)
				first.ready()
			}
			first.send(pgwire.AppendEmpty(nil, pgwire.Terminate))
			first.ends()
			if l.closed {
				r.onPrimary(t, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", pid)
			} else {
				r.pooled(t, observer, pid)
			}
			next := openWire(t, dsn)
			if got := next.value(l.probe); got != want {
				t.Errorf("the next client sees %q, a new session %q", got, want)
			}
			if now := next.value("SELECT pg_backend_pid()"); (now == pid) == l.closed {
				t.Errorf("server process %s before, %s now", pid, now)
			}
		})
	}
}

// pooled waits until the connection to that server process lies in the pool.
func (r *rig) pooled(t *testing.T, observer *pgx.Conn, pid string) {
	t.Helper()
	await(t, func() error {
		results, err := observer.PgConn().Exec(t.Context(), "SHOW pool_pools").ReadAll()
		if err != nil {
			return err
		}
		at := make(map[string]int)
		for i, f := range results[0].FieldDescriptions {
			at[f.Name] = i
		}
		for _, row := range results[0].Rows {
			if string(row[at["pool_backendpid"]]) == pid && string(row[at["pool_connected"]]) == "0" {
				return nil
			}
		}
		return fmt.Errorf("server process %s is not idle in the pool", pid)
	})
}
