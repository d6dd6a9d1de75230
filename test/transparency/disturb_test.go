package transparency

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// disturbGuard turns a disturbance that gets no connection into an error.
const disturbGuard = 20 * time.Second

// disturber is two other clients of the pool that a script's session uses. What they do
// would be seen in the script's answers if anything of it stayed on a connection, and
// what the script does would be seen in theirs. They live as long as pgproxy, so that
// their own state has to follow them, too.
type disturber struct {
	random *rand.Rand
	plain  *pgconn.PgConn
	custom *pgconn.PgConn // has custom settings, which connections of the others must not have
	names  []string       // of the scripts' prepared statements
	zone   string         // the TimeZone that plain has set; "" none
	value  string         // the custom setting that custom has; "" none
	held   map[string]string
	done   []string // what was done, for the message of a failure
}

// newDisturber connects the clients. The seed is printed where the test fails.
func newDisturber(t *testing.T, p *proxytest.Proxy, seed uint64) *disturber {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed of the disturbances: %d", seed)
		}
	})
	d := &disturber{
		random: rand.New(rand.NewPCG(seed, 0)), names: statementNames(t), held: make(map[string]string),
	}
	for _, c := range []**pgconn.PgConn{&d.plain, &d.custom} {
		conn, err := pgconn.Connect(t.Context(), p.DSN(pgtest.AppDatabase, pgtest.AppUser))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		*c = conn
	}
	// Before anybody has asked for it nobody's values are kept apart (docs/pooling.md).
	if _, err := d.plain.Exec(t.Context(), "SELECT lastval()").ReadAll(); err == nil {
		t.Error("a session that has used no sequence has a last value")
	}
	return d
}

var (
	byProtocol = regexp.MustCompile(`Parse \{"Name":"([^"]+)"`)
	bySQL      = regexp.MustCompile(`PREPARE (\w+)`)
)

