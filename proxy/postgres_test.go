package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// lookupSQL is the part of `pgproxy setup-sql` that the auth query needs.
const lookupSQL = `
CREATE SCHEMA pgproxy;
GRANT USAGE ON SCHEMA pgproxy TO pgproxy;
CREATE FUNCTION pgproxy.user_lookup(name text)
RETURNS TABLE (rolname text, verifier text, can_login boolean, valid_until timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT rolname::text, rolpassword, rolcanlogin, rolvaliduntil FROM pg_authid WHERE rolname = $1';
REVOKE ALL ON FUNCTION pgproxy.user_lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgproxy.user_lookup(text) TO pgproxy`

// noSampler is a Sampler where there is nothing to sample.
type noSampler struct{}

func (noSampler) Samples() *cluster.Samples { return &cluster.Samples{} }
func (noSampler) Mark() uint64              { return 0 }
func (noSampler) Request()                  {}
func (noSampler) Changed() <-chan struct{}  { return nil }

// servePostgres runs a Server with real sessions in front of a primary.
func servePostgres(t *testing.T, primary *pgtest.Server, change func(*Config)) *Server {
	t.Helper()
	if err := primary.Exec(t.Context(), "postgres", lookupSQL); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t)
	cfg.Auth.HBAFile = ""
	cfg.Monitor = MonitorConfig{User: pgtest.MonitorUser, Database: "postgres"}
	if change != nil {
		change(&cfg)
	}
	deps := Deps{
		MonitorPassword: pgtest.Password(pgtest.MonitorUser),
		Sampler:         noSampler{},
		HealthStats:     func(string) HealthStats { return HealthStats{} },
	}
	return serveTest(t, cfg, newFakeCluster(testState(primary.Address())), deps, func(s *Server) {
		s.handle = s.serveSession
		var err error
		if s.auth, err = newAuthenticator(cfg.Auth, s.store, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func dsn(addr net.Addr, user, password, database, more string) string {
	host, port, _ := net.SplitHostPort(addr.String())
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s sslmode=disable %s", host, port, user, password, database, more)
}

func connect(t *testing.T, conninfo string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), conninfo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// hijack takes the connection of an idle session from pgx.
func hijack(t *testing.T, conn *pgx.Conn) net.Conn {
	t.Helper()
	if err := conn.PgConn().SyncConn(t.Context()); err != nil { // pgx reads ahead where a write has taken long
		t.Fatal(err)
	}
	hijacked, err := conn.PgConn().Hijack()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hijacked.Conn.Close() })
	return hijacked.Conn
}

func value(t *testing.T, conn *pgx.Conn, sql string) (s string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "SELECT ("+sql+")::text").Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func appDSN(s *Server, more string) string {
	return dsn(s.Addr(), pgtest.AppUser, pgtest.Password(pgtest.AppUser), pgtest.AppDatabase, more)
}

// awaitIdle waits until all connections of the pools are idle, and returns how many
// there are.
func awaitIdle(t *testing.T, s *Server) int {
	t.Helper()
	return awaitUsed(t, s, 0)
}

// awaitUsed waits until all connections of the pools but so many are idle, and returns how
// many are: sessions give theirs back in the background.
func awaitUsed(t *testing.T, s *Server, used int) int {
	t.Helper()
	for {
		s.pools.mu.Lock()
		open, idle := 0, 0
		for _, bp := range s.pools.mu.byName {
			open += bp.open
			for _, g := range bp.groups {
				idle += len(g.idle)
			}
		}
		s.pools.mu.Unlock()
		if open == idle+used {
			return idle
		}
		<-time.After(time.Millisecond)
	}
}

func wantIdle(t *testing.T, s *Server, want int) {
	t.Helper()
	if got := awaitIdle(t, s); got != want {
		t.Errorf("%d idle connections, want %d", got, want)
	}
}

func TestPostgresLogin(t *testing.T) {
	ctx := t.Context()
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, nil)
	for _, sql := range []string{
		"CREATE ROLE nologin PASSWORD 'x'", "CREATE ROLE nopassword LOGIN",
		"CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL '2000-01-01'",
		"CREATE ROLE forever LOGIN PASSWORD 'x' VALID UNTIL 'infinity'",
		"CREATE ROLE past LOGIN PASSWORD 'x' VALID UNTIL '-infinity'",
	} {
		if err := primary.Exec(ctx, "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	conn := connect(t, appDSN(s, ""))
	if got := value(t, conn, "current_user"); got != pgtest.AppUser {
		t.Errorf("user %s", got)
	}
	if got, want := value(t, conn, "pg_backend_pid()"), fmt.Sprint(conn.PgConn().PID()); got != want {
		t.Errorf("pg_backend_pid() is %s, the client was told %s", got, want)
	}

	direct, err := net.ResolveTCPAddr("tcp", primary.Address())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ user, password, database string }{
		{pgtest.AppUser, "wrong", pgtest.AppDatabase},
		{"nobody", "x", pgtest.AppDatabase},
		{"nopassword", "x", pgtest.AppDatabase},
		{"nologin", "x", pgtest.AppDatabase},
		{"expired", "x", pgtest.AppDatabase},
		{"past", "x", pgtest.AppDatabase},
		{pgtest.AppUser, pgtest.Password(pgtest.AppUser), "nowhere"},
		{`"'; DROP TABLE x; --`, "x", pgtest.AppDatabase},
	} {
		code := func(addr net.Addr) (*pgconn.PgError, string) {
			cfg, err := pgx.ParseConfig(dsn(addr, "u", "p", "d", ""))
			if err != nil {
				t.Fatal(err)
			}
			cfg.User, cfg.Password, cfg.Database = tc.user, tc.password, tc.database
			conn, err := pgx.ConnectConfig(ctx, cfg)
			if err == nil {
				conn.Close(ctx)
				t.Errorf("%+v gets in at %s", tc, addr)
			}
			pe, _ := errors.AsType[*pgconn.PgError](err)
			return pe, fmt.Sprint(err)
		}
		want, wantText := code(direct)
		got, gotText := code(s.Addr())
		if want == nil || got == nil || want.Code != got.Code || want.Message != got.Message || want.Severity != got.Severity {
			t.Errorf("%+v:\nPostgreSQL %s\npgproxy    %s", tc, wantText, gotText)
		}
	}
	connect(t, dsn(s.Addr(), "forever", "x", pgtest.AppDatabase, ""))
}

func TestPostgresConnectionIsReused(t *testing.T) {
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, nil)
	visit := func(more, sql string) uint32 {
		t.Helper()
		conn := connect(t, appDSN(s, more))
		if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		pid := conn.PgConn().PID()
		conn.Close(t.Context())
		return pid
	}
	first := visit("", "SET TimeZone = 'Asia/Tokyo'; CREATE TEMP TABLE t (n int); LISTEN c; PREPARE p AS SELECT 1")
	wantIdle(t, s, 1)
	conn := connect(t, appDSN(s, ""))
	if pid := conn.PgConn().PID(); pid != first {
		t.Errorf("process %d, want the idle %d", pid, first)
	}
	for sql, want := range map[string]string{
		"current_setting('TimeZone')":                                  "UTC",
		"SELECT count(*) FROM pg_prepared_statements WHERE name = 'p'": "0",
		"SELECT count(*) FROM pg_listening_channels()":                 "0",
		"to_regclass('pg_temp.t') IS NULL":                             "true",
	} {
		if got := value(t, conn, sql); got != want {
			t.Errorf("%s is %s, want %s", sql, got, want)
		}
	}
	if tz := conn.PgConn().ParameterStatus("TimeZone"); tz != "UTC" {
		t.Errorf("client was told TimeZone %s", tz)
	}
	conn.Close(t.Context())
	awaitIdle(t, s) // it may have been closed, for the functions that were called
	first = visit("", "SELECT 1")
	wantIdle(t, s, 1)

	// The server ends the idle one: nobody notices.
	if err := primary.Exec(t.Context(), "postgres", fmt.Sprintf("SELECT pg_terminate_backend(%d, 10000)", first)); err != nil {
		t.Fatal(err)
	}
	if pid := visit("", "SELECT 1"); pid == first {
		t.Error("a dead connection was lent")
	}
	wantIdle(t, s, 1)
	visit("application_name=other", "SELECT 1")
	wantIdle(t, s, 2)
}

