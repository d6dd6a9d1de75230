package pgtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

func TestClusterReplicates(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := pgtest.StartCluster(t, pgtest.Options{Standbys: 2})

	must(t, c.PauseReplay(ctx, "h2"))
	must(t, c.Primary().Exec(ctx, pgtest.AppDatabase, "CREATE TABLE t (n int); INSERT INTO t VALUES (42)"))
	must(t, c.WaitForCatchup(ctx, "h3"))
	wantValue(t, c.Server("h3"), "SELECT n FROM t", "42")
	wantValue(t, c.Server("h2"), "SELECT count(*) FROM pg_class WHERE relname = 't'", "0")
	must(t, c.ResumeReplay(ctx, "h2"))
	must(t, c.WaitForCatchup(ctx))
	wantValue(t, c.Server("h2"), "SELECT n FROM t", "42")

	for _, user := range []string{pgtest.AppUser, pgtest.MonitorUser, pgtest.Superuser} {
		conn, err := c.Server("h2").Conn(ctx, pgtest.AppDatabase, user)
		must(t, err)
		must(t, conn.Close(ctx))
	}
}

func TestPromoteMovesTheOtherStandbys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := pgtest.StartCluster(t, pgtest.Options{Standbys: 2})

	must(t, c.Primary().Kill(ctx))
	must(t, c.Promote(ctx, "h3"))
	must(t, c.WaitForStreaming(ctx))
	must(t, c.Primary().Exec(ctx, pgtest.AppDatabase, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)"))
	must(t, c.WaitForCatchup(ctx))
	wantValue(t, c.Server("h2"), "SELECT n FROM t", "1")
}

func TestServerLife(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := pgtest.StartCluster(t, pgtest.Options{Settings: map[string]string{"max_connections": "20"}})
	s := c.Primary()
	wantValue(t, s, "SHOW max_connections", "20")
	must(t, s.Exec(ctx, pgtest.AppDatabase, "CREATE TABLE t (n int)"))

	for name, end := range map[string]func() error{
		"fast":      func() error { return s.Stop(ctx, pgtest.StopFast) },
		"immediate": func() error { return s.Stop(ctx, pgtest.StopImmediate) },
		"kill":      func() error { return s.Kill(ctx) },
		"paused": func() error {
			must(t, s.Pause())
			return s.Kill(ctx)
		},
	} {
		must(t, end())
		if s.Running() {
			t.Fatalf("%s: the server still runs", name)
		}
		if _, err := s.Conn(ctx, pgtest.AppDatabase, pgtest.AppUser); err == nil {
			t.Fatalf("%s: the server still answers", name)
		}
		must(t, s.Start(ctx))
		wantValue(t, s, "SELECT count(*) FROM t", "0")
	}
}

func TestPausedServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	conn, err := s.Conn(ctx, pgtest.AppDatabase, pgtest.AppUser)
	must(t, err)
	defer conn.Close(context.WithoutCancel(ctx))

	must(t, s.Pause())
	answered := make(chan error, 1)
	go func() { answered <- conn.Ping(ctx) }()
	select {
	case err := <-answered:
		t.Fatalf("a paused server answered: %v", err)
	default:
	}
	must(t, s.Continue())
	must(t, <-answered)
}

func TestFreshClustersDiffer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const query = "SELECT system_identifier FROM pg_control_system()"
	var ids []string
	for _, fresh := range []bool{false, true, true} {
		c := pgtest.StartCluster(t, pgtest.Options{Fresh: fresh})
		id, err := c.Primary().QueryValue(ctx, "postgres", query)
		must(t, err)
		ids = append(ids, id)
	}
	if ids[0] == ids[1] || ids[1] == ids[2] {
		t.Fatalf("system identifiers %v, want three different ones", ids)
	}
}

func TestCloseRemovesEverything(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := pgtest.New(ctx, pgtest.Options{Standbys: 1})
	must(t, err)
	must(t, c.Server("h2").Pause())
	must(t, c.Close(ctx))
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Fatalf("directory is still there: %v", err)
	}
}

func TestWrongSettingIsReported(t *testing.T) {
	t.Parallel()
	_, err := pgtest.New(t.Context(), pgtest.Options{Settings: map[string]string{"max_connections": "many"}})
	if err == nil {
		t.Fatal("a server with a wrong setting started")
	}
	t.Log(err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantValue(t *testing.T, s *pgtest.Server, query, want string) {
	t.Helper()
	got, err := s.QueryValue(t.Context(), pgtest.AppDatabase, query)
	must(t, err)
	if got != want {
		t.Fatalf("server %s: %s: got %q, want %q", s.Name, query, got, want)
	}
}
