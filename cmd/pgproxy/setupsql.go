package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/failover/agent"
)

// maxRoleName is the longest name of a role, in bytes; PostgreSQL cuts what is longer
// (NAMEDATALEN - 1).
const maxRoleName = 63

// setupSQLCommand prints what a superuser runs once on the primary, in the database
// that monitor.database names.
type setupSQLCommand struct {
	User        string // monitor.user
	Replication string // agent.replication.user; "": this host's servers have no agents
	Stdout      io.Writer
}

func newSetupSQLCommand() *cobra.Command {
	var c setupSQLCommand
	cmd := &cobra.Command{
		Use:   "setup-sql",
		Short: "Print the SQL that makes the monitor role and the lookup function",
		Long: `Print the SQL that gives the monitor role its rights and makes the function that looks up
password verifiers. A superuser runs it once on the primary, in the database that
monitor.database names:

    pgproxy setup-sql | psql -h PRIMARY -U postgres -d postgres

With --replication it also makes the role that the agents' standbys, base backups and
rewinds connect as (agent.replication.user), and gives it what pg_rewind needs. That is
looked for in the database postgres.

It may be run again. It sets no password; psql's \password does.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Stdout = cmd.OutOrStdout()
			return c.Run()
		},
	}
	cmd.Flags().StringVar(&c.User, "user", "pgproxy", "the monitor role, as monitor.user has it")
	cmd.Flags().StringVar(&c.Replication, "replication", "", "the replication role, as agent.replication.user has it")
	return cmd
}

// Run prints the SQL.
func (c *setupSQLCommand) Run() error {
	switch {
	case c.User == "":
		return usageError{errors.New("--user is empty")}
	case len(c.User) > maxRoleName:
		return usageError{fmt.Errorf("--user is longer than %d bytes", maxRoleName)}
	case len(c.Replication) > maxRoleName:
		return usageError{fmt.Errorf("--replication is longer than %d bytes", maxRoleName)}
	}
	sql := setupSQL(c.User)
	if c.Replication != "" {
		sql += replicationSQL(c.Replication)
	}
	if _, err := io.WriteString(c.Stdout, sql); err != nil {
		return fmt.Errorf("print SQL: %w", err)
	}
	return nil
}

// setupSQL returns the SQL for that monitor role. It runs on PostgreSQL 13 to 18, any
// number of times.
//
// The function is made anew each time, so that it belongs to the superuser who runs
// this and nobody but the monitor role may call it, whatever was there before.
func setupSQL(role string) string {
	check := fmt.Sprintf(`
BEGIN
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RAISE EXCEPTION 'this must be run by a superuser, not by %%', current_user;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %[1]s) THEN
    CREATE ROLE %[2]s LOGIN;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %%I TO %%I', current_database(), %[1]s);
END
`, quoteLiteral(role), quoteIdentifier(role))
	return fmt.Sprintf(`-- The rights of pgproxy's monitor role, and the function that looks up password verifiers.
-- To be run by a superuser on the primary, in the database that monitor.database names.
-- It may be run again; it sets no password.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO %[1]s;

GRANT pg_monitor TO %[2]s;

CREATE SCHEMA IF NOT EXISTS pgproxy;
ALTER SCHEMA pgproxy OWNER TO CURRENT_USER;
REVOKE ALL ON SCHEMA pgproxy FROM PUBLIC;
GRANT USAGE ON SCHEMA pgproxy TO %[2]s;

DROP FUNCTION IF EXISTS pgproxy.user_lookup(text);
CREATE FUNCTION pgproxy.user_lookup(name text)
RETURNS TABLE (rolname text, verifier text, can_login boolean, valid_until timestamptz)
LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.rolname::text, a.rolpassword, a.rolcanlogin, a.rolvaliduntil
  FROM pg_catalog.pg_authid AS a
  WHERE a.rolname = $1
$$;
REVOKE ALL ON FUNCTION pgproxy.user_lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgproxy.user_lookup(text) TO %[2]s;
COMMIT;
`, dollarQuote(check), quoteIdentifier(role))
}

// replicationSQL returns the SQL for the role that standbys and agents connect as to
// another server, for PostgreSQL 13 to 18 and any number of times. It is run after
// setupSQL, which has seen that a superuser runs it.
func replicationSQL(role string) string {
	do := fmt.Sprintf(`
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %[1]s) THEN
    CREATE ROLE %[2]s LOGIN REPLICATION;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = %[3]s) THEN
    GRANT %[4]s TO %[2]s;
  END IF;
END
`, quoteLiteral(role), quoteIdentifier(role), quoteLiteral(agent.CheckpointRole), quoteIdentifier(agent.CheckpointRole))
	return fmt.Sprintf(`
-- The role of standbys, base backups and rewinds.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO %s;
%sCOMMIT;
`, dollarQuote(do), agent.SetupSQL(quoteIdentifier(role)))
}

// quoteIdentifier quotes a name (PostgreSQL manual, 4.1.1).
func quoteIdentifier(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// quoteLiteral quotes a text whatever standard_conforming_strings is (PostgreSQL
// manual, 4.1.2).
func quoteLiteral(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(quoted, `\`) {
		quoted = " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// dollarQuote quotes a text by a tag that does not occur in it (PostgreSQL manual,
// 4.1.2.4).
func dollarQuote(text string) string {
	tag := "$do$"
	for i := 0; strings.Contains(text, tag); i++ {
		tag = fmt.Sprintf("$do%d$", i)
	}
	return tag + text + tag
}
