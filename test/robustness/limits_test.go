package robustness

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestLimits runs into every limit of the configuration.
func TestLimits(t *testing.T) {
	c := startCluster(t, 1)
	t.Run("max_clients", func(t *testing.T) { testMaxClients(t, c) })
	t.Run("max_connections", func(t *testing.T) { testMaxConnections(t, c) })
	t.Run("startup timeout", func(t *testing.T) { testStartupTimeout(t, c) })
	t.Run("the server's max_connections", func(t *testing.T) { testServerFull(t, c) })
}

func testMaxClients(t *testing.T, c *pgtest.Cluster) {
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{Listen: "tls: {mode: disable}, drain: 1s, max_clients: 3"})}
	r.unused(t)
	before := r.usage(t)
	all := []*wire{r.wire(t), r.wire(t), r.wire(t)}
	for range times {
		r.refused(t, "53300", "pgproxy: sorry, too many clients already")
	}
	for _, w := range all {
		if got := w.value("SELECT 1"); got != "1" {
			t.Errorf("a session got %q", got)
		}
	}
	all[0].send(pgwire.AppendEmpty(nil, pgwire.Terminate))
	await(t, func() error {
		conn, err := pgconn.Connect(t.Context(), r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser))
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	})
	for _, w := range all {
		must(t, w.Close())
	}
	r.settled(t, before)
}

// unused waits until the client that has seen pgproxy ready is gone.
func (r *rig) unused(t *testing.T) {
	t.Helper()
	await(t, func() error {
		now, err := r.tryUsage(t.Context())
		if err == nil && now.clients+now.used > 0 {
			err = fmt.Errorf("%d clients and %d used server connections", now.clients, now.used)
		}
		return err
	})
}

// refused logs in in vain.
func (r *rig) refused(t *testing.T, code, text string) {
	t.Helper()
	_, err := pgconn.Connect(t.Context(), r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser))
	if e := pgError(err); e == nil || e.Code != code || e.Message != text || e.Severity != "FATAL" {
		t.Errorf("got %v, want %s %s", err, code, text)
	}
}

// testMaxConnections holds all connections to the primary that pgproxy may have.
func testMaxConnections(t *testing.T, c *pgtest.Cluster) {
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{
		Backend: "max_connections: 2", Sections: "pool: {wait: 100ms}\n",
	})}
	r.unused(t)
	all := []*wire{r.wire(t), r.wire(t)}
	for range 3 {
		r.refused(t, "53300", `pgproxy: no server connection to "h1" for database "app", user "app" within 100ms: backends.max_connections 2`)
	}
	// What is free again goes to the next one; an idle connection of another key makes
	// room.
	all[0].send(pgwire.AppendEmpty(nil, pgwire.Terminate))
	all[0].ends()
	await(t, func() error {
		conn, err := pgconn.Connect(t.Context(), r.proxy.DSN(pgtest.AppDatabase, pgtest.AppUser)+" application_name=another")
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	})
	if got := all[1].value("SELECT 1"); got != "1" {
		t.Errorf("a session got %q", got)
	}
	r.onPrimary(t, "SELECT count(*) <= 2 FROM pg_stat_activity WHERE usename = 'app'")
}

// testStartupTimeout connects and stays silent at each stage.
func testStartupTimeout(t *testing.T, c *pgtest.Cluster) {
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{
		Listen: "tls: {mode: disable}, drain: 1s, startup: {timeout: 3s}",
	})}
	established := r.wire(t)
	before := r.usage(t)
	startup := pgwire.AppendStartup(nil, 196608, startupParameters)
	var all []*wire
	for _, b := range [][]byte{nil, startup[:3], startup[:20], startup, pgwire.AppendSSLRequest(nil)} {
		for range times {
			w := r.dialRaw(t)
			w.send(b)
			all = append(all, w)
		}
	}
	for _, w := range all {
		w.endsRaw()
	}
	r.settled(t, before)
	if got := established.value("SELECT 1"); got != "1" {
		t.Errorf("an established session got %q", got)
	}
}

// testServerFull: the server itself has no place; its words reach the client.
func testServerFull(t *testing.T, c *pgtest.Cluster) {
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{})}
	must(t, c.Primary().Exec(t.Context(), "postgres", "ALTER ROLE app CONNECTION LIMIT 2"))
	defer func() {
		must(t, c.Primary().Exec(context.Background(), "postgres", "ALTER ROLE app CONNECTION LIMIT -1"))
	}()
	r.onPrimary(t, "SELECT count(*) <= 1 FROM pg_stat_activity WHERE usename = 'app'")
	_, _ = r.wire(t), r.wire(t)
	r.refused(t, "53300", `too many connections for role "app"`)
}
