package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// Five hundred clients share five server connections in transaction mode, and none has
// an error: PostgreSQL itself would refuse a sixth connection.
func TestManyClientsShareFewServerConnections(t *testing.T) {
	const clients, servers, each = 500, 5, 10
	c := pgtest.StartCluster(t, pgtest.Options{})
	pgbench(t, c, c.Primary().Port, "-i", "-q")
	if err := c.Primary().Exec(t.Context(), "postgres", fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", pgtest.AppUser, servers)); err != nil {
		t.Fatal(err)
	}
	proxy := proxytest.StartWith(t, proxytest.Build(t), c, proxytest.Options{
		Balance:  "mode: off",
		Sections: fmt.Sprintf("pool: {mode: transaction, size: %d, wait: 5m}\n", servers),
	})
	// pgbench prepares what it needs in between while all its clients wait: within a
	// transaction, which keeps its server connection, it would wait for itself.
	for _, args := range [][]string{{"-S", "-M", "simple"}, {"-S", "-M", "extended"}, {"-S", "-M", "prepared"}, {"-M", "extended"}} {
		out := pgbench(t, c, proxy.Port, append(args, "-n", "-c", strconv.Itoa(clients), "-j", "2", "-t", strconv.Itoa(each), "--max-tries", "100")...)
		if want := fmt.Sprintf("actually processed: %d/%d", clients*each, clients*each); !strings.Contains(out, want) {
			t.Errorf("%v: want %q in\n%s", args, want, out)
		}
	}
}

// pgbench runs it to its end, as the ordinary role.
func pgbench(t *testing.T, c *pgtest.Cluster, port int, args ...string) string {
	t.Helper()
	bin, err := pgtest.FindBinaries()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin.Dir, "pgbench"), args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "PGHOST=127.0.0.1", "PGPORT=" + strconv.Itoa(port), "PGSSLMODE=disable",
		"PGUSER=" + pgtest.AppUser, "PGPASSWORD=" + pgtest.Password(pgtest.AppUser), "PGDATABASE=" + pgtest.AppDatabase,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pgbench %v: %v\n%s", args, err, out[max(0, len(out)-4000):])
	}
	return string(out)
}