func TestPostgresCancel(t *testing.T) {
	ctx := t.Context()
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, nil)
	conn, other := connect(t, appDSN(s, "")), connect(t, appDSN(s, ""))
	run := func(conn *pgx.Conn) chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Exec(ctx, "SELECT pg_sleep(600)")
			ended <- err
		}()
		return ended
	}
	ended, otherEnded := run(conn), run(other)
	for busy := ""; busy != "2"; {
		var err error
		if busy, err = primary.QueryValue(ctx, "postgres",
			"SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.PgConn().CancelRequest(ctx); err != nil {
		t.Fatal(err)
	}
	err := <-ended
	if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != "57014" {
		t.Errorf("error %v", err)
	}
	select {
	case err := <-otherEnded:
		t.Errorf("the other session was hit: %v", err)
	default:
	}
	if err := other.PgConn().CancelRequest(ctx); err != nil {
		t.Fatal(err)
	}
	<-otherEnded
	if got := value(t, conn, "1"); got != "1" {
		t.Errorf("the session does not go on: %s", got)
	}
}

func TestPostgresPasswordRotation(t *testing.T) {
	ctx := t.Context()
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, nil)
	old := appDSN(s, "")
	fresh := dsn(s.Addr(), pgtest.AppUser, "new", pgtest.AppDatabase, "")
	before := connect(t, old)
	if err := primary.Exec(ctx, "postgres", "ALTER ROLE app PASSWORD 'new'"); err != nil {
		t.Fatal(err)
	}
	// The verifier of the old password is still trusted here, but not by the server,
	// which has to be asked for a connection of another key.
	_, err := pgx.Connect(ctx, appDSN(s, "application_name=other"))
	if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != "28P01" ||
		pe.Message != `password authentication failed for user "app"` {
		t.Errorf("error %v", err)
	}
	for {
		conn, err := pgx.Connect(ctx, fresh)
		if err == nil {
			defer conn.Close(ctx)
			break
		}
		if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != "28P01" {
			t.Fatal(err)
		}
	}
	if conn, err := pgx.Connect(ctx, old); err == nil {
		conn.Close(ctx)
		t.Error("the old password is still good")
	}
	if got := value(t, before, "1"); got != "1" {
		t.Error("the session from before has ended")
	}
}

