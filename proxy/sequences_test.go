package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestLastValueIsOnesOwn: lastval gives the session's own value or none, also on a
// connection on which another session has used a sequence.
func TestLastValueIsOnesOwn(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Pool.Mode, cfg.Pool.Size, cfg.Listen.Loops = PoolTransaction, 2, 1 })
	exec := func(c *pgx.Conn, sql string) {
		t.Helper()
		if _, err := c.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	a, b := l.client(), l.client()
	exec(a, "CREATE SEQUENCE s; CREATE TABLE counted (n int)")
	for range 2 { // the first question for lastval tells pgproxy that somebody asks
		exec(a, "BEGIN")
		exec(b, "SELECT nextval('s')") // on the other connection
		awaitUsed(t, l.Server, 1)
		exec(a, "SELECT nextval('s')")
		exec(a, "COMMIT")
		awaitIdle(t, l.Server)
		exec(b, "BEGIN") // takes the connection that was given back last
		exec(a, "INSERT INTO counted VALUES (1)")
		exec(b, "COMMIT")
		_, err := a.PgConn().Exec(t.Context(), "SELECT lastval()").ReadAll()
		wantCode(t, err, codeNotInState)
	}
	exec(a, "SELECT nextval('s')")
	var last, next int64
	if err := a.QueryRow(t.Context(), "SELECT lastval()", pgx.QueryExecModeSimpleProtocol).Scan(&last); err != nil {
		t.Fatal(err)
	}
	if err := a.QueryRow(t.Context(), "SELECT last_value FROM s", pgx.QueryExecModeSimpleProtocol).Scan(&next); err != nil {
		t.Fatal(err)
	}
	if last != next {
		t.Errorf("lastval %d, want %d", last, next)
	}
}
