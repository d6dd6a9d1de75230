package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestChangedResultInATransaction: a statement whose result is not the one that the
// client was told of is refused inside of a transaction, too, on a connection that has
// not had the statement; and the transaction has failed.
func TestChangedResultInATransaction(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Pool.Mode, cfg.Pool.Size = PoolTransaction, 2 })
	exec := func(c *pgx.Conn, sql string) error {
		_, err := c.PgConn().Exec(t.Context(), sql).ReadAll()
		return err
	}
	must := func(c *pgx.Conn, sql string) {
		t.Helper()
		if err := exec(c, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	a, b := l.client(), l.client()
	for _, c := range []struct{ table, change, code string }{
		{"same", "", ""},
		{"wider", "ALTER TABLE wider ADD m int", "0A000"},
		{"gone", "DROP TABLE gone", "42P01"},
	} {
		must(b, "CREATE TABLE "+c.table+" (n int)")
		if _, err := a.PgConn().Prepare(t.Context(), c.table, "SELECT * FROM "+c.table, nil); err != nil {
			t.Fatal(err)
		}
		must(b, "BEGIN") // takes the connection that was used last
		must(a, "BEGIN")
		must(b, c.change)
		must(b, "COMMIT")
		err := a.PgConn().ExecPrepared(t.Context(), c.table, nil, nil, nil).Read().Err
		next := exec(a, "SELECT 1")
		if c.code == "" && (err != nil || next != nil) {
			t.Fatal(err, next)
		} else if c.code != "" {
			wantCode(t, err, c.code)
			wantCode(t, next, "25P02")
		}
		must(a, "ROLLBACK")
	}
}
