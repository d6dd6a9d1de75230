package drivers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// target is where the programs connect to.
type target struct {
	port    int             // on 127.0.0.1
	cluster *pgtest.Cluster // what is behind it
	bin     pgtest.Binaries // PostgreSQL's client programs
}

// programs are run one after the other: they leave nothing behind, but some
// count what is there.
var programs = []struct {
	name string
	run  func(*testing.T, target)
}{
	{"psql", testPsql},
	{"pgx", testPgx},
	{"psycopg", testPsycopg},
	{"node-postgres", testNode},
	{"pgbench", testPgbench},
	{"pg_dump", testDumpAndRestore},
	{"pg_basebackup", testBasebackup},
}

func TestDirect(t *testing.T) {
	c := startCluster(t)
	runAll(t, target{port: c.Primary().Port, cluster: c})
}

func TestThroughProxy(t *testing.T) {
	c := startCluster(t)
	proxy := proxytest.Start(t, proxytest.Build(t), c, "statement")
	runAll(t, target{port: proxy.Port, cluster: c})
}

func startCluster(t *testing.T) *pgtest.Cluster {
	t.Helper()
	return pgtest.StartCluster(t, pgtest.Options{Standbys: 2})
}

func runAll(t *testing.T, to target) {
	var err error
	if to.bin, err = pgtest.FindBinaries(); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) { p.run(t, to) })
	}
}

// command prepares a program whose environment leads to the target: as the
// ordinary role in its database, unless env says otherwise.
func (to target) command(t *testing.T, env []string, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + t.TempDir(), // no settings of whoever runs the test
		"LC_ALL=C.UTF-8",
		"PGHOST=127.0.0.1", "PGPORT=" + port(to.port),
		"PGUSER=" + pgtest.AppUser, "PGPASSWORD=" + pgtest.Password(pgtest.AppUser), "PGDATABASE=" + pgtest.AppDatabase,
	}, env...)
	cmd.Dir = t.TempDir()
	return cmd
}

// tool returns the path of one of PostgreSQL's own programs.
func (to target) tool(name string) string { return filepath.Join(to.bin.Dir, name) }

// run runs a program that has to end well, and returns what it has printed.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", filepath.Base(cmd.Path), err, tail(stdout.Bytes()), tail(stderr.Bytes()))
	}
	return stdout.String()
}

// tail returns the end of a long output.
func tail(b []byte) []byte {
	const most = 8000
	return b[max(0, len(b)-most):]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// superuser is the environment of programs that need one.
func superuser(database string) []string {
	return []string{
		"PGUSER=" + pgtest.Superuser, "PGPASSWORD=" + pgtest.Password(pgtest.Superuser), "PGDATABASE=" + database,
	}
}

func testPsycopg(t *testing.T, to target) {
	script, err := filepath.Abs("python/program.py")
	must(t, err)
	// A Python of another origin does not see Debian's packages.
	t.Log(run(t, to.command(t, nil, "/usr/bin/python3", script)))
}

func testNode(t *testing.T, to target) {
	cmd := to.command(t, nil, "node", "--no-deprecation", filepath.Join(nodePrograms(t), "program.js"))
	t.Log(run(t, cmd))
}

// nodePrograms returns a directory with the programs in node and their packages.
func nodePrograms(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("node")))
	npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	run(t, npm)
	return dir
}

func port(n int) string { return strconv.Itoa(n) }

func testPgbench(t *testing.T, to target) {
	pgbench := to.tool("pgbench")
	run(t, to.command(t, nil, pgbench, "--initialize", "--quiet", "--scale=2"))
	pipeline := filepath.Join(t.TempDir(), "pipeline.sql")
	must(t, os.WriteFile(pipeline, []byte(pipelineScript), 0o600))
	transactions := 0
	for _, c := range []struct {
		name   string
		writes int // rows of pgbench_history per transaction
		args   []string
	}{
		{"select simple", 0, []string{"--select-only", "--protocol=simple"}},
		{"select extended", 0, []string{"--select-only", "--protocol=extended"}},
		{"select prepared", 0, []string{"--select-only", "--protocol=prepared"}},
		{"select, connect each time", 0, []string{"--select-only", "--connect"}},
		{"tpc-b simple", 1, []string{"--protocol=simple"}},
		{"tpc-b extended", 1, []string{"--protocol=extended"}},
		{"tpc-b prepared", 1, []string{"--protocol=prepared"}},
		{"pipelines extended", 1, []string{"--protocol=extended", "--file=" + pipeline}},
		{"pipelines prepared", 1, []string{"--protocol=prepared", "--file=" + pipeline}},
	} {
		const clients, each = 4, 50
		args := append([]string{
			"--client=" + strconv.Itoa(clients), "--jobs=2", "--transactions=" + strconv.Itoa(each), "--no-vacuum",
			"--max-tries=100", "--random-seed=1",
		}, c.args...)
		out := run(t, to.command(t, nil, pgbench, args...))
		want := fmt.Sprintf("number of transactions actually processed: %d/%d", clients*each, clients*each)
		if !bytes.Contains([]byte(out), []byte(want)) {
			t.Errorf("%s: want %q in\n%s", c.name, want, out)
		}
		transactions += c.writes * clients * each
	}
	// TPC-B's invariant: what went through the history is in every balance.
	got := query(t, to, `SELECT (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)
		AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches)
		AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT count(*) FROM pgbench_history)`)
	if want := fmt.Sprintf("t|%d\n", transactions); got != want {
		t.Errorf("balances: got %q, want %q", got, want)
	}
	run(t, to.command(t, nil, pgbench, "--initialize", "--init-steps=d"))
}

