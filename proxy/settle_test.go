package proxy

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestSettle: what runs in sessions of an address that is about to leave ends, nothing
// begins, and when it does not leave everything goes on; when it does all are told.
func TestSettle(t *testing.T) {
	l := newLeased(t, 0, nil)
	ctx := t.Context()
	local := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	running, idle := l.client(), l.client()
	tx, err := running.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	l.Settle(late, local)
	if late.Err() == nil {
		t.Error("settled while a transaction is open")
	}
	l.Unsettle()
	if _, err := idle.Exec(ctx, "INSERT INTO t VALUES (1)"); err != nil {
		t.Errorf("after it was given up: %v", err)
	}

	settled := make(chan struct{})
	go func() {
		defer close(settled)
		l.Settle(ctx, local)
	}()
	for l.sessions.settling.Load() == nil {
		<-time.After(time.Millisecond)
	}
	held := execLater(t, idle, "INSERT INTO t VALUES (2)")
	newcomer := make(chan error, 1)
	go func() {
		conn, err := pgx.Connect(ctx, appDSN(l.Server, ""))
		if err == nil {
			_ = conn.Close(ctx)
		}
		newcomer <- err
	}()
	if _, err := tx.Exec(ctx, "INSERT INTO t VALUES (3)"); err != nil {
		t.Error(err)
	}
	select {
	case <-settled:
		t.Error("settled while a transaction is open")
	default:
	}
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	<-settled
	l.Leave(netip.MustParseAddr("10.0.0.1")) // another one
	select {
	case err := <-held:
		t.Errorf("not held: %v", err)
	case err := <-newcomer:
		t.Errorf("not held: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l.Leave(local[0])
	for who, err := range map[string]error{"held": <-held, "new": <-newcomer} {
		contains(t, err, "pgproxy: shutting down")
		if t.Failed() {
			t.Log(who)
		}
	}
	_, err = running.Exec(ctx, "SELECT 1")
	wantCode(t, err, "57P01")
	if got := l.ask("h1", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"); got != "1 3" {
		t.Errorf("rows %s", got)
	}
}

// TestSettleOfAnotherAddress: who came elsewhere notices nothing.
func TestSettleOfAnotherAddress(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	other := netip.MustParseAddr("10.0.0.1")
	l.Settle(t.Context(), []netip.Addr{other})
	if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
		t.Error(err)
	}
	l.client()
	l.Leave(other)
	if got := value(t, conn, "1"); got != "1" {
		t.Errorf("%q", got)
	}
	l.Unsettle()
}
