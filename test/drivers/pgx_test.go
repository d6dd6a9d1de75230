package drivers

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// testPgx does what Go programs typically do with pgx.
func testPgx(t *testing.T, to target) {
	for _, p := range []struct {
		name string
		run  func(*testing.T, target)
	}{
		{"query modes", pgxQueryModes},
		{"types", pgxTypes},
		{"transactions", pgxTransactions},
		{"batches", pgxBatches},
		{"pipelines", pgxPipelines},
		{"copy", pgxCopy},
		{"cursors", pgxCursors},
		{"notifications", pgxNotifications},
		{"errors", pgxErrors},
		{"cancel", pgxCancel},
		{"large objects", pgxLargeObjects},
		{"pool", pgxPool},
		{"database/sql", pgxDatabaseSQL},
		{"protocol 3.2", pgxProtocol32},
	} {
		t.Run(p.name, func(t *testing.T) { p.run(t, to) })
	}
}

func (to target) dsn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s user=%s password=%s sslmode=prefer",
		to.port, pgtest.AppDatabase, pgtest.AppUser, pgtest.Password(pgtest.AppUser))
}

func (to target) connect(t *testing.T, change ...func(*pgx.ConnConfig)) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(to.dsn())
	must(t, err)
	for _, f := range change {
		f(config)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, sql string, args ...any) pgconn.CommandTag {
	t.Helper()
	tag, err := conn.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return tag
}

// value asks for one value.
func value[T any](t *testing.T, conn interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, sql string, args ...any,
) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func wantState(t *testing.T, err error, code string) *pgconn.PgError {
	t.Helper()
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != code {
		t.Fatalf("got error %v, want SQLSTATE %s", err, code)
	}
	return pgErr
}

func pgxQueryModes(t *testing.T, to target) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			conn := to.connect(t, func(c *pgx.ConnConfig) {
				c.DefaultQueryExecMode = mode
				c.StatementCacheCapacity, c.DescriptionCacheCapacity = 4, 4 // statements are closed, too
			})
			for i := range 30 {
				sql := fmt.Sprintf("SELECT $1::int + %d", i%6)
				if got := value[int](t, conn, sql, i); got != i+i%6 {
					t.Fatalf("%s with %d: got %d", sql, i, got)
				}
			}
			execute(t, conn, "CREATE TABLE pgx_modes (id int PRIMARY KEY, v text)")
			for i := range 10 {
				execute(t, conn, "INSERT INTO pgx_modes VALUES ($1, $2)", i, fmt.Sprint(i))
				if got := value[int](t, conn, "SELECT count(*) FROM pgx_modes"); got != i+1 {
					t.Fatalf("got %d rows after insert %d", got, i)
				}
			}
			rows, err := conn.Query(t.Context(), "SELECT id, v FROM pgx_modes WHERE id >= $1 ORDER BY id", 5)
			must(t, err)
			type row struct {
				ID int
				V  string
			}
			all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
			must(t, err)
			if len(all) != 5 || all[0] != (row{5, "5"}) {
				t.Fatalf("got %v", all)
			}
			execute(t, conn, "DROP TABLE pgx_modes")
		})
	}
}

