package proxy

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// realPools is a pools of one connection to a real server.
func realPools(t *testing.T) (*pools, *dialer, cluster.Backend, *client) {
	t.Helper()
	primary := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	log := cluster.NewLog(testState(primary.Address()))
	cfg := DefaultPool()
	cfg.Mode, cfg.Size = PoolTransaction, 1
	p := newPools(cfg, log, slog.New(slog.DiscardHandler))
	d := testDialer(t, BackendTLSConfig{Mode: SSLDisable})
	p.login = d.login
	t.Cleanup(p.shutdown)
	c := &client{
		user: pgtest.AppUser, database: pgtest.AppDatabase,
		cred: auth.NewPasswordCredential(pgtest.Password(pgtest.AppUser)),
	}
	return p, d, log.State().Backends[0], c
}

// query runs one query and returns the SQLSTATE of its error.
func (sc *serverConn) query(t *testing.T, sql string) (code string) {
	t.Helper()
	if _, err := sc.Write(pgwire.AppendQuery(nil, sql)); err != nil {
		t.Fatal(err)
	}
	var buf []byte
	for {
		typ, body, err := readMessage(sc, &buf, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		switch typ {
		case pgwire.ErrorResponse:
			code = string(pgwire.ErrorField(body, 'C'))
		case pgwire.ReadyForQuery:
			return code
		}
	}
}

// A cancel request that comes when its statement is over hits nobody else's, in
// transaction mode too, where nothing but an empty query stands between two loans.
func TestPostgresLateCancelHitsNobodyElse(t *testing.T) {
	p, d, b, c := realPools(t)
	const rounds = 300
	hit := 0
	for range rounds {
		sc, err := p.acquire(t.Context(), b, c)
		if err != nil {
			t.Fatal(err)
		}
		var cancels sync.WaitGroup
		for range 3 {
			if !sc.beginCancel() {
				t.Fatal("the loan has not ended")
			}
			cancels.Go(func() {
				lost, _ := d.cancel(context.Background(), sc.address, sc.pid, sc.secret)
				sc.endCancel(lost)
			})
		}
		if sc.query(t, "SELECT count(*) FROM generate_series(1, 3000)") != "" {
			hit++
		}
		p.release(sc, true)
		next, err := p.acquire(t.Context(), b, c)
		if err != nil {
			t.Fatal(err)
		}
		if next.id != sc.id {
			t.Fatal("another connection")
		}
		if code := next.query(t, "SELECT count(*) FROM generate_series(1, 3000)"); code != "" {
			t.Fatalf("the next loan got %s", code)
		}
		p.release(next, true)
		cancels.Wait()
	}
	t.Logf("%d of %d statements were cancelled themselves", hit, rounds)
}

func TestPostgresLoginTellsTheRunOfTheServer(t *testing.T) {
	p, _, b, c := realPools(t)
	hostile := &client{user: c.user, database: c.database, cred: c.cred, params: []pgwire.Parameter{
		{Name: "search_path", Value: "evil, public"}, {Name: "client_encoding", Value: "SJIS"}, {Name: "datestyle", Value: "German"},
	}}
	var runs []uint64
	for _, c := range []*client{c, c, hostile} {
		sc, err := p.acquire(t.Context(), b, c)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, sc.server)
		if code := sc.query(t, "DO $$ BEGIN ASSERT (SELECT extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint = "+
			strconv.FormatUint(sc.server, 10)+"; END $$"); code != "" {
			t.Errorf("%d is not the start of the server: %s", sc.server, code)
		}
		sc.Close()
	}
	if runs[0] == 0 || runs[0] != runs[1] || runs[0] != runs[2] {
		t.Errorf("runs %v of one server", runs)
	}
}
