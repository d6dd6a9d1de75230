package routing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// patience bounds what waits for something that is certain to happen.
const patience = time.Minute

// binary is the path of pgproxy, which all tests run.
var binary string

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m, &binary)) }

// fixture is a cluster with tables, to put pgproxy in front of.
type fixture struct {
	*pgtest.Cluster
	read map[*pgtest.Server]int64 // of the servers' logs, in bytes
	tag  int                      // of the last statement
}

// newFixture starts a primary h1 and the standbys h2 and h3, and runs sql on the
// primary as the owner of the database.
func newFixture(t *testing.T, sql string) *fixture {
	t.Helper()
	f := &fixture{
		Cluster: pgtest.StartCluster(t, pgtest.Options{Standbys: 2, Settings: map[string]string{
			"max_connections": "200",
		}}),
		read: make(map[*pgtest.Server]int64),
	}
	must(t, f.Primary().Exec(t.Context(), "postgres", "ALTER ROLE "+pgtest.AppUser+" SET log_statement = 'all'"))
	conn, err := f.Primary().Conn(t.Context(), pgtest.AppDatabase, pgtest.AppUser)
	must(t, err)
	must(t, conn.PgConn().Exec(t.Context(), sql).Close())
	must(t, conn.Close(t.Context()))
	must(t, f.WaitForCatchup(t.Context()))
	return f
}

// start puts pgproxy in front of the cluster.
func (f *fixture) start(t *testing.T, o proxytest.Options) *proxytest.Proxy {
	t.Helper()
	return proxytest.StartWith(t, binary, f.Cluster, o)
}

// mark returns sql with a comment by which the statement is found in the logs.
func (f *fixture) mark(sql string) (marked, tag string) {
	f.tag++
	tag = fmt.Sprintf("/* #%d */", f.tag)
	return sql + " " + tag, tag
}

// log returns what a server has logged since the last call.
func (f *fixture) log(t *testing.T, s *pgtest.Server) []byte {
	t.Helper()
	file, err := os.Open(s.LogFile)
	must(t, err)
	defer file.Close()
	b, err := io.ReadAll(io.NewSectionReader(file, f.read[s], 1<<40))
	must(t, err)
	f.read[s] += int64(len(b))
	return b
}

// count returns how often each server has logged each text since the last call.
func (f *fixture) count(t *testing.T, texts ...string) []map[string]int {
	t.Helper()
	counts := make([]map[string]int, len(texts))
	for _, s := range f.Servers {
		log := f.log(t, s)
		for i, text := range texts {
			if counts[i] == nil {
				counts[i] = make(map[string]int)
			}
			counts[i][s.Name] = bytes.Count(log, []byte(text))
		}
	}
	return counts
}

// ranOn returns the servers that were given the statement with that tag since the
// last call of count or ranOn.
func (f *fixture) ranOn(t *testing.T, tag string) []string {
	t.Helper()
	var names []string
	for _, s := range f.Servers {
		if f.count1(t, s, tag) > 0 {
			names = append(names, s.Name)
		}
	}
	return names
}

func (f *fixture) count1(t *testing.T, s *pgtest.Server, text string) int {
	t.Helper()
	return bytes.Count(f.log(t, s), []byte(text))
}

// role names what a statement ran on: "primary", "standby", both or nothing.
func (f *fixture) role(t *testing.T, tag string) string {
	t.Helper()
	var roles []string
	for _, name := range f.ranOn(t, tag) {
		role := "standby"
		if name == f.Primary().Name {
			role = "primary"
		}
		if !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	if len(roles) == 0 {
		return "nowhere"
	}
	slices.Sort(roles)
	return strings.Join(roles, " and ")
}

// protocol is a way to send a statement.
type protocol int

const (
	simple   protocol = iota // Query
	extended                 // Parse, Bind, Execute in one
	prepared                 // Parse once, then Bind and Execute
	protocols
)

// String returns the name used in scripts.
func (p protocol) String() string { return [...]string{"simple", "extended", "prepared"}[p] }

// ask runs a query and returns its first value, "" when there is none. name is of
// the prepared statement.
func ask(ctx context.Context, conn *pgconn.PgConn, p protocol, name, sql string) (string, error) {
	var results []*pgconn.Result
	var err error
	switch p {
	case simple:
		results, err = conn.Exec(ctx, sql).ReadAll()
	case extended:
		results, err = oneResult(conn.ExecParams(ctx, sql, nil, nil, nil, nil))
	case prepared:
		if _, err := conn.Prepare(ctx, name, sql, nil); err != nil {
			return "", fmt.Errorf("prepare: %w", err)
		}
		results, err = oneResult(conn.ExecPrepared(ctx, name, nil, nil, nil))
	default:
		return "", fmt.Errorf("no protocol %d", p)
	}
	if err != nil {
		return "", err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 || len(results[0].Rows[0]) == 0 {
		return "", nil
	}
	return string(results[0].Rows[0][0]), nil
}

func oneResult(r *pgconn.ResultReader) ([]*pgconn.Result, error) {
	result := r.Read()
	return []*pgconn.Result{result}, result.Err
}

// connect opens a session of the ordinary role.
func connect(t *testing.T, p *proxytest.Proxy) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), p.DSN(pgtest.AppDatabase, pgtest.AppUser))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// connectPgx does so with pgx on top.
func connectPgx(ctx context.Context, p *proxytest.Proxy) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, p.DSN(pgtest.AppDatabase, pgtest.AppUser))
	if err != nil {
		return nil, fmt.Errorf("connect to pgproxy: %w", err)
	}
	return conn, nil
}

// code returns the SQLSTATE of an error, its text where it has none.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return "no error"
}

// await waits until ask says yes.
func await(t *testing.T, what string, ask func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ask(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("%s has not happened within %s", what, patience)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