func pgxTypes(t *testing.T, to target) {
	conn := to.connect(t)
	at := time.Date(2024, 2, 29, 12, 34, 56, 789000, time.UTC)
	var (
		gotAt    time.Time
		ints     []int32
		texts    []*string
		doc      map[string]any
		network  netip.Prefix
		exact    pgtype.Numeric
		span     pgtype.Range[pgtype.Int4]
		raw      []byte
		interval time.Duration
		id       [16]byte
	)
	hello := "hello"
	err := conn.QueryRow(t.Context(), `SELECT $1::timestamptz, $2::int[], $3::text[], $4::jsonb, $5::cidr, $6::numeric,
		int4range(1, 10), $7::bytea, $8::interval, $9::uuid`,
		at, []int32{1, -2, 3}, []*string{&hello, nil}, map[string]any{"a": []any{1.0, nil}}, netip.MustParsePrefix("10.0.0.0/8"),
		"12345678901234567890.123", []byte{0, 255}, 90*time.Minute, [16]byte{1, 2, 3},
	).Scan(&gotAt, &ints, &texts, &doc, &network, &exact, &span, &raw, &interval, &id)
	must(t, err)
	if !gotAt.Equal(at) || !slices.Equal(ints, []int32{1, -2, 3}) || *texts[0] != hello || texts[1] != nil ||
		doc["a"].([]any)[0] != 1.0 || network.String() != "10.0.0.0/8" || exact.Int.String() != "12345678901234567890123" ||
		span.Upper.Int32 != 10 || !bytes.Equal(raw, []byte{0, 255}) || interval != 90*time.Minute || id[2] != 3 {
		t.Errorf("got %v %v %v %v %v %v %v %v %v %v", gotAt, ints, texts, doc, network, exact, span, raw, interval, id)
	}
	execute(t, conn, "CREATE TYPE pgx_mood AS ENUM ('sad', 'happy'); CREATE TYPE pgx_pair AS (x int, y text)")
	loaded, err := conn.LoadTypes(t.Context(), []string{"pgx_mood", "_pgx_mood", "pgx_pair"})
	must(t, err)
	conn.TypeMap().RegisterTypes(loaded)
	if got := value[[]string](t, conn, "SELECT $1::pgx_mood[]", []string{"happy", "sad"}); !slices.Equal(got, []string{"happy", "sad"}) {
		t.Errorf("got %v", got)
	}
	execute(t, conn, "DROP TYPE pgx_mood, pgx_pair")
}

func pgxTransactions(t *testing.T, to target) {
	ctx, conn := t.Context(), to.connect(t)
	execute(t, conn, "CREATE TABLE pgx_tx (id int PRIMARY KEY)")
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO pgx_tx VALUES (1)"); err != nil {
			return err
		}
		inner := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
			_, err := tx.Exec(ctx, "INSERT INTO pgx_tx VALUES (2), (1)")
			return err
		})
		wantState(t, inner, "23505")
		_, err := tx.Exec(ctx, "INSERT INTO pgx_tx VALUES (3)")
		return err
	})
	must(t, err)
	if got := value[int](t, conn, "SELECT sum(id) FROM pgx_tx"); got != 4 {
		t.Errorf("got sum %d, want 4", got)
	}
	for _, o := range []pgx.TxOptions{
		{AccessMode: pgx.ReadOnly},
		{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly},
		{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable},
		{IsoLevel: pgx.Serializable},
	} {
		err := pgx.BeginTxFunc(ctx, conn, o, func(tx pgx.Tx) error {
			for range 3 {
				if got := value[int](t, tx, "SELECT count(*) FROM pgx_tx"); got != 2 {
					t.Errorf("%+v: got %d rows", o, got)
				}
			}
			return nil
		})
		must(t, err)
	}
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM pgx_tx")
		return err
	})
	wantState(t, err, "25006")
	execute(t, conn, "DROP TABLE pgx_tx")
}

