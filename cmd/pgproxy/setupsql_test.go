package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

func TestQuoting(t *testing.T) {
	tests := []struct{ name, identifier, literal string }{
		{`pgproxy`, `"pgproxy"`, `'pgproxy'`},
		{`O'Hara "x"`, `"O'Hara ""x"""`, `'O''Hara "x"'`},
		{`a\'b`, `"a\'b"`, ` E'a\\''b'`},
	}
	for _, tt := range tests {
		if got := quoteIdentifier(tt.name); got != tt.identifier {
			t.Errorf("identifier: got %s, want %s", got, tt.identifier)
		}
		if got := quoteLiteral(tt.name); got != tt.literal {
			t.Errorf("literal: got %s, want %s", got, tt.literal)
		}
	}
	if got := dollarQuote("a $do$ b $do0$"); got != "$do1$a $do$ b $do0$$do1$" {
		t.Errorf("dollar quote: got %s", got)
	}
}

func TestSetupSQL(t *testing.T) {
	ctx := t.Context()
	server := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	super, err := server.Conn(ctx, "postgres", pgtest.Superuser)
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(ctx)
	exec := func(sql string) {
		t.Helper()
		if _, err := super.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
	}
	// value runs a query of one text.
	value := func(conn *pgx.Conn, sql string, args ...any) string {
		t.Helper()
		var got string
		if err := conn.QueryRow(ctx, sql, args...).Scan(&got); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
		return got
	}

	// What a former run for another role, or somebody else, may have left behind.
	exec(`create role intruder login;
		create schema pgproxy authorization intruder;
		create function pgproxy.user_lookup(text) returns int language sql as 'select 1';
		alter function pgproxy.user_lookup(text) owner to intruder;
		grant execute on function pgproxy.user_lookup(text) to app`)
	exec(setupSQL(pgtest.MonitorUser))
	exec(setupSQL(pgtest.MonitorUser))

	exec(`create role expired nologin password 'x' valid until '2001-02-03 04:05:06+00';
		create role nopassword login;
		create role """it's $do$ \ me" login password 'y'`)
	monitor, err := server.Conn(ctx, "postgres", pgtest.MonitorUser)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close(ctx)

	t.Run("lookup", func(t *testing.T) {
		lookup := "select coalesce(string_agg(format('%s %s %s %s', rolname, left(verifier, 14), can_login," +
			" valid_until at time zone 'utc'), ','), 'none') from (" + auth.LookupQuery + ") r"
		for name, want := range map[string]string{
			"app":                   "app SCRAM-SHA-256$ t ",
			"postgres":              "postgres SCRAM-SHA-256$ t ",
			"nopassword":            "nopassword  t ",
			"expired":               "expired SCRAM-SHA-256$ f 2001-02-03 04:05:06",
			"nobody":                "none",
			"":                      "none",
			`"it's $do$ \ me`:       `"it's $do$ \ me SCRAM-SHA-256$ t `,
			"app' or '1'='1":        "none",
			strings.Repeat("x", 64): "none",
		} {
			if got := value(monitor, lookup, name); got != want {
				t.Errorf("%q: got %q, want %q", name, got, want)
			}
		}
		if got, want := value(monitor, "select verifier from ("+auth.LookupQuery+") r", "app"),
			value(super, "select rolpassword from pg_authid where rolname = 'app'"); got != want {
			t.Errorf("verifier: got %s, want %s", got, want)
		}
	})

	t.Run("search path", func(t *testing.T) {
		// Neither a temporary table nor the caller's search_path may stand for the catalog.
		if _, err := monitor.PgConn().Exec(ctx, `create temporary table pg_authid as
			select 'nobody'::name rolname, 'forged'::text rolpassword, true rolcanlogin, now() rolvaliduntil;
			set search_path = pg_temp, pg_catalog`).ReadAll(); err != nil {
			t.Fatal(err)
		}
		if got := value(monitor, "select count(*)::text from pgproxy.user_lookup('nobody')"); got != "0" {
			t.Errorf("the lookup found %s forged roles", got)
		}
	})

	t.Run("rights", func(t *testing.T) {
		for sql, want := range map[string]string{
			"select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'pgproxy'":                       "postgres",
			"select nspacl::text from pg_namespace where nspname = 'pgproxy'":                                    "{postgres=UC/postgres,pgproxy=U/postgres}",
			"select pg_get_userbyid(proowner) from pg_proc where proname = 'user_lookup'":                        "postgres",
			"select proacl::text from pg_proc where proname = 'user_lookup'":                                     "{postgres=X/postgres,pgproxy=X/postgres}",
			"select pg_has_role('pgproxy', 'pg_monitor', 'usage')::text":                                         "true",
			"select has_table_privilege('pgproxy', 'pg_authid', 'select')::text":                                 "false",
			"select (rolsuper or rolcreaterole or rolcreatedb)::text from pg_roles where rolname = 'pgproxy'":    "false",
			"select has_function_privilege('intruder', 'pgproxy.user_lookup(text)', 'execute')::text":            "false",
			"select has_schema_privilege('intruder', 'pgproxy', 'create')::text":                                 "false",
			"select rolpassword from pg_authid where rolname = 'pgproxy' and rolpassword like 'SCRAM-SHA-256$%'": value(super, "select rolpassword from pg_authid where rolname = 'pgproxy'"),
		} {
			if got := value(super, sql); got != want {
				t.Errorf("%s: got %s, want %s", sql, got, want)
			}
		}
	})

	t.Run("refused to others", func(t *testing.T) {
		app, err := server.Conn(ctx, "postgres", pgtest.AppUser)
		if err != nil {
			t.Fatal(err)
		}
		defer app.Close(ctx)
		if _, err := app.Exec(ctx, "select pgproxy.user_lookup('app')"); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("lookup by another role: got %v", err)
		}
		_, err = app.PgConn().Exec(ctx, setupSQL("other")).ReadAll()
		if err == nil || !strings.Contains(err.Error(), "this must be run by a superuser, not by app") {
			t.Errorf("setup by another role: got %v", err)
		}
		if got := value(super, "select count(*)::text from pg_roles where rolname = 'other'"); got != "0" {
			t.Error("the role was made although the setup was refused")
		}
	})

	t.Run("names that need quoting", func(t *testing.T) {
		for _, name := range []string{`Monitor Role`, `o'hara`, `dou"ble`, `$do$`, `back\slash'`, "new\nline", "ünïcode", "--"} {
			for _, conforming := range []string{"on", "off"} {
				exec("set standard_conforming_strings = " + conforming)
				exec(setupSQL(name))
				exec("reset standard_conforming_strings")
			}
			granted := "select (rolcanlogin and pg_has_role(oid, 'pg_monitor', 'usage')" +
				" and has_function_privilege(oid, 'pgproxy.user_lookup(text)', 'execute'))::text from pg_roles where rolname = $1"
			if got := value(super, granted, name); got != "true" {
				t.Errorf("%q was not given its rights", name)
			}
		}
	})
}