func TestPostgresMD5AndPassword(t *testing.T) {
	ctx := t.Context()
	hba := "local all all trust\nhost all pgproxy all scram-sha-256\nhost all all all md5\n"
	primary := pgtest.StartCluster(t, pgtest.Options{HBA: hba}).Primary()
	if err := primary.Exec(ctx, "postgres", "SET password_encryption = md5; CREATE ROLE m LOGIN PASSWORD 'pw'"); err != nil {
		t.Fatal(err)
	}
	s := servePostgres(t, primary, func(cfg *Config) {
		cfg.Auth.HBAFile = writeFile(t, "host all m,app all md5\nhost all postgres all password\n")
	})
	connect(t, dsn(s.Addr(), "m", "pw", "postgres", ""))
	connect(t, appDSN(s, "")) // md5 in the rule, a SCRAM verifier
	connect(t, dsn(s.Addr(), "postgres", pgtest.Password("postgres"), "postgres", ""))
}

func TestPostgresPasswordFile(t *testing.T) {
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, func(cfg *Config) {
		cfg.Auth.HBAFile = writeFile(t, "host all all all trust\n")
		cfg.Auth.PasswordFile = writeFile(t, fmt.Sprintf("127.0.0.1:%d:app:app:%s\n", primary.Port, pgtest.Password("app")))
	})
	connect(t, dsn(s.Addr(), "app", "none", "app", ""))
	if _, err := pgx.Connect(t.Context(), dsn(s.Addr(), "postgres", "none", "postgres", "")); err == nil {
		t.Error("logged in without a password")
	}
}