func pgxBatches(t *testing.T, to target) {
	ctx, conn := t.Context(), to.connect(t)
	execute(t, conn, "CREATE TABLE pgx_batch (id int PRIMARY KEY, v int)")
	b := &pgx.Batch{}
	for i := range 500 {
		b.Queue("INSERT INTO pgx_batch VALUES ($1, $2)", i, i*i)
	}
	b.Queue("SELECT count(*) FROM pgx_batch").QueryRow(func(row pgx.Row) error {
		var n int
		if err := row.Scan(&n); err != nil || n != 500 {
			return fmt.Errorf("got %d rows: %w", n, err)
		}
		return nil
	})
	for i := range 200 {
		b.Queue("SELECT v FROM pgx_batch WHERE id = $1", i).QueryRow(func(row pgx.Row) error {
			var v int
			if err := row.Scan(&v); err != nil || v != i*i {
				return fmt.Errorf("got %d: %w", v, err)
			}
			return nil
		})
	}
	must(t, conn.SendBatch(ctx, b).Close())

	failing := &pgx.Batch{}
	failing.Queue("INSERT INTO pgx_batch VALUES (1000, 0)")
	failing.Queue("INSERT INTO pgx_batch VALUES (1, 0)")
	failing.Queue("SELECT 1")
	wantState(t, conn.SendBatch(ctx, failing).Close(), "23505")
	if got := value[int](t, conn, "SELECT count(*) FROM pgx_batch"); got != 500 {
		t.Errorf("got %d rows after a failed batch, want 500", got)
	}
	execute(t, conn, "DROP TABLE pgx_batch")
}

// pgxPipelines uses the pipeline mode of pgconn: errors end only what stands before
// the next Sync.
func pgxPipelines(t *testing.T, to target) {
	conn := to.connect(t).PgConn()
	p := conn.StartPipeline(t.Context())
	p.SendPrepare("double", "SELECT $1::int * 2", nil)
	p.SendPipelineSync()
	for i := range 100 {
		p.SendQueryPrepared("double", [][]byte{fmt.Append(nil, i)}, nil, nil)
		if i == 50 {
			p.SendQueryParams("SELECT 1 / $1::int", [][]byte{[]byte("0")}, nil, nil, nil)
			p.SendQueryPrepared("double", [][]byte{[]byte("1")}, nil, nil) // skipped
		}
		if i%10 == 0 {
			p.SendPipelineSync()
		}
	}
	p.SendPipelineSync()
	must(t, p.Flush())
	rows, failed, syncs := 0, 0, 0
	for {
		result, err := p.GetResults()
		if err != nil {
			wantState(t, err, "22012")
			failed++
			continue
		}
		switch r := result.(type) {
		case *pgconn.ResultReader:
			rows += len(r.Read().Rows)
			continue
		case *pgconn.PipelineSync:
			syncs++
			continue
		case *pgconn.StatementDescription:
			continue
		}
		break
	}
	must(t, p.Close())
	if rows != 100 || failed != 1 || syncs != 12 {
		t.Errorf("got %d rows, %d errors, %d syncs; want 100, 1, 12", rows, failed, syncs)
	}
}

func pgxCopy(t *testing.T, to target) {
	ctx, conn := t.Context(), to.connect(t)
	execute(t, conn, "CREATE TABLE pgx_copy (id int, v text, at timestamptz)")
	n, err := conn.CopyFrom(ctx, pgx.Identifier{"pgx_copy"}, []string{"id", "v", "at"},
		pgx.CopyFromSlice(50_000, func(i int) ([]any, error) { return []any{i, fmt.Sprint("row ", i), time.Unix(int64(i), 0)}, nil }))
	must(t, err)
	if n != 50_000 {
		t.Errorf("copied %d rows in", n)
	}
	var out bytes.Buffer
	tag, err := conn.PgConn().CopyTo(ctx, &out, "COPY (SELECT id, v FROM pgx_copy ORDER BY id) TO STDOUT")
	must(t, err)
	if tag.RowsAffected() != 50_000 || bytes.Count(out.Bytes(), []byte("\n")) != 50_000 {
		t.Errorf("copied %v out, %d lines", tag, bytes.Count(out.Bytes(), []byte("\n")))
	}
	broken := errors.New("the reader's own error")
	_, err = conn.PgConn().CopyFrom(ctx, io.MultiReader(strings.NewReader("1\tx\t\\N\n"), errReader{broken}), "COPY pgx_copy FROM STDIN")
	wantState(t, err, "57014")
	_, err = conn.PgConn().CopyFrom(ctx, strings.NewReader("no number\tx\t\\N\n"), "COPY pgx_copy FROM STDIN")
	wantState(t, err, "22P02")
	if got := value[int](t, conn, "SELECT count(*) FROM pgx_copy"); got != 50_000 {
		t.Errorf("got %d rows", got)
	}
	execute(t, conn, "DROP TABLE pgx_copy")
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func pgxCursors(t *testing.T, to target) {
	ctx, conn := t.Context(), to.connect(t)
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DECLARE c CURSOR FOR SELECT n FROM generate_series(1, 1000) n"); err != nil {
			return err
		}
		sum := 0
		for {
			rows, err := tx.Query(ctx, "FETCH 99 FROM c")
			if err != nil {
				return err
			}
			batch, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err != nil {
				return err
			}
			if len(batch) == 0 {
				break
			}
			for _, n := range batch {
				sum += n
			}
		}
		if sum != 500500 {
			return fmt.Errorf("got sum %d", sum)
		}
		return nil
	})
	must(t, err)
	// Rows that are left unread.
	rows, err := conn.Query(ctx, "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) n")
	must(t, err)
	rows.Next()
	rows.Close()
	must(t, rows.Err())
	if got := value[string](t, conn, "SELECT 'next'"); got != "next" {
		t.Errorf("got %q", got)
	}
}

