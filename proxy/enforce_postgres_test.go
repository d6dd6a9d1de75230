package proxy

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// TestLimitsOfTime has every limit strike in front of a real server, each for a user
// of its own, while a session without limits works.
func TestLimitsOfTime(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, s *Server) {
		if s != nil {
			return
		}
		cfg.Limits = []LimitConfig{
			{User: "query", Query: time.Second},
			{User: "transaction", Transaction: time.Second},
			{User: "waiting", IdleInTransaction: time.Second},
			{User: "idle", Idle: time.Second},
			{User: "few", Database: pgtest.AppDatabase, MaxClients: 2},
		}
	})
	for _, e := range l.cfg.Load().Limits {
		l.exec("h1", "postgres", "CREATE ROLE "+pgx.Identifier{e.User}.Sanitize()+" LOGIN PASSWORD 'secret' IN ROLE app")
	}
	free := l.client()
	if _, err := free.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	t.Run("query", func(t *testing.T) { testQueryLimit(t, l) })
	t.Run("transaction", func(t *testing.T) { testTransactionLimit(t, l) })
	t.Run("idle in transaction", func(t *testing.T) { testIdleInTransactionLimit(t, l) })
	t.Run("pipeline", func(t *testing.T) { testOpenPipelineLimit(t, l) })
	t.Run("idle", func(t *testing.T) { testIdleLimit(t, l) })
	t.Run("max_clients", func(t *testing.T) { testMaxClientsLimit(t, l) })
	if _, err := free.Exec(t.Context(), "COMMIT"); err != nil {
		t.Errorf("a session without limits: %v", err)
	}
}

// as connects as a user that has the name of a limit.
func (l *leased) as(t *testing.T, user string) *pgx.Conn {
	t.Helper()
	return connect(t, dsn(l.Addr(), user, "secret", pgtest.AppDatabase, ""))
}

// wantEnd waits until the session is ended with that error.
func wantEnd(t *testing.T, conn *pgx.Conn, code, message string) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), testPatience)
	defer done()
	pe, ok := errors.AsType[*pgconn.PgError](conn.PgConn().WaitForNotification(ctx))
	if !ok || pe.Code != code || pe.Message != message || pe.Severity != pgwire.SeverityFatal {
		t.Errorf("ended with %+v, want %s %s", pe, code, message)
	}
}

// wantCancelled wants what PostgreSQL says when a statement is cancelled.
func wantCancelled(t *testing.T, err error) {
	t.Helper()
	wantCode(t, err, codeQueryCanceled)
	contains(t, err, "canceling statement due to user request")
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func testQueryLimit(t *testing.T, l *leased) {
	conn := l.as(t, "query")
	for range 3 {
		_, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)")
		wantCancelled(t, err)
		exec(t, conn, "SELECT pg_sleep(0.05)")
	}
	exec(t, conn, "BEGIN")
	_, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)")
	wantCancelled(t, err)
	_, err = conn.Exec(t.Context(), "SELECT 1")
	wantCode(t, err, "25P02")
	exec(t, conn, "ROLLBACK")
	// Each batch of a pipeline has the time for itself.
	p := conn.PgConn().StartPipeline(t.Context())
	for range 8 {
		p.SendQueryParams("SELECT pg_sleep(0.2)", nil, nil, nil, nil)
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Errorf("a pipeline of short statements: %v", err)
	}
	// A client that does not go on with its COPY is in a statement, too, and PostgreSQL
	// does not cancel that before it hears of the client.
	_, err = conn.PgConn().CopyFrom(t.Context(), untilDone(t), "COPY t FROM STDIN")
	wantCode(t, err, codeQueryCanceled)
	contains(t, err, "FATAL: pgproxy: terminating connection: a statement ran for longer than 1s, "+
		"and the server does not cancel it: its outcome is unknown")
	l.await("h1", "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'query'", "0")
}