// enableTLS gives a running server a certificate.
func enableTLS(t *testing.T, server *pgtest.Server, a *authority, name string) {
	t.Helper()
	crt, key := filepath.Join(server.DataDir, "server.crt"), filepath.Join(server.DataDir, "server.key")
	a.issue(name, crt, key)
	owner, err := os.Stat(server.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	id := owner.Sys().(*syscall.Stat_t)
	for _, path := range []string{crt, key} {
		if err := os.Chown(path, int(id.Uid), int(id.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Exec(t.Context(), "postgres", "ALTER SYSTEM SET ssl = on"); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context(), pgtest.StopFast); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresOverTLSOnBothSides(t *testing.T) {
	a := newAuthority(t)
	primary := pgtest.StartCluster(t, pgtest.Options{HBA: strings.Join([]string{
		"local all all trust", "hostssl all all 127.0.0.1/32 scram-sha-256", "hostssl replication all 127.0.0.1/32 scram-sha-256", "",
	}, "\n")}).Primary()
	enableTLS(t, primary, a, "127.0.0.1")
	s := servePostgres(t, primary, func(cfg *Config) {
		cfg.BackendTLS = BackendTLSConfig{Mode: SSLVerifyFull, CAFile: a.file}
		withTLS(cfg, a, TLSRequire)
	})
	plus := dsn(s.Addr(), "app", pgtest.Password("app"), "app", "channel_binding=require")
	plus = strings.Replace(plus, "sslmode=disable", "sslmode=verify-full sslrootcert="+a.file, 1)
	conn := connect(t, plus)
	if got := value(t, conn, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); got != "true" {
		t.Errorf("ssl of the backend connection: %s", got)
	}
	if got := value(t, conn, "length(repeat('x', 3000000))"); got != "3000000" {
		t.Errorf("length %s", got)
	}
	conn.Close(t.Context())
	awaitIdle(t, s)
	conn = connect(t, plus)
	pid := conn.PgConn().PID()
	conn.Close(t.Context())
	wantIdle(t, s, 1)
	if again := connect(t, plus); again.PgConn().PID() != pid {
		t.Error("a TLS connection was not reused")
	}
	repl := dsn(s.Addr(), pgtest.ReplUser, pgtest.Password(pgtest.ReplUser), "postgres", "replication=database channel_binding=require")
	repl = strings.Replace(repl, "sslmode=disable", "sslmode=verify-full sslrootcert="+a.file, 1)
	stream, err := pgconn.Connect(t.Context(), repl)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := stream.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll(); err != nil || len(rows) != 1 {
		t.Errorf("IDENTIFY_SYSTEM: %v, %v", rows, err)
	}
	stream.Close(t.Context())
}

// What a client sends behind its startup packet is answered, whether its session can begin at
// once, since another has begun before, or has to wait for a server.
func TestPostgresClientDoesNotWait(t *testing.T) {
	trust := "local all all trust\nhost all all all trust\n"
	primary := pgtest.StartCluster(t, pgtest.Options{HBA: trust}).Primary()
	s := servePostgres(t, primary, func(cfg *Config) {
		cfg.Pool.Mode = PoolTransaction
		cfg.Auth.HBAFile = writeFile(t, trust)
	})
	for range 3 {
		conn := dialTest(t, s.Addr())
		send(t, conn, startupFor("user", "app", "database", "app"), pgwire.AppendQuery(nil, "SELECT 42"),
			pgwire.AppendEmpty(nil, pgwire.Terminate))
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.Contains(answer, []byte("SELECT 1\x00Z")) {
			t.Errorf("the answer is %q, %v", answer, err)
		}
	}
}

func TestPostgresReplication(t *testing.T) {
	ctx := t.Context()
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, func(cfg *Config) {
		cfg.Auth.HBAFile = writeFile(t, "host replication repl all scram-sha-256\nhost all all all scram-sha-256\n")
	})
	host, port, _ := net.SplitHostPort(s.Addr().String())
	dir := filepath.Join(filepath.Dir(primary.DataDir), "backup")
	cmd := primary.Command(ctx, "pg_basebackup", "-h", host, "-p", port, "-U", pgtest.ReplUser,
		"-D", dir, "-X", "stream", "--checkpoint=fast", "--no-sync", "--no-password")
	cmd.Env = append(cmd.Environ(), "PGPASSWORD="+pgtest.Password(pgtest.ReplUser))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "backup_manifest")); err != nil {
		t.Error(err)
	}

	conn, err := pgconn.Connect(ctx, dsn(s.Addr(), pgtest.ReplUser, pgtest.Password(pgtest.ReplUser), "postgres", "replication=database"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil || len(rows) != 1 || len(rows[0].Rows) != 1 {
		t.Errorf("IDENTIFY_SYSTEM: %v, %v", rows, err)
	}
	if conn.ParameterStatus("server_version") == "" || conn.PID() == 0 {
		t.Error("the server's startup answers were not forwarded")
	}
	conn.Close(ctx)
	wantIdle(t, s, 0) // such connections are not kept
	if _, err := pgconn.Connect(ctx, appDSN(s, "replication=true")); err == nil {
		t.Error("a role without REPLICATION got in")
	}
}

func TestPostgresRestart(t *testing.T) {
	ctx := t.Context()
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	s := servePostgres(t, primary, func(cfg *Config) { cfg.Auth.Cache = time.Nanosecond })
	connect(t, appDSN(s, "")).Close(ctx)
	wantIdle(t, s, 1)
	if err := primary.Restart(ctx, pgtest.StopFast); err != nil {
		t.Fatal(err)
	}
	// The kept connection of the auth query and the idle one are dead by now.
	if got := value(t, connect(t, appDSN(s, "")), "1"); got != "1" {
		t.Error(got)
	}
}
