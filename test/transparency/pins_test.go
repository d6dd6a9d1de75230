package transparency

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// pinFunction is a function that sets what its caller's text does not tell of.
const pinFunction = `CREATE FUNCTION sets_work_mem() RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RETURN set_config('work_mem', '777kB', false); END $$`

// large is a comment that is longer than what pgproxy keeps of the statements of a session.
var large = " /* " + strings.Repeat("x", 9<<20) + " */"

// pinCauses are states of a session that cannot follow it to another connection.
// probe tells the session that has the state from those that have not.
var pinCauses = []struct {
	name, user, begin, probe string
	prepare                  string // instead of begin, by the protocol and under the name large
	has                      string // what the session with the state is told
	end                      string
	reason                   string
}{
	{
		name: "temporary table", begin: "CREATE TEMP TABLE items AS SELECT 1 AS id",
		probe: "SELECT count(*) FROM items", has: "1", end: "DROP TABLE pg_temp.items", reason: "temporary table",
	},
	{
		name: "LISTEN", begin: "LISTEN c",
		probe: "SELECT count(*) FROM pg_listening_channels()", has: "1", end: "UNLISTEN *", reason: "LISTEN",
	},
	{
		name: "session advisory lock", begin: "SELECT pg_advisory_lock(77)",
		probe: "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", has: "1", end: "SELECT pg_advisory_unlock(77)", reason: "advisory lock",
	},
	{
		name: "WITH HOLD cursor", begin: "DECLARE h CURSOR WITH HOLD FOR SELECT 1",
		probe: "SELECT count(*) FROM pg_cursors WHERE name = 'h'", has: "1", end: "CLOSE h", reason: "WITH HOLD cursor",
	},
	{
		name: "DO", begin: "DO $$ BEGIN EXECUTE 'SET work_mem = 777'; END $$",
		probe: "SELECT current_setting('work_mem')", has: "777kB", end: "DISCARD ALL", reason: "unknown state",
	},
	{
		name: "function with set_config", begin: "SELECT sets_work_mem()",
		probe: "SELECT current_setting('work_mem')", has: "777kB", end: "DISCARD ALL", reason: "unknown state",
	},
	{
		name: "LOAD", user: pgtest.Superuser, begin: "LOAD 'auto_explain'",
		probe: "SELECT count(*) > 0 FROM pg_settings WHERE name LIKE 'auto_explain.%'", has: "true", end: "DISCARD ALL", reason: "unknown state",
	},
	{
		name: "setseed", begin: "SELECT setseed(0.5)",
		probe: "SELECT random() = 0.9851677175347999", has: "true", end: "DISCARD ALL", reason: "unknown state",
	},
	{
		name: "large PREPARE", begin: "PREPARE large AS SELECT 1" + large,
		probe: "SELECT count(*) FROM pg_prepared_statements WHERE name = 'large'", has: "1", end: "DISCARD ALL", reason: "unknown state",
	},
	{
		name: "large statement of the protocol", prepare: "SELECT 1" + large,
		probe: "SELECT count(*) FROM pg_prepared_statements WHERE name = 'large'", has: "1", end: "DEALLOCATE large", reason: "large statement",
	},
}

// TestPinBreakage shows what a pool does that does not know the causes: on another
// connection the state is lost, on the same one another session has it.
func TestPinBreakage(t *testing.T) {
	env := startCluster(t)
	if err := env.Exec(t.Context(), pinFunction); err != nil {
		t.Fatal(err)
	}
	address := env.cluster.Primary().Address()
	for _, p := range pinCauses {
		t.Run(p.name, func(t *testing.T) {
			user := pinUser(p.user)
			pooled := connectTo(t, address, user)
			other := connectTo(t, address, user)
			makeState(t, pooled, p.begin, p.prepare)
			if got := ask(t, other, p.probe); got == p.has {
				t.Errorf("on another connection: %s, as on that with the state", got)
			}
			if got := ask(t, pooled, p.probe); got != p.has {
				t.Errorf("on the same connection: %s, want %s", got, p.has)
			}
		})
	}
}

