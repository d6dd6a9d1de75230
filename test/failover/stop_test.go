package failover

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// TestStopOfTheHolder: who is in a transaction may finish it, also one that came to the
// address, which moves before anything else ends. Who is idle, or has just sent
// something, has to reconnect, and is told so.
func TestStopOfTheHolder(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	in := start(ctx, t, rig.Options{Drain: "30s", Sections: "hold: {drain: 30s}\n"})
	holders, err := in.Holders()
	if err != nil || len(holders) != 1 {
		t.Fatalf("holders %v, %v", holders, err)
	}
	holder := holders[0]
	connect := func(ip string) *pgx.Conn {
		t.Helper()
		conn, err := pgx.ConnectConfig(ctx, in.ClientConfig(ip, rig.ProxyPort, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	exec := func(conn interface {
		Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	}, sql string,
	) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	begin := func(conn *pgx.Conn) pgx.Tx {
		t.Helper()
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	idle, late := connect(in.VIP), connect(in.VIP)
	exec(idle, "CREATE TABLE stopped (who text)")
	near, far := begin(connect(in.VIP)), begin(connect(holder.IP))
	exec(near, "INSERT INTO stopped VALUES ('through the address')")
	exec(far, "INSERT INTO stopped VALUES ('directly')")

	stopped := make(chan error, 1)
	working := make(chan error, 1)
	go func() {
		_, err := near.Exec(ctx, "SELECT pg_sleep(0.3)") // the stop comes while it runs
		working <- err
	}()
	go func() { stopped <- holder.StopMember(ctx) }()
	if err := <-working; err != nil {
		t.Errorf("in a transaction: %v", err)
	}
	held := make(chan error, 1)
	go func() {
		err := error(nil)
		for err == nil { // until the stop has begun
			_, err = late.Exec(ctx, "DELETE FROM stopped WHERE who = 'late'")
		}
		held <- err
	}()
	exec(near, "INSERT INTO stopped VALUES ('while it stops')")
	if err := near.Commit(ctx); err != nil {
		t.Errorf("commit through the address: %v", err)
	}
	told := func(who string, err error) {
		t.Helper()
		if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != "57P01" || pe.Message != "pgproxy: shutting down" {
			t.Errorf("%s is told %v", who, err)
		}
	}
	told("who has just sent something", <-held)
	_, err = idle.Exec(ctx, "SELECT 1")
	told("who is idle", err)
	again := connect(in.VIP)
	exec(again, "INSERT INTO stopped VALUES ('again')")
	if now, err := in.Holders(); err != nil || len(now) != 1 || now[0] == holder {
		t.Errorf("held by %v, %v", now, err)
	}
	select {
	case err := <-stopped:
		t.Errorf("stopped before the last transaction has ended: %v", err)
	default:
	}
	if err := far.Commit(ctx); err != nil {
		t.Errorf("commit of who came directly: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	<-holder.MemberEnded()
	if log, err := os.ReadFile(holder.MemberLog); err != nil || !strings.HasSuffix(string(log), "pgproxy ended: <nil>\n") {
		t.Errorf("it did not end well: %v", err)
	}
	rows := ""
	if err := again.QueryRow(ctx, "SELECT string_agg(who, ', ' ORDER BY who) FROM stopped").Scan(&rows); err != nil || rows != "again, directly, through the address, while it stops" {
		t.Errorf("rows %q, %v", rows, err)
	}
}