// TestReplicationSQL: the role can do what an agent does with it, on this server what
// pg_rewind's manual page and a checkpoint ask for, and is no superuser.
func TestReplicationSQL(t *testing.T) {
	ctx := t.Context()
	server := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	const role = `it's "repl" \`
	for range 2 {
		for _, sql := range []string{setupSQL(pgtest.MonitorUser), replicationSQL(role)} {
			if err := server.Exec(ctx, "postgres", sql); err != nil {
				t.Fatalf("%v\n%s", err, sql)
			}
		}
	}
	super, err := server.Conn(ctx, "postgres", pgtest.Superuser)
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(ctx)
	if _, err := super.Exec(ctx, "set role "+quoteIdentifier(role)); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"select pg_ls_dir('.', true, false)",
		"select pg_stat_file('PG_VERSION', true)",
		"select pg_read_binary_file('PG_VERSION')",
		"select pg_read_binary_file('PG_VERSION', 0, 1, true)",
		"select timeline_id from pg_control_checkpoint()",
		"select pg_tablespace_size(oid) from pg_tablespace",
		"checkpoint",
	} {
		if _, err := super.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	for _, sql := range []string{"select * from pg_authid", "create role another"} {
		if _, err := super.Exec(ctx, sql); err == nil {
			t.Errorf("%s was allowed", sql)
		}
	}
	var can bool
	if err := super.QueryRow(ctx, "select rolreplication and rolcanlogin and not rolsuper from pg_roles where rolname = $1", role).Scan(&can); err != nil || !can {
		t.Errorf("a role that logs in for replication and is no superuser: %t, %v", can, err)
	}
}
