package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// bulkBytes is what each of the bulk cases moves, in lines of lineBytes.
const (
	bulkBytes = 200e6
	lineBytes = 1000
	bulkLines = bulkBytes / lineBytes
)

// bulkCase moves bulkBytes over a connection of this process. transfer checks that all
// of it has come.
func bulkCase(name string, transfer func(ctx context.Context, conn *pgconn.PgConn) error) benchCase {
	return benchCase{name: name, unit: "MB", run: func(ctx context.Context, t *trial) error {
		if err := t.cluster.Primary().Exec(ctx, pgtest.AppDatabase, "TRUNCATE bench_copy"); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, t.on.dsn(false))
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		before, err := t.begin(ctx, os.Getpid())
		if err != nil {
			return err
		}
		started := time.Now()
		if err := transfer(ctx, conn.PgConn()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took := time.Since(started)
		after, err := t.end(os.Getpid())
		if err != nil {
			return err
		}
		t.Throughput = bulkBytes / 1e6 / took.Seconds()
		t.spent(before, after, bulkBytes/1e6)
		return nil
	}}
}

// readResult reads a large result and throws it away.
func readResult(ctx context.Context, conn *pgconn.PgConn) error {
	results := conn.Exec(ctx, fmt.Sprintf("SELECT repeat('x', %d) FROM generate_series(1, %d)", lineBytes, int(bulkLines)))
	var got int
	for results.NextResult() {
		rows := results.ResultReader()
		for rows.NextRow() {
			got += len(rows.Values()[0])
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	return wantBytes(got)
}

// copyOut reads the same as a COPY.
func copyOut(ctx context.Context, conn *pgconn.PgConn) error {
	var got counter
	query := fmt.Sprintf("COPY (SELECT repeat('x', %d) FROM generate_series(1, %d)) TO STDOUT", lineBytes-1, int(bulkLines))
	if _, err := conn.CopyTo(ctx, &got, query); err != nil {
		return err
	}
	return wantBytes(int(got))
}

// copyIn loads an empty table.
func copyIn(ctx context.Context, conn *pgconn.PgConn) error {
	const chunk = 64
	lines := strings.Repeat(strings.Repeat("x", lineBytes-1)+"\n", chunk)
	var readers []io.Reader
	for left := int(bulkLines); left > 0; left -= chunk {
		readers = append(readers, strings.NewReader(lines[:min(left, chunk)*lineBytes]))
	}
	tag, err := conn.CopyFrom(ctx, io.MultiReader(readers...), "COPY bench_copy FROM STDIN")
	if err != nil {
		return err
	}
	return wantBytes(int(tag.RowsAffected()) * lineBytes)
}

func wantBytes(got int) error {
	if got != bulkBytes {
		return fmt.Errorf("%d bytes instead of %d", got, int(bulkBytes))
	}
	return nil
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