func pgxNotifications(t *testing.T, to target) {
	listener, sender := to.connect(t), to.connect(t)
	execute(t, listener, "LISTEN pgx_channel")
	for i := range 5 {
		execute(t, sender, "SELECT pg_notify('pgx_channel', $1)", fmt.Sprint(i))
		n, err := listener.WaitForNotification(t.Context())
		must(t, err)
		if n.Channel != "pgx_channel" || n.Payload != fmt.Sprint(i) || n.PID != sender.PgConn().PID() {
			t.Errorf("got %+v from %d, want the %dth of %d", n, n.PID, i, sender.PgConn().PID())
		}
	}
	if got := value[uint32](t, listener, "SELECT pg_backend_pid()"); got != listener.PgConn().PID() {
		t.Errorf("pg_backend_pid is %d, the driver was told %d", got, listener.PgConn().PID())
	}
}

func pgxErrors(t *testing.T, to target) {
	ctx := t.Context()
	var notices []string
	conn := to.connect(t, func(c *pgx.ConnConfig) {
		c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Severity+" "+n.Message) }
	})
	execute(t, conn, "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
	if !slices.Equal(notices, []string{"NOTICE one", "WARNING two"}) {
		t.Errorf("got notices %q", notices)
	}
	_, err := conn.Exec(ctx, "SELECT 1 +")
	if e := wantState(t, err, "42601"); e.Position != 11 || e.Routine == "" {
		t.Errorf("got position %d, routine %q", e.Position, e.Routine)
	}
	for _, bad := range []struct{ change, code string }{
		{"password=wrong", "28P01"},
		{"dbname=no_such_database", "3D000"},
		{"user=no_such_role", "28P01"},
		{"options='-c no_such_setting=1'", "42704"},
	} {
		_, err := pgx.Connect(ctx, to.dsn()+" "+bad.change)
		wantState(t, err, bad.code)
	}
}

func pgxCancel(t *testing.T, to target) {
	conn, observer := to.connect(t), to.connect(t)
	sleeping := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), "SELECT pg_sleep(3600)")
		sleeping <- err
	}()
	const active = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep')"
	for !value[bool](t, observer, active, conn.PgConn().PID()) {
	}
	must(t, conn.PgConn().CancelRequest(t.Context()))
	wantState(t, <-sleeping, "57014")
	if got := value[int](t, conn, "SELECT 1"); got != 1 {
		t.Errorf("got %d", got)
	}
}