// pipelineScript is TPC-B with two pipelines: reads and writes in one, and a
// transaction in one.
const pipelineScript = `\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
\startpipeline
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
SELECT bbalance FROM pgbench_branches WHERE bid = :bid;
\endpipeline
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\endpipeline
`

// query asks by psql, through the target.
func query(t *testing.T, to target, sql string) string {
	t.Helper()
	return run(t, to.command(t, nil, to.tool("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql))
}

func testDumpAndRestore(t *testing.T, to target) {
	query(t, to, `CREATE SCHEMA dumped;
		CREATE TABLE dumped.parent (id serial PRIMARY KEY, v text NOT NULL, at timestamptz DEFAULT now());
		CREATE TABLE dumped.child (id int REFERENCES dumped.parent, doc jsonb, blob bytea);
		CREATE INDEX ON dumped.child USING gin (doc);
		CREATE VIEW dumped.joined AS SELECT p.id, v, doc FROM dumped.parent p JOIN dumped.child c ON c.id = p.id;
		CREATE FUNCTION dumped.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
		CREATE TABLE dumped.parts (n int) PARTITION BY RANGE (n);
		CREATE TABLE dumped.low PARTITION OF dumped.parts FOR VALUES FROM (0) TO (5000);
		CREATE TABLE dumped.high PARTITION OF dumped.parts FOR VALUES FROM (5000) TO (10000);
		INSERT INTO dumped.parent (v) SELECT 'row ' || g FROM generate_series(1, 5000) g;
		INSERT INTO dumped.child SELECT g, jsonb_build_object('n', g), decode(md5(g::text), 'hex') FROM generate_series(1, 5000) g;
		INSERT INTO dumped.parts SELECT generate_series(0, 9999);
		SELECT lo_from_bytea(88001, 'a large object')`)
	sum := `SELECT count(*), sum(hashtext(b::text)), (SELECT sum(n) FROM dumped.parts), convert_from(lo_get(88001), 'UTF8'),
		(SELECT last_value FROM dumped.parent_id_seq), dumped.twice(21) FROM dumped.joined b`
	before := query(t, to, sum)

	dir := filepath.Join(t.TempDir(), "dump")
	run(t, to.command(t, nil, to.tool("pg_dump"), "--format=directory", "--jobs=4", "--schema=dumped", "--blobs", "--file="+dir))
	plain := run(t, to.command(t, nil, to.tool("pg_dump"), "--schema=dumped", "--inserts", "--rows-per-insert=100"))
	if !bytes.Contains([]byte(plain), []byte("CREATE VIEW dumped.joined")) {
		t.Error("the plain dump has no view")
	}
	query(t, to, "DROP SCHEMA dumped CASCADE; SELECT lo_unlink(88001)")
	run(t, to.command(t, nil, to.tool("pg_restore"), "--jobs=4", "--exit-on-error", "--dbname="+pgtest.AppDatabase, dir))
	if after := query(t, to, sum); after != before {
		t.Errorf("after restoring: got %q, want %q", after, before)
	}
	query(t, to, "DROP SCHEMA dumped CASCADE; SELECT lo_unlink(88001)")
	globals := run(t, to.command(t, superuser("postgres"), to.tool("pg_dumpall"), "--globals-only"))
	if !bytes.Contains([]byte(globals), []byte("CREATE ROLE app;")) {
		t.Errorf("pg_dumpall does not have the role app:\n%s", globals)
	}
}

// testBasebackup takes a backup with its WAL streamed at the same time, and
// starts a server from it.
func testBasebackup(t *testing.T, to target) {
	repl := []string{"PGUSER=" + pgtest.ReplUser, "PGPASSWORD=" + pgtest.Password(pgtest.ReplUser)}
	query(t, to, "CREATE TABLE backed_up AS SELECT g FROM generate_series(1, 1000) g")
	for _, method := range []string{"stream", "fetch"} {
		dir := filepath.Join(t.TempDir(), "backup")
		run(t, to.command(t, repl, to.tool("pg_basebackup"), "--pgdata="+dir, "--wal-method="+method,
			"--checkpoint=fast", "--progress", "--no-sync"))
		run(t, to.command(t, nil, to.tool("pg_verifybackup"), dir))
	}
	run(t, to.command(t, repl, to.tool("pg_receivewal"), "--directory="+t.TempDir(), "--create-slot", "--slot=received"))
	run(t, to.command(t, repl, to.tool("pg_receivewal"), "--directory="+t.TempDir(), "--drop-slot", "--slot=received"))
	receiveWAL(t, to, repl)
	query(t, to, "DROP TABLE backed_up")
}

// receiveWAL lets pg_receivewal stream up to a position that is written meanwhile.
func receiveWAL(t *testing.T, to target, repl []string) {
	t.Helper()
	lsn, err := to.cluster.Primary().QueryValue(t.Context(), "postgres", "SELECT pg_current_wal_insert_lsn() + 1000")
	must(t, err)
	dir := t.TempDir()
	cmd := to.command(t, repl, to.tool("pg_receivewal"), "--directory="+dir, "--endpos="+lsn, "--no-loop")
	must(t, cmd.Start())
	query(t, to, "INSERT INTO backed_up SELECT generate_series(1, 10000)")
	must(t, to.cluster.Primary().Exec(context.WithoutCancel(t.Context()), "postgres", "SELECT pg_switch_wal()"))
	if err := cmd.Wait(); err != nil {
		t.Errorf("pg_receivewal: %v", err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "0000*")); err != nil || len(files) == 0 {
		t.Errorf("pg_receivewal has written nothing (%v)", err)
	}
}
