package routing

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// statementOptions are repeated at the head of the script. Reads that may miss
// something are at once on the standbys again after a write.
var statementOptions = proxytest.Options{Balance: `mode: statement, consistency: eventual,
  read_functions: [vouched], write_functions: [declared_wrongly], primary_patterns: ['orders_\d+'], redirects: [
    {user: reports, to: primary}, {database: archive, to: primary}, {application: 'nightly_\d+', to: h3}]`}

// TestStatements runs testdata/statements.txt.
func TestStatements(t *testing.T) {
	fixtures, err := os.ReadFile("testdata/fixtures.sql")
	must(t, err)
	f := newFixture(t, string(fixtures))
	for _, sql := range []string{
		"CREATE ROLE reports LOGIN PASSWORD '" + pgtest.Password("reports") + "'",
		"ALTER ROLE reports SET log_statement = 'all'",
		"CREATE DATABASE archive OWNER app",
	} {
		must(t, f.Primary().Exec(t.Context(), "postgres", sql))
	}
	must(t, f.WaitForCatchup(t.Context()))
	s := &script{fixture: f, proxy: f.start(t, statementOptions)}
	s.connect(t, map[string]string{})
	defer func() { must(t, s.conn.Close(t.Context())) }()
	datadriven.RunTest(t, "testdata/statements.txt", s.run)
}

// script is the state of a run: one session at a time.
type script struct {
	*fixture
	proxy *proxytest.Proxy
	conn  *pgconn.PgConn
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var out strings.Builder
	switch d.Cmd {
	case "session":
		params := make(map[string]string)
		for _, arg := range d.CmdArgs {
			params[arg.Key] = arg.Vals[0]
		}
		must(t, s.conn.Close(t.Context()))
		s.connect(t, params)
	case "catalog":
		s.awaitReads(t)
	case "run":
		for _, sql := range lines(d.Input) {
			fmt.Fprintln(&out, s.inAllProtocols(t, sql))
		}
	case "server":
		for _, sql := range lines(d.Input) {
			marked, tag := s.mark(sql)
			_, err := ask(t.Context(), s.conn, simple, "", marked)
			must(t, err)
			fmt.Fprintln(&out, strings.Join(s.ranOn(t, tag), " and "))
		}
	case "simple", "answer":
		for _, sql := range lines(d.Input) {
			where, value := s.where(t, simple, sql)
			if d.Cmd == "answer" {
				where += ": " + value
			}
			fmt.Fprintln(&out, where)
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return out.String()
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

// connect opens a session with other startup parameters than usual.
func (s *script) connect(t *testing.T, params map[string]string) {
	t.Helper()
	database, user := pgtest.AppDatabase, pgtest.AppUser
	if v := params["database"]; v != "" {
		database = v
	}
	if v := params["user"]; v != "" {
		user = v
	}
	dsn := s.proxy.DSN(database, user)
	if v := params["application_name"]; v != "" {
		dsn += " application_name=" + v
	}
	var err error
	s.conn, err = pgconn.Connect(t.Context(), dsn)
	must(t, err)
}

// awaitReads waits until a session without a past reads from a standby.
func (s *script) awaitReads(t *testing.T) {
	t.Helper()
	conn := connect(t, s.proxy)
	await(t, "a read on a standby", func(ctx context.Context) bool {
		sql, tag := s.mark("SELECT 1")
		_, err := ask(ctx, conn, simple, "", sql)
		must(t, err)
		return s.role(t, tag) == "standby"
	})
	must(t, conn.Close(t.Context()))
}

// inAllProtocols runs a statement in every way and says where: once when that is
// always the same.
func (s *script) inAllProtocols(t *testing.T, sql string) string {
	t.Helper()
	var all [protocols]string
	same := true
	for p := range protocols {
		all[p], _ = s.where(t, p, sql)
		same = same && all[p] == all[0]
	}
	if same {
		return all[0]
	}
	var parts []string
	for p := range protocols {
		parts = append(parts, p.String()+" "+all[p])
	}
	return strings.Join(parts, ", ")
}

// where runs a statement and says where, with the error that the client got.
func (s *script) where(t *testing.T, p protocol, sql string) (where, value string) {
	t.Helper()
	marked, tag := s.mark(sql)
	value, err := ask(t.Context(), s.conn, p, tag, marked)
	where = s.role(t, tag)
	if err != nil {
		where += ", error " + code(err)
	}
	return where, value
}