// untilDone is a source that gives nothing before the test is over.
func untilDone(t *testing.T) readerFunc {
	return func([]byte) (int, error) {
		<-t.Context().Done()
		return 0, t.Context().Err()
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func testTransactionLimit(t *testing.T, l *leased) {
	const gone = "pgproxy: terminating connection: a transaction lasted longer than 1s"
	conn := l.as(t, "transaction")
	exec(t, conn, "SELECT pg_sleep(1.5)") // is none
	exec(t, conn, "BEGIN")
	for err := error(nil); err == nil; { // busy all the time; the last statement is cancelled or the session is ended before it
		_, err = conn.Exec(t.Context(), "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING")
		if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == codeTransactionTimeout {
			break
		} else if err != nil {
			wantCancelled(t, err)
			wantEnd(t, conn, codeTransactionTimeout, gone)
		}
	}
	l.await("h1", "SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'transaction' AND state <> 'idle'", "0")

	conn = l.as(t, "transaction")
	exec(t, conn, "BEGIN")
	_, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)")
	wantCancelled(t, err)
	wantEnd(t, conn, codeTransactionTimeout, gone)

	conn = l.as(t, "transaction")
	exec(t, conn, "BEGIN")
	for range 8 { // one transaction after the other
		exec(t, conn, "SELECT pg_sleep(0.2)")
		exec(t, conn, "COMMIT AND CHAIN")
	}
	exec(t, conn, "COMMIT")
}

func testIdleInTransactionLimit(t *testing.T, l *leased) {
	conn := l.as(t, "waiting")
	exec(t, conn, "BEGIN")
	exec(t, conn, "LOCK TABLE t")
	exec(t, conn, "SELECT pg_sleep(1.5)")
	wantEnd(t, conn, codeIdleInTransaction, "pgproxy: terminating connection: idle in a transaction for longer than 1s")
	l.await("h1", "SELECT count(*)::text FROM pg_locks WHERE relation = 't'::regclass", "0")
}

// testOpenPipelineLimit leaves a transaction open that has no BEGIN.
func testOpenPipelineLimit(t *testing.T, l *leased) {
	conn := hijack(t, l.as(t, "waiting"))
	b := pgwire.AppendParse(nil, "", "INSERT INTO t VALUES (2)", nil)
	b = pgwire.AppendMessage(b, pgwire.Bind, make([]byte, 8))
	b = pgwire.AppendMessage(b, pgwire.Execute, make([]byte, 5))
	send(t, conn, pgwire.AppendEmpty(b, pgwire.Flush))
	wantMessage(t, conn, pgwire.ParseComplete)
	wantMessage(t, conn, pgwire.BindComplete)
	wantMessage(t, conn, pgwire.CommandComplete)
	wantError(t, conn, codeIdleInTransaction, "pgproxy: terminating connection: idle in a transaction for longer than 1s")
	wantClosed(t, conn)
	l.await("h1", "SELECT count(*)::text FROM pg_locks WHERE relation = 't'::regclass", "0")
	l.await("h1", "SELECT count(*)::text FROM app.public.t WHERE n = 2", "0")
}

func testIdleLimit(t *testing.T, l *leased) {
	conn := l.as(t, "idle")
	exec(t, conn, "SELECT pg_sleep(1.5)")
	exec(t, conn, "BEGIN")
	exec(t, conn, "SELECT pg_sleep(1.5)")
	exec(t, conn, "COMMIT")
	wantEnd(t, conn, codeIdleSession, "pgproxy: terminating connection: idle for longer than 1s")
}

func testMaxClientsLimit(t *testing.T, l *leased) {
	first, second := l.as(t, "few"), l.as(t, "few")
	refused := func(text string) {
		t.Helper()
		_, err := pgx.Connect(t.Context(), dsn(l.Addr(), "few", "secret", pgtest.AppDatabase, ""))
		wantCode(t, err, codeTooManyConnections)
		contains(t, err, text)
	}
	refused(`pgproxy: too many clients for database "app", user "few": at most 2 at a time`)
	connect(t, dsn(l.Addr(), "few", "secret", "postgres", "")) // is another database
	exec(t, first, "SELECT 1")
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(testPatience); ; {
		conn, err := pgx.Connect(t.Context(), dsn(l.Addr(), "few", "secret", pgtest.AppDatabase, ""))
		if err == nil {
			defer conn.Close(context.Background())
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	l.sessions.setLimits([]LimitConfig{{User: "few", MaxClients: 1}})
	defer l.sessions.setLimits(l.cfg.Load().Limits)
	refused(`pgproxy: too many clients for user "few": at most 1 at a time`)
	exec(t, second, "SELECT 1") // who is in stays
}
