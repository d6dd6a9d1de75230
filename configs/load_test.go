package configs

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy"
	"github.com/pgproxy/pgproxy/watchdog"
	"github.com/pgproxy/pgproxy/watchdog/vip"
)

// TestBadFiles has every *.bad.yaml with all of its faults, in their order.
func TestBadFiles(t *testing.T) {
	tests := map[string][]string{
		"agent": {
			"1:1: agent.data_directory: missing",
			"1:9: agent.connect: want keyword=value pairs such as host=/run/postgresql port=5432 user=postgres",
			"1:56: agent.replication.user: must not be empty",
		},
		"anchor": {
			"1:1: name: anchors and tags are not supported",
			`3:3: listen.address: an unquoted * begins a YAML alias, which is not supported; put the value in quotes: "*:9999"`,
			"4:3: listen.unix_socket_dir: anchors and tags are not supported",
		},
		"backends": {
			"2:44: backends[0].weight: want 0 to 1000000, got -1",
			`3:6: backends[1].name: "h1" is that of backends[0] already`,
			"3:44: backends[1].weight: want 0 to 1000000, got 1000001",
			`4:16: backends[2].address: "10.77.0.11:5432" is that of backends[0] already`,
			"4:44: backends[2].max_connections: want 0 to 262143, got -5",
			"5:5: backends[3].name: missing",
			"6:5: backends[4].address: missing",
			`7:6: backends[5].name: want at most 63 letters, digits, dots, dashes and underscores, got "h 6"`,
			`8:6: backends[6].name: "primary" is a role and cannot be a name`,
			"11:5: backends[7].wieght: unknown key; did you mean weight?",
		},
		"bad-address": {
			`1:10: listen.address: want host:port, got "9999": missing port in address`,
			`2:11: metrics.listen: want host:port, got ":9719"; all addresses are *:9719`,
			`3:7: pcp.listen: want a port from 0 to 65535, got "70000"`,
			`5:16: backends[0].address: want host:port, got "10.77.0.11": missing port in address`,
			`6:16: backends[1].address: want host:port, got "*:5432": "*" is not a host`,
			`7:16: backends[2].address: want host:port, got "::1:5432": an IPv6 address goes in brackets`,
			`8:16: backends[3].address: want a port from 1 to 65535, got "0"`,
			`9:16: backends[4].address: want a port from 1 to 65535, got "postgres"`,
			`10:16: backends[5].address: want a socket directory followed by :port such as /run/postgresql:5432, got "/run/postgresql"`,
			`11:16: backends[6].address: want a port from 1 to 65535, got "x"`,
			`12:16: backends[7].address: want host:port, got "[::1:5432": missing ']' in address`,
			`13:16: backends[8].address: want host:port, got "postgres://h9:5432": too many colons in address`,
		},
		"bad-duration": {
			`2:3: health.interval: want a duration such as 500ms, 10s or 1m30s, got "1"`,
			`3:3: health.timeout: want a duration such as 500ms, 10s or 1m30s, got "fast"`,
			`4:8: pool.wait: want a duration such as 500ms, 10s or 1m30s, got "10 s"`,
			"5:8: hold.timeout: want 0 to 24h, got -1s",
			`6:8: auth.cache: want a duration such as 500ms, 10s or 1m30s, got "1d"`,
		},
		"bad-mode": {
			`1:16: listen.tls.mode: want disable | allow | require, got "on"`,
			`2:15: backend_tls.mode: want disable | prefer | require | verify-ca | verify-full, got "allow"`,
			`3:8: pool.mode: want session | transaction, got "statement"`,
			`4:11: balance.mode: want statement | session | off, got "random"`,
			`4:25: balance.consistency: want session | eventual | primary, got "strong"`,
			`4:46: balance.transactions: want primary | until_write, got "standby"`,
			`5:12: failover.mode: want managed | external | off, got "auto"`,
			`6:7: log.level: want debug | info | warn | error, got "trace"`,
			`6:21: log.format: want text | json, got "xml"`,
		},
		"bad-name": {
			`1:1: name: want at most 63 letters, digits, dots, dashes and underscores, got "h/1"`,
		},
		"bad-number": {
			"1:8: pool.size: want a whole number in decimal digits, got 0x10",
			"2:10: listen.max_clients: want a whole number in decimal digits, got 1_000",
			"2:40: listen.startup.max_half_open: want a whole number in decimal digits, got 010",
			`3:11: balance.cache_size: want a whole number, got the text "99999999999999999999"`,
		},
		"balance": {
			"4:7: balance.primary_patterns[1]: missing closing ): `(unclosed`",
			`5:28: balance.read_functions[2]: want the name of a function without schema and arguments, got "pg_catalog.f"`,
			`5:42: balance.read_functions[3]: want the name of a function without schema and arguments, got "f()"`,
			`6:21: balance.write_functions[0]: "f" is in read_functions too`,
			`6:24: balance.write_functions[1]: want the name of a function without schema and arguments, got ""`,
			`7:26: balance.session_functions[1]: want the name of a function without schema and arguments, got "cron.schedule"`,
			"10:8: balance.redirects[1].user: missing closing ]: `[`",
			"10:19: balance.redirects[1].database: missing argument to repetition operator: `*`",
			"10:34: balance.redirects[1].application: trailing backslash at end of expression: ``",
			"11:7: balance.redirects[2].to: missing; want primary, standby or the name of a backend",
			`12:8: balance.redirects[3].to: want primary, standby or the name of a backend, got "h9"`,
		},
		"complex-key": {
			"3:1: a key must be a plain word",
			`4:1: "odd key\n": unknown key`,
		},
		"duplicate-key": {
			"4:3: log.level: duplicate key; the first is in line 3",
			"5:1: name: duplicate key; the first is in line 1",
		},
		"empty-backends": {
			"2:1: backends: at least one backend is needed",
		},
		"empty-text": {
			"1:1: name: must not be empty; left out, it is the host name",
			"2:1: data_dir: must not be empty",
			"3:11: monitor.user: must not be empty",
			"3:21: monitor.database: must not be empty",
			"4:8: auth.query: must use $1, the user name",
		},
		"empty": {
			"1:1: the file is empty",
		},
		"inline-secret": {
			"1:8: auth.password: secrets are files: use password_file",
			"4:3: monitor.password: secrets are files: use password_file",
			`5:1: agent: no backend names this member, "h1", as its agent`,
			"7:3: agent.connect: secrets are files: let pg_hba.conf admit the local user by peer, or use passfile=",
			"8:29: agent.replication.Password: secrets are files: use password_file",
			"9:1: watchdog.secret_file: missing; pgproxy keygen makes a secret",
			"11:3: watchdog.secret: secrets are files: use secret_file",
			"14:7: pcp.password: unknown key; secrets are files, and none belongs here",
		},
		"invalid-key": {
			"4:1: found an invalid key for this map",
		},
		"list": {
			"1:1: want keys and values, got a list",
		},
		"long-socket-path": {
			"1:10: listen.unix_socket_dir: the path of the socket is longer than 107 bytes: /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/.s.PGSQL.65535",
			"2:7: pcp.unix_socket: the path of the socket is longer than 107 bytes: /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
			"3:23: backends[0].address: the path of the socket is longer than 107 bytes: /zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz/.s.PGSQL.5432",
		},
		"multi-document": {
			"3:1: a second YAML document begins here; the file must be one",
		},
		"no-backends": {
			"1:1: backends: at least one backend is needed",
		},
		"no-value": {
			`2:3: listen.address: has no value; remove the key, or write ""`,
			`4:3: health.timeout: has no value; remove the key, or write ""`,
			`5:3: health.interval: has no value; remove the key, or write ""`,
			"9:5: backends[1]: the item is empty",
		},
		"nothing-listens": {
			"1:1: listen: neither address nor unix_socket_dir is set; nobody could connect",
		},
		"only-comments": {
			"1:1: the file is empty",
		},
		"out-of-range": {
			"2:3: listen.max_clients: want 1 to 1000000, got 0",
			"3:13: listen.startup.timeout: want 100ms to 10m, got 1h",
			"3:26: listen.startup.max_half_open: want 1 to 1000000, got -1",
			"4:15: listen.keepalive.idle: want 1s to 9h, got 0",
			"4:24: listen.keepalive.interval: want 1s to 9h, got 10ms",
			"4:40: listen.keepalive.count: want 1 to 127, got 1000",
			"5:3: listen.drain: want 0 to 24h, got -1s",
			"6:8: auth.cache: want 0 to 24h, got 25h",
			"7:10: health.interval: want 10ms to 1h, got 1ns",
			"7:25: health.timeout: want 10ms to 1h, got 2h",
			"7:38: health.retries: want 0 to 100, got 101",
			"8:8: pool.size: want 0 to 100000, got -1",
			"8:18: pool.wait: want 0 to 24h, got 48h",
			"8:29: pool.idle: want 1ms to 24h, got 0",
			"9:11: balance.max_lag: want 0 to 720h, got -1s",
			"9:25: balance.catalog_refresh: want 100ms to 24h, got 1ms",
			"9:47: balance.cache_size: want 65536 to 1073741824, got 1",
			"10:28: failover.fence_after: want 1s to 24h, got 1ms",
			"10:46: failover.restart_wait: want 0 to 24h, got -1s",
			"10:65: failover.start_wait: want 0 to 24h, got 25h",
			"11:8: hold.timeout: want 0 to 24h, got 25h",
		},
		"scalar": {
			`1:1: want keys and values, got the text "pgproxy"`,
		},
		"syntax": {
			"2:1: ',' or '}' must be specified",
		},
		"tab": {
			"2:1: a tab cannot indent; use spaces",
		},
		"tls-require": {
			"2:9: listen.tls.mode: require needs cert_file and key_file",
			"2:24: listen.tls.client_ca_file: needs cert_file and key_file",
		},
		"tls-verify-full": {
			"2:3: backend_tls.mode: verify-full needs ca_file",
		},
		"tls": {
			"2:9: listen.tls.cert_file: needs key_file",
			"3:15: backend_tls.key_file: needs cert_file",
			"3:37: backend_tls.mode: verify-ca needs ca_file",
		},
		"unknown-key": {
			"1:1: nmae: unknown key; did you mean name?",
			"3:3: listen.max-clients: unknown key; did you mean max_clients?",
			"4:9: listen.tls.certfile: unknown key; did you mean cert_file?",
			"5:11: balance.lag: unknown key",
			"6:1: frobnicate: unknown key",
		},
		"vip": {
			`2:6: vip[0].address: want an address with the length of its prefix such as 10.0.0.5/24, got "10.77.0.100"`,
			"3:5: vip[1].interface: missing",
			"4:5: vip[2].address: missing",
			`4:6: vip[2].interface: "a-very-long-interface" cannot be the name of an interface`,
			`5:6: vip[3].address: "10.77.0.101" is that of vip[1] already`,
		},
		"watchdog-members": {
			`3:3: watchdog.listen: want host:port, got ":9000"; all addresses are *:9000`,
			`5:3: watchdog.members: this member, "h1", is not among them`,
			`7:8: watchdog.members[1].name: "h2" is that of watchdog.members[0] already`,
			`7:18: watchdog.members[1].address: "10.77.0.11:9000" is that of watchdog.members[0] already`,
			`8:18: watchdog.members[2].address: want host:port, got "*:9000": "*" is not a host`,
			"9:7: watchdog.members[3].name: missing",
			"9:7: watchdog.members[3].address: missing",
			`11:44: backends[0].agent: "h1" is not in watchdog.members`,
		},
		"watchdog": {
			"2:1: watchdog.listen: missing",
			"2:1: watchdog.secret_file: missing; pgproxy keygen makes a secret",
			"2:12: watchdog.members: missing; list every member, this one included",
		},
		"wrong-type-backends": {
			`1:1: backends: want a list, got the text "10.77.0.11"`,
		},
		"wrong-type": {
			"1:1: name: want a text, got the number 5; put it in quotes",
			`3:1: listen: want keys and values, got the text "*:9999"`,
			"5:3: health.interval: want a duration such as 500ms, 10s or 1m30s, got keys and values",
			`6:3: health.retries: want a whole number, got the text "1"`,
			"7:8: pool.size: want a whole number, got the number 1.5",
			`8:11: balance.primary_patterns: want a list, got the text "x"`,
			"8:49: balance.read_functions[0]: want a text, got the number 1; put it in quotes",
			"8:52: balance.read_functions[1]: want a text, got a list",
			`8:70: balance.redirects[0]: want keys and values, got the text "primary"`,
			"9:1: metrics: want keys and values, got a list",
			"10:7: log.level: want a text, got true; put it in quotes",
		},
	}
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bad.yaml")
		t.Run(name, func(t *testing.T) {
			want, ok := tests[name]
			if !ok {
				t.Fatalf("%s is not in the table", file)
			}
			cfg, _, err := Load(file)
			if cfg != nil {
				t.Error("Load returned a configuration with the error")
			}
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("Load: %v, want Faults", err)
			}
			for i := range want {
				want[i] = file + ":" + want[i]
			}
			if got := faults.Error(); got != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
	for name := range tests {
		if !slices.Contains(files, "testdata/"+name+".bad.yaml") {
			t.Errorf("the table has %s, which is not in testdata", name)
		}
	}
}

// TestGoodFiles has, for every *.good.yaml, how it differs from the defaults.
func TestGoodFiles(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	one := []proxy.BackendConfig{{Name: "h1", Address: "h1:5432", Weight: 1}}
	tests := map[string]struct {
		want     func(c *Config)
		warnings []string
	}{
		"minimal":         {want: func(c *Config) { c.Backends = one }},
		"empty-sections":  {want: func(c *Config) { c.Backends = one }},
		"byte-order-mark": {want: func(c *Config) { c.Name, c.Backends = "h7", one }},
		"crlf": {want: func(c *Config) {
			c.Name = "h7"
			c.Backends = []proxy.BackendConfig{{Name: "h1", Address: "[::1]:5432", Weight: 1}}
		}},
		"unix-socket-only": {want: func(c *Config) {
			c.Listen.Address, c.Listen.UnixSocketDir = "", filepath.Join(testdata, "run")
			c.Backends = []proxy.BackendConfig{{Name: "h1", Address: "/run/postgresql:5433"}}
		}},
		"external": {want: func(c *Config) {
			c.Failover.Mode, c.Backends = failover.ModeExternal, one
		}},
		"query": {want: func(c *Config) {
			c.Auth.Query, c.Backends = "select * from\n  lookup($1)\n", one
		}},
		"relative-paths": {want: func(c *Config) {
			c.Name = "h1"
			c.DataDir = filepath.Join(testdata, "data")
			c.Listen.UnixSocketDir = filepath.Join(testdata, "run")
			c.Listen.TLS = proxy.TLSConfig{
				CertFile:     filepath.Join(testdata, "tls/server.crt"),
				KeyFile:      filepath.Join(testdata, "tls/server.key"),
				ClientCAFile: "/etc/ca.crt",
				Mode:         proxy.TLSRequire,
			}
			c.Auth.HBAFile = filepath.Join(testdata, "hba.conf")
			c.Auth.PasswordFile = filepath.Join(testdata, "passwords")
			c.BackendTLS = proxy.BackendTLSConfig{
				Mode:     proxy.SSLVerifyFull,
				CAFile:   filepath.Join(testdata, "ca.crt"),
				CertFile: filepath.Join(testdata, "c.crt"),
				KeyFile:  filepath.Join(testdata, "c.key"),
			}
			c.Monitor.PasswordFile = filepath.Join(filepath.Dir(testdata), "monitor.password")
			c.Backends = one
		}},
		"balance": {warnings: []string{
			"5:3: balance.transactions: this version keeps the reads of a read-write transaction on the primary, as with primary",
		}, want: func(c *Config) {
			c.Balance = lb.Config{
				Mode:             lb.ModeSession,
				Consistency:      lb.ConsistencyEventual,
				MaxLag:           0,
				Transactions:     lb.TransactionsUntilWrite,
				ReadFunctions:    []string{"now_utc"},
				WriteFunctions:   []string{"Audit"},
				SessionFunctions: []string{"run_maintenance"},
				PrimaryPatterns:  []string{`(?i)from\s+queue`},
				Redirects: []lb.Redirect{
					{User: "report_.*", To: "standby"},
					{Database: "billing", Application: "psql", To: "h1"},
					{To: "primary"},
				},
				CatalogRefresh: 5 * time.Minute,
				CacheSize:      65536,
			}
			c.Backends = one
		}},
		"contract": {
			want: func(c *Config) {
				c.Name = "h1"
				c.Listen.UnixSocketDir = "/run/pgproxy"
				c.Backends = []proxy.BackendConfig{
					{Name: "h1", Address: "10.77.0.11:5432", Weight: 1, Agent: "h1"},
					{Name: "h2", Address: "10.77.0.12:5432", Weight: 1, Agent: "h2"},
					{Name: "h3", Address: "10.77.0.13:5432", Weight: 1, Agent: "h3"},
				}
				c.Monitor.PasswordFile = "/etc/pgproxy/monitor.password"
				server := agent.Default()
				server.DataDirectory = "/var/lib/postgresql/15/main"
				server.BinDirectory = "/usr/lib/postgresql/15/bin"
				server.Replication = agent.ReplicationConfig{User: "repl", PasswordFile: "/etc/pgproxy/repl.password"}
				c.Agent = &server
				w := watchdog.Default()
				w.Listen, w.SecretFile = "10.77.0.11:9000", "/etc/pgproxy/secret"
				w.Members = []watchdog.Member{
					{Name: "h1", Address: "10.77.0.11:9000"},
					{Name: "h2", Address: "10.77.0.12:9000"},
					{Name: "h3", Address: "10.77.0.13:9000"},
				}
				c.Watchdog = &w
				c.VIP = []vip.Config{{Address: "10.77.0.100/24", Interface: "eth0"}}
			},
		},
	}
	files, err := filepath.Glob("testdata/*.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".good.yaml")
		t.Run(name, func(t *testing.T) {
			tt, ok := tests[name]
			if !ok {
				t.Fatalf("%s is not in the table", file)
			}
			got, warnings, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			tt.want(want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, want)
			}
			for i := range tt.warnings {
				tt.warnings[i] = file + ":" + tt.warnings[i]
			}
			if w := warnings.Error(); w != strings.Join(tt.warnings, "\n") {
				t.Errorf("got warnings\n%s\nwant\n%s", w, strings.Join(tt.warnings, "\n"))
			}
		})
	}
	for name := range tests {
		if !slices.Contains(files, "testdata/"+name+".good.yaml") {
			t.Errorf("the table has %s, which is not in testdata", name)
		}
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, _, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want one that is os.ErrNotExist", err)
	}
}

