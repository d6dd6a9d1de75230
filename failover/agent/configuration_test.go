package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// tree makes files with their own names as content.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(n)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, n), []byte(filepath.Base(dir)+n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestKeepAndRestore: a copy gets the configuration of the server that it replaces,
// and nothing else of it.
func TestKeepAndRestore(t *testing.T) {
	f := files{dir: t.TempDir()}
	old := tree(t, "PG_VERSION", "base/1/2", "pg_wal/3", "postgresql.conf", "pg_hba.conf", "conf.d/a.conf", "server.key", "log/today", "standby.signal")
	fresh := tree(t, "PG_VERSION", "base/1/2", "postgresql.conf", "pg_hba.conf", "conf.d/b.conf", "extra.conf", "backup_label")
	if err := f.restore(fresh); err != nil {
		t.Fatal(err)
	}
	if !exists(filepath.Join(fresh, "extra.conf")) {
		t.Error("what the copy brought is gone although there was nothing to put in its place")
	}
	before := signature(old)
	if err := f.keep(old); err != nil {
		t.Fatal(err)
	}
	if err := f.restore(fresh); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{
		"postgresql.conf": old, "pg_hba.conf": old, "conf.d/a.conf": old, "server.key": old,
		"PG_VERSION": fresh, "base/1/2": fresh, "backup_label": fresh,
		"conf.d/b.conf": "", "extra.conf": "", "log/today": "", "standby.signal": "", "pg_wal/3": "",
	} {
		content, err := os.ReadFile(filepath.Join(fresh, name))
		if want := filepath.Base(from) + name; from != "" && (err != nil || string(content) != want) {
			t.Errorf("%s: %q, %v", name, content, err)
		}
		if from == "" && err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if err := os.WriteFile(filepath.Join(old, "conf.d", "a.conf"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if signature(old) == before {
		t.Error("a change is not seen")
	}
}

func TestSetReplication(t *testing.T) {
	dir := tree(t, "PG_VERSION")
	auto := filepath.Join(dir, "postgresql.auto.conf")
	content := "# Do not edit\nwork_mem = '8MB'\nPrimary_Conninfo = 'old'\nprimary_slot_name='x'\nrecovery_target_time = 'y'\n"
	if err := os.WriteFile(auto, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := setReplication(dir, `host=h passfile='/a b\c'`, "pgproxy_h2"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(auto)
	want := "# Do not edit\nwork_mem = '8MB'\nprimary_conninfo = 'host=h passfile=''/a b\\\\c'''\nprimary_slot_name = 'pgproxy_h2'\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestConninfo(t *testing.T) {
	a := &Agent{files: files{dir: "/var/lib/pgproxy/agent"}, deps: Deps{Backend: "it's h2", Password: "x"}}
	a.cfg.Replication = ReplicationConfig{User: "repl", Options: "sslmode=require"}
	for address, want := range map[string]struct {
		host string
		port uint16
	}{
		"10.77.0.11:5432":       {"10.77.0.11", 5432},
		"[fd00::1]:5433":        {"fd00::1", 5433},
		"/var/run/my pg:5434":   {"/var/run/my pg", 5434},
		"db.example.org:5432":   {"db.example.org", 5432},
		"/var/run/postgresql":   {"/var/run/postgresql", 5432},
		`/run/o'hara\'s:5435`:   {`/run/o'hara\'s`, 5435},
		"/run/with:colon:15435": {"/run/with:colon", 15435},
	} {
		conninfo := a.conninfo(&cluster.Backend{Address: address})
		cfg, err := pgconn.ParseConfig(conninfo)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if cfg.Host != want.host || cfg.Port != want.port || cfg.RuntimeParams["application_name"] != "it's h2" || cfg.User != "repl" {
			t.Errorf("%s: %s is host %q port %d user %q, application %q", address, conninfo, cfg.Host, cfg.Port, cfg.User, cfg.RuntimeParams["application_name"])
		}
		if !strings.Contains(conninfo, "passfile=/var/lib/pgproxy/agent/pgpass") || !strings.HasSuffix(conninfo, "sslmode=require") {
			t.Errorf("%s: %s", address, conninfo)
		}
	}
}

// TestMove is interrupted before each of its steps and ends the same.
func TestMove(t *testing.T) {
	for stop := range 8 {
		dir := t.TempDir()
		f := files{dir: filepath.Join(dir, "agent")}
		if err := f.prepare("repl", "x"); err != nil {
			t.Fatal(err)
		}
		a := &Agent{files: f}
		space, data := filepath.Join(dir, "space"), filepath.Join(dir, "data")
		s := &swap{Recovery: 7, Phase: swapMoving, Dirs: []string{space, data}}
		for _, d := range s.Dirs {
			for _, suffix := range []string{"", newSuffix} {
				if err := os.MkdirAll(d+suffix, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(d+suffix, "which"), []byte(suffix), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		// What move does, as far as it got.
		for i, step := range [][2]string{
			{data, data + oldSuffix},
			{space, space + oldSuffix},
			{space + newSuffix, space},
			{data + newSuffix, data},
		} {
			if i >= stop {
				break
			}
			if err := rename(step[0], step[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.move(s); err != nil {
			t.Fatalf("after %d steps: %v", stop, err)
		}
		for _, d := range s.Dirs {
			fresh, err1 := os.ReadFile(filepath.Join(d, "which"))
			old, err2 := os.ReadFile(filepath.Join(d+oldSuffix, "which"))
			if err1 != nil || err2 != nil || string(fresh) != newSuffix || string(old) != "" || exists(d+newSuffix) {
				t.Errorf("after %d steps: %s is %q, its old one %q: %v, %v", stop, d, fresh, old, err1, err2)
			}
		}
		if got, err := f.read(data); err != nil || got.Rebuilt != 7 || !got.Left || got.Marker {
			t.Errorf("after %d steps: %+v, %v", stop, got, err)
		}
		if err := a.removeLeft(); err != nil || exists(data+oldSuffix) || exists(space+oldSuffix) {
			t.Errorf("after %d steps: the old directories are left: %v", stop, err)
		}
	}
}
