package transparency

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgtest/wirescript"
)

const scriptDir = "../../proxy/testdata/wire"

// startCluster starts the cluster that the scripts are written for.
func startCluster(t *testing.T) *environment {
	t.Helper()
	c := pgtest.StartCluster(t, pgtest.Options{Standbys: 2, Settings: map[string]string{
		"max_prepared_transactions": "10",
		// Nothing that comes by itself may change what EXPLAIN or a notice says.
		"autovacuum": "off",
	}})
	env := &environment{cluster: c, conns: make(map[*pgtest.Server]*pgx.Conn)}
	t.Cleanup(env.close)
	fixtures, err := os.ReadFile(filepath.Join(scriptDir, "fixtures.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Exec(t.Context(), string(fixtures)); err != nil {
		t.Fatalf("make fixtures: %v", err)
	}
	return env
}

// scripts returns the scripts by name, in order.
func scripts(t *testing.T) []*wirescript.Script {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(scriptDir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no scripts in %s", scriptDir)
	}
	var all []*wirescript.Script
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := wirescript.Parse(strings.TrimSuffix(filepath.Base(f), ".txt"), text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// environment is the cluster as the scripts see it. It keeps one superuser's
// session per server.
type environment struct {
	cluster *pgtest.Cluster
	conns   map[*pgtest.Server]*pgx.Conn
}

func (e *environment) close() {
	for _, c := range e.conns {
		_ = c.Close(context.Background()) // the servers go too
	}
}

// runner returns a runner of scripts against address.
func (e *environment) runner(address string) *wirescript.Runner {
	return &wirescript.Runner{Address: address, Password: pgtest.Password, Environment: e}
}

func (e *environment) conn(ctx context.Context, s *pgtest.Server) (*pgx.Conn, error) {
	if c := e.conns[s]; c != nil && !c.IsClosed() {
		return c, nil
	}
	c, err := s.Conn(ctx, pgtest.AppDatabase, pgtest.Superuser)
	if err != nil {
		return nil, err
	}
	e.conns[s] = c
	return c, nil
}

// Exec implements wirescript.Environment.
func (e *environment) Exec(ctx context.Context, sql string) error {
	c, err := e.conn(ctx, e.cluster.Primary())
	if err != nil {
		return err
	}
	if err := c.PgConn().Exec(ctx, sql).Close(); err != nil {
		return fmt.Errorf("execute on the primary: %w", err)
	}
	return nil
}

// Await implements wirescript.Environment.
func (e *environment) Await(ctx context.Context, query string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, s := range e.cluster.Servers {
			c, err := e.conn(ctx, s)
			if err != nil {
				return err
			}
			var ok bool
			if err := c.QueryRow(ctx, query, pgx.QueryExecModeSimpleProtocol).Scan(&ok); err != nil {
				return fmt.Errorf("ask server %s: %w", s.Name, err)
			}
			if ok {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %q is true: %w", query, ctx.Err())
		case <-tick.C:
		}
	}
}

// Catchup implements wirescript.Environment.
func (e *environment) Catchup(ctx context.Context) error { return e.cluster.WaitForCatchup(ctx) }

// mustRun runs a script that has to go well.
func mustRun(t *testing.T, r *wirescript.Runner, s *wirescript.Script) *wirescript.Transcript {
	t.Helper()
	transcript, err := r.Run(t.Context(), s)
	if err != nil {
		t.Fatalf("%v\ntranscript so far:\n%s", err, transcript)
	}
	return transcript
}