func pgxLargeObjects(t *testing.T, to target) {
	ctx, conn := t.Context(), to.connect(t)
	content := bytes.Repeat([]byte("large object "), 100_000)
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		objects := tx.LargeObjects()
		oid, err := objects.Create(ctx, 0)
		if err != nil {
			return err
		}
		object, err := objects.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
		if err != nil {
			return err
		}
		if _, err := object.Write(content); err != nil {
			return err
		}
		if _, err := object.Seek(0, io.SeekStart); err != nil {
			return err
		}
		got, err := io.ReadAll(object)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, content) {
			return fmt.Errorf("got %d other bytes", len(got))
		}
		return objects.Unlink(ctx, oid)
	})
	must(t, err)
}

// pgxPool counts with many connections at once: no increment may be lost, and no
// session may see its own counter go back.
func pgxPool(t *testing.T, to target) {
	ctx := t.Context()
	config, err := pgxpool.ParseConfig(to.dsn())
	must(t, err)
	config.MaxConns = 12
	pool, err := pgxpool.NewWithConfig(ctx, config)
	must(t, err)
	defer pool.Close()
	_, err = pool.Exec(ctx, "CREATE TABLE pgx_pool (id int PRIMARY KEY, n int); INSERT INTO pgx_pool VALUES (1, 0)")
	must(t, err)
	const workers, rounds = 12, 50
	g, gctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			return pool.AcquireFunc(gctx, func(c *pgxpool.Conn) error {
				last := 0
				for range rounds {
					var wrote, read int
					if err := c.QueryRow(gctx, "UPDATE pgx_pool SET n = n + 1 WHERE id = 1 RETURNING n").Scan(&wrote); err != nil {
						return err
					}
					if err := c.QueryRow(gctx, "SELECT n FROM pgx_pool WHERE id = 1").Scan(&read); err != nil {
						return err
					}
					if read < wrote || wrote <= last {
						return fmt.Errorf("read %d after writing %d, the last seen was %d", read, wrote, last)
					}
					last = read
				}
				return nil
			})
		})
	}
	must(t, g.Wait())
	if got := value[int](t, pool, "SELECT n FROM pgx_pool"); got != workers*rounds {
		t.Errorf("got %d, want %d", got, workers*rounds)
	}
	_, err = pool.Exec(ctx, "DROP TABLE pgx_pool")
	must(t, err)
}

func pgxDatabaseSQL(t *testing.T, to target) {
	ctx := t.Context()
	db, err := sql.Open("pgx", to.dsn())
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(ctx, "CREATE TABLE pgx_sql (id int)")
	must(t, err)
	stmt, err := db.PrepareContext(ctx, "INSERT INTO pgx_sql VALUES ($1)")
	must(t, err)
	for i := range 20 {
		_, err := stmt.ExecContext(ctx, i)
		must(t, err)
	}
	must(t, stmt.Close())
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	must(t, err)
	var n int
	must(t, tx.QueryRowContext(ctx, "SELECT count(*) FROM pgx_sql").Scan(&n))
	must(t, tx.Commit())
	if n != 20 {
		t.Errorf("got %d rows", n)
	}
	conn, err := db.Conn(ctx)
	must(t, err)
	must(t, conn.Raw(func(c any) error {
		if c.(*stdlib.Conn).Conn().PgConn().ParameterStatus("server_version") == "" {
			return errors.New("no server_version")
		}
		return nil
	}))
	must(t, conn.Close())
	_, err = db.ExecContext(ctx, "DROP TABLE pgx_sql")
	must(t, err)
}

// pgxProtocol32 asks for protocol 3.2, which an older server talks down.
func pgxProtocol32(t *testing.T, to target) {
	conn := to.connect(t, func(c *pgx.ConnConfig) { c.MinProtocolVersion, c.MaxProtocolVersion = "3.0", "latest" })
	if got := value[int](t, conn, "SELECT $1::int", 7); got != 7 {
		t.Errorf("got %d", got)
	}
}
