package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestApplicationsShareConnections: clients that differ in application_name only use the
// same server connection, and each has its own name there, also after a RESET.
func TestApplicationsShareConnections(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Pool.Mode, cfg.Pool.Size = PoolTransaction, 1 })
	clients := make(map[string]*pgx.Conn)
	for _, name := range []string{"first", "it's the second"} {
		config, err := pgx.ParseConfig(appDSN(l.Server, ""))
		if err != nil {
			t.Fatal(err)
		}
		config.RuntimeParams["application_name"] = name
		config.DefaultQueryExecMode = pgx.QueryExecModeExec // DISCARD ALL takes statements away
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		clients[name] = conn
	}
	for _, change := range []string{"SELECT 1", "SET application_name = 'changed'", "RESET application_name", "RESET ALL", "DISCARD ALL"} {
		for _, conn := range clients {
			if _, err := conn.Exec(t.Context(), change); err != nil {
				t.Fatalf("%s: %v", change, err)
			}
		}
		for name, conn := range clients {
			want := name
			if change == "SET application_name = 'changed'" {
				want = "changed"
			}
			var got string
			if err := conn.QueryRow(t.Context(), "SHOW application_name").Scan(&got); err != nil {
				t.Fatal(err)
			}
			if told := conn.PgConn().ParameterStatus("application_name"); got != want || told != want {
				t.Errorf("after %s the name is %q, and the client was told %q; want %q", change, got, told, want)
			}
		}
	}
	if n := len(l.pools.list()); n != 1 {
		t.Errorf("%d server connections, want 1", n)
	}
}