// TestPins: a session with state that cannot follow it keeps its connection, and nobody
// else, until the state ends.
func TestPins(t *testing.T) {
	binary := proxytest.Build(t)
	env := startCluster(t)
	if err := env.Exec(t.Context(), pinFunction); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 2} {
		proxy := proxytest.StartWith(t, binary, env.cluster, proxytest.Options{
			Balance:  "mode: off",
			Sections: fmt.Sprintf("pool: {mode: transaction, size: %d}\n", size),
			Operator: true,
		})
		operator, err := pcp.NewClient(pcp.Target{Socket: proxy.Socket})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(operator.Close)
		for _, p := range pinCauses {
			t.Run(fmt.Sprintf("%s/%d", p.name, size), func(t *testing.T) {
				user := pinUser(p.user)
				pinned := connectTo(t, proxy.Address(), user)
				other := connectTo(t, proxy.Address(), user)
				makeState(t, pinned, p.begin, p.prepare)
				awaitPinned(t, operator, p.reason)
				answer := make(chan string, 1)
				asked := func() {
					var got string
					if err := other.QueryRow(context.WithoutCancel(t.Context()), "SELECT ("+p.probe+")::text", pgx.QueryExecModeSimpleProtocol).Scan(&got); err != nil {
						got = err.Error()
					}
					answer <- got
				}
				var got string
				if size == 1 {
					go asked()
					awaitWaiting(t, operator)
				} else {
					asked()
					got = <-answer
				}
				if own := ask(t, pinned, p.probe); own != p.has {
					t.Errorf("the session with the state is told %s, want %s", own, p.has)
				}
				mustExec(t, pinned, p.end)
				if size == 1 {
					got = <-answer // it has got the only connection
				}
				if got == p.has || strings.Contains(got, "ERROR") {
					t.Errorf("another session is told %s, as the one with the state", got)
				}
				awaitPinned(t, operator, "")
			})
		}
	}
}

func pinUser(user string) string {
	if user == "" {
		return pgtest.AppUser
	}
	return user
}

func connectTo(t *testing.T, address, user string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, pgtest.Password(user), address, pgtest.AppDatabase))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func mustExec(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if err := c.PgConn().Exec(t.Context(), sql).Close(); err != nil {
		t.Fatalf("%.100s: %v", sql, err)
	}
}

func makeState(t *testing.T, c *pgx.Conn, begin, prepare string) {
	t.Helper()
	if prepare == "" {
		mustExec(t, c, begin)
		return
	}
	if _, err := c.PgConn().Prepare(t.Context(), "large", prepare, nil); err != nil {
		t.Fatal(err)
	}
}

// ask returns the one value of a query.
func ask(t *testing.T, c *pgx.Conn, sql string) string {
	t.Helper()
	var text string
	if err := c.QueryRow(t.Context(), "SELECT ("+sql+")::text", pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// awaitPinned waits until the operator is told that one session is pinned for that
// reason, or none.
func awaitPinned(t *testing.T, operator *pcp.Client, want string) {
	t.Helper()
	await(t, "pinned by "+want, func(ctx context.Context) (string, bool, error) {
		sessions, err := operator.Sessions(ctx)
		var reasons []string
		for _, s := range sessions {
			for _, p := range s.Pinned {
				reasons = append(reasons, p.Reason)
			}
		}
		got := strings.Join(reasons, ", ")
		return got, got == want, err
	})
}

// awaitWaiting waits until the operator is told of a client that waits for a connection.
func awaitWaiting(t *testing.T, operator *pcp.Client) {
	t.Helper()
	await(t, "a client that waits", func(ctx context.Context) (string, bool, error) {
		pools, err := operator.Pools(ctx)
		waiting := 0
		for _, p := range pools {
			waiting += p.Waiting
		}
		return fmt.Sprint(waiting), waiting == 1, err
	})
}

// await asks until the answer is right.
func await(t *testing.T, what string, f func(context.Context) (string, bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, ok, err := f(ctx)
		if ok && err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("wait for %s: got %q, %v", what, got, err)
		case <-tick.C:
		}
	}
}
