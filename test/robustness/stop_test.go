package robustness

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// TestStop stops pgproxy under its clients.
func TestStop(t *testing.T) {
	c := startCluster(t, 1)
	t.Run("graceful", func(t *testing.T) { testGraceful(t, c) })
	t.Run("overdue", func(t *testing.T) { testOverdue(t, c) })
}

const listenDrain = "tls: {mode: disable}, drain: "

// testGraceful: who is idle is told at once; who works finishes first.
func testGraceful(t *testing.T, c *pgtest.Cluster) {
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{Listen: listenDrain + "1m"})}
	idle, working, inTransaction := r.wire(t), r.wire(t), r.wire(t)
	holder := r.cluster.Primary()
	lock, err := holder.Conn(t.Context(), pgtest.AppDatabase, pgtest.Superuser)
	must(t, err)
	defer lock.Close(context.Background())
	mustExec(t, lock, "SELECT pg_advisory_lock(99)")
	working.query("SELECT pg_advisory_lock(99), 'done'")
	r.onPrimary(t, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
	inTransaction.exec("BEGIN")
	r.proxy.Terminate(t)

	shuttingDown(t, "an idle session", idle.ends())
	// Nobody new is let in.
	await(t, func() error {
		conn, err := net.Dial("tcp", r.proxy.Address())
		if err != nil {
			return nil
		}
		_ = conn.Close()
		return errors.New("it still listens")
	})
	if got := inTransaction.value("SELECT 1"); got != "1" {
		t.Errorf("in a transaction: %q", got)
	}
	mustExec(t, lock, "SELECT pg_advisory_unlock(99)")
	row := working.expect(pgwire.DataRow)
	if row.size == 0 {
		t.Error("no row")
	}
	working.expect(pgwire.ReadyForQuery)
	shuttingDown(t, "a working session", working.ends())
	inTransaction.exec("COMMIT")
	shuttingDown(t, "a session in a transaction", inTransaction.ends())
	r.ended(t)
}

func shuttingDown(t *testing.T, who string, last message) {
	t.Helper()
	if last.code() != "57P01" || last.text() != "pgproxy: shutting down" {
		t.Errorf("%s is told %q %q", who, last.code(), last.text())
	}
}

func (r *rig) ended(t *testing.T) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	must(t, r.proxy.Wait(ctx))
	r.onPrimary(t, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename IN ('app', 'pgproxy'))")
}

// testOverdue: sessions that do not come to an end are ended, a client that does not
// read and one whose server does not read among them.
func testOverdue(t *testing.T, c *pgtest.Cluster) {
	r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{Listen: listenDrain + "100ms"})}
	silent, working, pipelining, inTransaction := r.wire(t), r.wire(t), r.wire(t), r.wire(t)
	silent.query("/* pgproxy: primary */ " + endless)
	silent.expect(pgwire.DataRow)
	working.query("/* pgproxy: primary */ " + sleeping)
	b, _ := pipeline()
	written := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = pipelining.Write(b)
		}
		written <- err
	}()
	inTransaction.exec("BEGIN")
	r.onPrimary(t, "SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'ClientWrite'")
	r.onPrimary(t, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%%1000000) b' AND state = 'active'")
	r.proxy.Terminate(t)
	ctx, done := context.WithTimeout(t.Context(), hangTimeout)
	defer done()
	must(t, r.proxy.Wait(ctx))
	<-written
	for _, w := range []*wire{silent, working, inTransaction} {
		w.ends()
	}
	// The servers notice when they write; a statement that works goes on, as that of any
	// client that has gone.
	must(t, c.Primary().Exec(t.Context(), "postgres",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%1000000) b' AND pid <> pg_backend_pid()"))
}