// statementNames returns the names that the scripts give to prepared statements.
func statementNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(scriptDir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, re := range []*regexp.Regexp{byProtocol, bySQL} {
			for _, m := range re.FindAllSubmatch(text, -1) {
				if name := string(m[1]); name != "TRANSACTION" && name != "ALL" && !strings.Contains(name, "$") {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// disturb does one thing or two.
func (d *disturber) disturb(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, disturbGuard)
	defer cancel()
	for range 1 + d.random.IntN(2) {
		n := d.random.IntN(len(disturbances))
		d.done = append(d.done, disturbances[n].name)
		if err := disturbances[n].do(ctx, d); err != nil {
			return fmt.Errorf("disturb by %q: %w", d.done[max(0, len(d.done)-8):], err)
		}
	}
	return nil
}

// exec runs a simple query and compares the values of all rows, one after the other.
func exec(ctx context.Context, c *pgconn.PgConn, sql string, want ...string) error {
	return each(ctx, c, want, sql)
}

// each runs simple queries and does so for all of them together.
func each(ctx context.Context, c *pgconn.PgConn, want []string, all ...string) error {
	var results []*pgconn.Result
	for _, sql := range all {
		more, err := c.Exec(ctx, sql).ReadAll()
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		results = append(results, more...)
	}
	return compare(strings.Join(all, "; "), results, want)
}

func compare(sql string, results []*pgconn.Result, want []string) error {
	var got []string
	for _, r := range results {
		for _, row := range r.Rows {
			for _, v := range row {
				got = append(got, string(v))
			}
		}
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: got %q, want %q", sql, got, want)
	}
	return nil
}

// fails runs a query that must fail in that way.
func fails(ctx context.Context, c *pgconn.PgConn, sql, state string) error {
	err := c.Exec(ctx, sql).Close()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != state {
		return fmt.Errorf("%s: got %w, want %s", sql, err, state)
	}
	return nil
}

// name returns the name of a prepared statement of some script.
func (d *disturber) name() string { return d.names[d.random.IntN(len(d.names))] }

// disturbances are what may happen between two messages. None touches rows, locks or
// channels that a script's answers tell of.
var disturbances = []struct {
	name string
	do   func(context.Context, *disturber) error
}{
	{"settings", func(ctx context.Context, d *disturber) error {
		if err := d.own(ctx); err != nil {
			return err
		}
		d.zone = []string{"Pacific/Fiji", "Asia/Kathmandu", "America/Caracas"}[d.random.IntN(3)]
		return each(ctx, d.plain, []string{d.zone},
			"SET TimeZone = '"+d.zone+"'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = sql_standard; SET bytea_output = escape",
			"SET client_min_messages = error", "SET extra_float_digits = -3", "SET work_mem = '77kB'", "SHOW TimeZone")
	}},
	{"RESET ALL", func(ctx context.Context, d *disturber) error {
		if err := d.own(ctx); err != nil {
			return err
		}
		d.zone = ""
		return each(ctx, d.plain, []string{"0", "1"}, "RESET ALL", "SELECT count(*) FILTER (WHERE setting = '-3'), count(*) FROM pg_settings WHERE name = 'extra_float_digits'")
	}},
	{"search_path and role", func(ctx context.Context, d *disturber) error {
		return each(ctx, d.plain, []string{"disturber", "hidden"},
			"SET search_path = disturbed", "SET ROLE disturber", "SELECT current_user, name FROM items", "RESET ROLE", "SET search_path TO DEFAULT")
	}},
	{"characteristics of transactions", func(ctx context.Context, d *disturber) error {
		return each(ctx, d.plain, []string{"off"}, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
			"SELECT 1 WHERE false", "RESET default_transaction_isolation", "RESET default_transaction_read_only", "SHOW transaction_read_only")
	}},
	{"transaction", func(ctx context.Context, d *disturber) error {
		if err := d.own(ctx); err != nil {
			return err
		}
		if err := each(ctx, d.plain, nil, "BEGIN", "SET TimeZone = 'Asia/Dili'", "SAVEPOINT a", "SET LOCAL work_mem = '99kB'", "SET bytea_output = hex"); err != nil {
			return err
		}
		if err := fails(ctx, d.plain, "SELECT 1/0", "22012"); err != nil {
			return err
		}
		if err := each(ctx, d.plain, []string{"Asia/Dili"}, "ROLLBACK TO a", "SHOW TimeZone"); err != nil {
			return err
		}
		return errors.Join(exec(ctx, d.plain, "ROLLBACK"), d.own(ctx))
	}},
	{"set_config", func(ctx context.Context, d *disturber) error {
		if err := exec(ctx, d.plain, "SELECT set_config('work_mem', '66kB', false)", "66kB"); err != nil {
			return err
		}
		return exec(ctx, d.plain, "SHOW work_mem", "66kB")
	}},
	{"custom setting", func(ctx context.Context, d *disturber) error {
		if d.value != "" {
			if err := exec(ctx, d.custom, "SHOW my.custom", d.value); err != nil {
				return err
			}
		}
		d.value = fmt.Sprint(d.random.IntN(1000))
		return each(ctx, d.custom, []string{d.value}, "SET my.custom = '"+d.value+"'", "SET app.tenant = 'x'", "SELECT current_setting('my.custom', true)")
	}},
	{"statement of the protocol", func(ctx context.Context, d *disturber) error {
		name := d.name()
		if err := d.forget(ctx, name); err != nil {
			return err
		}
		d.held[name] = fmt.Sprint(d.random.IntN(3))
		if _, err := d.plain.Prepare(ctx, name, "SELECT 'disturbed "+d.held[name]+"'", nil); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
		return d.recall(ctx, name)
	}},
	{"statement again", func(ctx context.Context, d *disturber) error {
		for _, name := range d.names {
			if d.held[name] != "" {
				return d.recall(ctx, name)
			}
		}
		return nil
	}},
	{"statement of SQL", func(ctx context.Context, d *disturber) error {
		name := d.name()
		if err := d.forget(ctx, name); err != nil {
			return err
		}
		d.held[name] = "by SQL"
		return each(ctx, d.plain, []string{"disturbed by SQL"}, `PREPARE "`+name+`" AS SELECT 'disturbed by SQL'`, `EXECUTE "`+name+`"`)
	}},
	{"DEALLOCATE ALL", func(ctx context.Context, d *disturber) error {
		name := d.name()
		clear(d.held)
		return errors.Join(exec(ctx, d.plain, "DEALLOCATE ALL"), fails(ctx, d.plain, `EXECUTE "`+name+`"`, "26000"))
	}},
	{"sequence", func(ctx context.Context, d *disturber) error {
		if err := exec(ctx, d.plain, "SELECT setval('disturbed.s', 4241)", "4241"); err != nil {
			return err
		}
		if err := exec(ctx, d.plain, "SELECT nextval('disturbed.s')", "4242"); err != nil {
			return err
		}
		// The script's session may be at work, and have used the connection meanwhile.
		err := exec(ctx, d.plain, "SELECT currval('disturbed.s'), lastval()", "4242", "4242")
		if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "55000" {
			return nil
		}
		return err
	}},
	{"temporary table", func(ctx context.Context, d *disturber) error {
		table := []string{"items", "numbers", "notes", "changing"}[d.random.IntN(4)]
		return each(ctx, d.plain, nil, "CREATE TEMP TABLE "+table+" (disturbed int)", "INSERT INTO "+table+" VALUES (1)",
			"DELETE FROM "+table+" WHERE disturbed <> 1", "DROP TABLE pg_temp."+table)
	}},
	{"LISTEN", func(ctx context.Context, d *disturber) error {
		return each(ctx, d.plain, nil, "LISTEN self_a", "LISTEN disturbed", "NOTIFY disturbed", "UNLISTEN *", "SELECT pg_listening_channels()")
	}},
	{"advisory lock", func(ctx context.Context, d *disturber) error {
		if err := exec(ctx, d.plain, "SELECT pg_try_advisory_lock(424242)", "t"); err != nil {
			return err
		}
		return exec(ctx, d.plain, "SELECT pg_advisory_unlock(424242)", "t")
	}},
	{"cursors", func(ctx context.Context, d *disturber) error {
		return each(ctx, d.plain, []string{"2"}, "BEGIN", "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 3)",
			"DECLARE c CURSOR FOR SELECT 1", "COMMIT", "MOVE 1 FROM h", "FETCH 1 FROM h; CLOSE h")
	}},
	{"DO", func(ctx context.Context, d *disturber) error {
		d.zone = ""
		clear(d.held)
		if err := each(ctx, d.plain, []string{"155kB"}, "DO $$ BEGIN PERFORM set_config('work_mem', '155kB', false); END $$", "SHOW work_mem"); err != nil {
			return err
		}
		return exec(ctx, d.plain, "DISCARD ALL")
	}},
}

// own shows that the settings have followed.
func (d *disturber) own(ctx context.Context) error {
	if d.zone == "" {
		return nil
	}
	return exec(ctx, d.plain, "SELECT current_setting('TimeZone'), current_setting('extra_float_digits')", d.zone, "-3")
}

// forget frees the name of a prepared statement.
func (d *disturber) forget(ctx context.Context, name string) error {
	if d.held[name] == "" {
		return nil
	}
	delete(d.held, name)
	return exec(ctx, d.plain, `DEALLOCATE "`+name+`"`)
}

// recall shows that a statement has followed.
func (d *disturber) recall(ctx context.Context, name string) error {
	r := d.plain.ExecPrepared(ctx, name, nil, nil, nil).Read()
	if r.Err != nil {
		return fmt.Errorf("execute %s: %w", name, r.Err)
	}
	return compare(name, []*pgconn.Result{r}, []string{"disturbed " + d.held[name]})
}

// disturbed is what the disturbances need, in the words of a superuser.
const disturbed = `
CREATE ROLE disturber;
GRANT disturber TO app;
CREATE SCHEMA disturbed AUTHORIZATION app;
CREATE SEQUENCE disturbed.s;
ALTER SEQUENCE disturbed.s OWNER TO app;
CREATE TABLE disturbed.items AS SELECT 'hidden'::text AS name;
GRANT USAGE ON SCHEMA disturbed TO disturber; GRANT SELECT ON disturbed.items TO disturber`