// TestAddFault shows where a fault goes that was found after loading: to its key, or
// where the file does not have the key, to what is around it.
func TestAddFault(t *testing.T) {
	f := Parse("f.yaml", []byte("monitor:\n  user: m\nbackends: [{name: h1, address: \"h1:5432\"}]\n"))
	f.AddFault("auth.hba_file", "no rules")
	f.AddFault("backends[0].weight", "too light")
	f.AddFault("monitor.password_file", "missing")
	f.AddFault("monitor.user", "unknown")
	want := strings.Join([]string{
		"f.yaml:1:1: auth.hba_file: no rules",
		"f.yaml:1:1: monitor.password_file: missing",
		"f.yaml:2:3: monitor.user: unknown",
		"f.yaml:3:12: backends[0].weight: too light",
	}, "\n")
	if got := f.Faults.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestUnknownKeySuggestions(t *testing.T) {
	fields := fieldsOf(reflect.TypeFor[proxy.ListenConfig]())
	tests := map[string]string{
		"adress":        "unknown key; did you mean address?",
		"addres":        "unknown key; did you mean address?",
		"maxClients":    "unknown key; did you mean max_clients?",
		"max-clients":   "unknown key; did you mean max_clients?",
		"max_client":    "unknown key; did you mean max_clients?",
		"tsl":           "unknown key; did you mean tls?",
		"TLS":           "unknown key; did you mean tls?",
		"port":          "unknown key",
		"ssl":           "unknown key",
		"unixsocketdir": "unknown key; did you mean unix_socket_dir?",
		"password":      "unknown key; secrets are files, and none belongs here",
	}
	for key, want := range tests {
		if got := unknownKey(key, fields); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

// FuzzParse: no text makes Parse panic, and what it accepts is complete.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(Reference()))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := Parse("fuzz.yaml", data)
		for _, fault := range file.Faults {
			if fault.Line < 1 || fault.Column < 1 || fault.Message == "" {
				t.Errorf("a fault without a place or a message: %+v", fault)
			}
		}
		if len(file.Faults) == 0 && len(file.Config.Backends) == 0 {
			t.Error("accepted without backends")
		}
	})
}
