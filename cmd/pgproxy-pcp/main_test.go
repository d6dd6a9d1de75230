package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// mainEnv makes the test's program pgproxy-pcp itself.
const mainEnv = "PGPROXY_PCP_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	time.Local = time.UTC
	goleak.VerifyTestMain(m)
}

// answers is a server of the API that says what a test wants, by method and path.
type answers map[string]http.HandlerFunc

// serve answers on a Unix socket until the test ends.
func (a answers) serve(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pcp")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
		_ = os.RemoveAll(dir)
	})
	return socket
}

func (a answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := a[r.Method+" "+r.URL.RequestURI()]; h != nil {
		h(w, r)
		return
	}
	http.Error(w, `{"error":"unknown request `+r.Method+" "+r.URL.RequestURI()+`"}`, http.StatusNotFound)
}

// says answers with that text.
func says(lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, l := range lines {
			_, _ = io.WriteString(w, l+"\n")
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// fails answers with an error.
func fails(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":"`+text+`"}`, http.StatusConflict)
	}
}

// wants answers with done to a request with that body.
func wants(body, done string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil || string(got) != body {
			http.Error(w, fmt.Sprintf(`{"error":"body %q, %v"}`, got, err), http.StatusBadRequest)
			return
		}
		says(`{"done":"`+done+`"}`)(w, r)
	}
}

// operate runs the program in this process.
func operate(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	status = run(ctx, args, &out, &errOut)
	return status, out.String(), errOut.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{}, "no command; pgproxy-pcp --help lists them"},
		{[]string{"frobnicate"}, `unknown command "frobnicate"; pgproxy-pcp --help lists them`},
		{[]string{"nodse"}, `unknown command "nodse"; did you mean nodes?`},
		{[]string{"--frobnicate"}, "unknown flag: --frobnicate; see pgproxy-pcp --help"},
		{[]string{"nodes", "h1"}, `unexpected argument "h1"; see pgproxy-pcp nodes --help`},
		{[]string{"nodes", "-o", "xml"}, `output "xml", want table or json`},
		{[]string{"attach"}, "NODE is missing; see pgproxy-pcp attach --help"},
		{[]string{"detach", "h1", "h2"}, `unexpected argument "h2"; see pgproxy-pcp detach --help`},
		{[]string{"promote"}, "NODE is missing; see pgproxy-pcp promote --help"},
		{[]string{"recover"}, "NODE is missing; see pgproxy-pcp recover --help"},
		{[]string{"failover"}, "on or off is missing; see pgproxy-pcp failover --help"},
		{[]string{"failover", "maybe"}, `"maybe", want on or off`},
		{[]string{"watchdog", "ad", "h4"}, `unexpected argument "ad"; see pgproxy-pcp watchdog --help`},
		{[]string{"watchdog", "add", "h4"}, "ADDRESS is missing; see pgproxy-pcp watchdog add --help"},
		{[]string{"watchdog", "remove"}, "NAME is missing; see pgproxy-pcp watchdog remove --help"},
		{[]string{"vip"}, "want vip move ADDRESS MEMBER; watchdog shows who holds which"},
		{[]string{"vip", "move", "10.77.0.100"}, "MEMBER is missing; see pgproxy-pcp vip move --help"},
		{[]string{"kill", "-1"}, "unknown shorthand flag: '1' in -1; see pgproxy-pcp kill --help"},
		{[]string{"kill", "alice"}, `"alice" is not the number of a session`},
		{[]string{"--socket", "x", "--host", "h1", "nodes"}, "--socket is this host's; --host and --port go without it"},
		{[]string{"--socket", "", "nodes"}, "--host and --socket must not be empty"},
		{[]string{"--host", "", "nodes"}, "--host and --socket must not be empty"},
		{[]string{"--port", "70000", "nodes"}, "port 70000, want 1 to 65535"},
		{[]string{"--token-file", "x", "nodes"}, "--secret-file and --token-file belong to --host"},
		{[]string{"--host", "h1", "--secret-file", "x", "--token-file", "y", "nodes"}, "--secret-file and --token-file exclude each other"},
		{[]string{"pause", "h1"}, `unexpected argument "h1"; see pgproxy-pcp pause --help`},
	} {
		status, stdout, stderr := operate(t.Context(), tt.args...)
		if status != exitUsage || stdout != "" || stderr != "pgproxy-pcp: "+tt.want+"\n" {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want 2, nothing and %q", tt.args, status, stdout, stderr, tt.want)
		}
	}
}

// TestHelp: every command explains itself, within 100 columns.
func TestHelp(t *testing.T) {
	root := newRootCommand(io.Discard)
	all := append(root.Commands(), root)
	for i := 0; i < len(all); i++ {
		if all[i] != root {
			all = append(all, all[i].Commands()...)
		}
	}
	if len(all) < 17 {
		t.Errorf("%d commands", len(all))
	}
	for _, cmd := range all {
		for _, l := range strings.Split(cmd.Long+"\n"+cmd.Example+"\n"+cmd.Short, "\n") {
			if len(l) > 100 {
				t.Errorf("%s: a line of its help has %d columns: %s", cmd.CommandPath(), len(l), l)
			}
		}
		if cmd.Short == "" {
			t.Errorf("%s has no help", cmd.CommandPath())
		}
	}
	status, stdout, stderr := operate(t.Context(), "recover", "--help")
	if status != exitOK || stderr != "" || !strings.Contains(stdout, "pg_basebackup") {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
}

func TestOrders(t *testing.T) {
	socket := answers{
		"POST /v1/attach":          wants(`{"node":"h2"}`, "attached"),
		"POST /v1/detach":          wants(`{"node":"h2"}`, "detached"),
		"POST /v1/promote":         wants(`{"node":"h2"}`, "promoted"),
		"POST /v1/recover":         wants(`{"node":"h2","in_place":true}`, "recovered"),
		"POST /v1/failover":        wants(`{"on":false}`, "off"),
		"POST /v1/watchdog/add":    wants(`{"name":"h4","address":"h4:9000","witness":true}`, "added"),
		"POST /v1/watchdog/remove": wants(`{"name":"h4"}`, "removed"),
		"POST /v1/vip/move":        wants(`{"address":"10.77.0.100","member":"h2"}`, "moved"),
		"POST /v1/pause":           wants(`{"wait_seconds":90}`, "paused"),
		"POST /v1/resume":          wants(`{}`, "resumed"),
		"POST /v1/reload":          wants(`{}`, "reloaded"),
		"POST /v1/kill":            wants(`{"session":7}`, "killed"),
		"POST /v1/stop":            wants(`{}`, "stopped"),
	}.serve(t)
	for want, args := range map[string]string{
		"attached": "attach h2", "detached": "detach h2", "promoted": "promote h2", "recovered": "recover h2 --in-place",
		"off": "failover off", "added": "watchdog add h4 h4:9000 --witness", "removed": "watchdog remove h4",
		"moved": "vip move 10.77.0.100 h2", "killed": "kill 7", "paused": "pause --wait 90s", "resumed": "resume", "reloaded": "reload", "stopped": "stop",
	} {
		line := append([]string{"--socket", socket}, strings.Fields(args)...)
		if status, stdout, stderr := operate(t.Context(), line...); status != exitOK || stdout != want+"\n" || stderr != "" {
			t.Errorf("%s: status %d, %q, %q", args, status, stdout, stderr)
		}
		line = append(line, "-o", "json")
		if status, stdout, stderr := operate(t.Context(), line...); status != exitOK || stdout != `{"done":"`+want+`"}`+"\n" || stderr != "" {
			t.Errorf("%s as JSON: status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}

// TestProfile: the profile goes into the file, and what was done to standard output.
func TestProfile(t *testing.T) {
	socket := answers{"POST /v1/profile": func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == `{"seconds":2.5}` {
			says(`{"item":"cHByb2Y="}`, `{"done":"profiled"}`)(w, r)
		}
	}}.serve(t)
	file := filepath.Join(t.TempDir(), "cpu.pprof")
	status, stdout, stderr := operate(t.Context(), "--socket", socket, "profile", "--for", "2500ms", file)
	if status != exitOK || stdout != "profiled\n" || stderr != "" {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "pprof" {
		t.Errorf("%q, %v", content, err)
	}
	if status, _, stderr := operate(t.Context(), "--socket", socket, "profile", "--for", "0s", file); status != exitUsage || !strings.Contains(stderr, "not positive") {
		t.Errorf("status %d, %q", status, stderr)
	}
}

// TestFailures: one line on standard error, nothing on standard output, status 1.
func TestFailures(t *testing.T) {
	socket := answers{
		"POST /v1/detach":  fails(`h1 is the primary`),
		"POST /v1/attach":  fails(`two\nlines`),
		"POST /v1/recover": says(`{"error":"the recovery of h2 has failed: no space left on device"}`),
		"POST /v1/promote": says(`{}`),
		"GET /v1/health":   says(`<html>`),
		"GET /v1/pools":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	}.serve(t)
	for _, tt := range []struct{ args, want string }{
		{"detach h1", "h1 is the primary"},
		{"attach h1", "two lines"},
		{"recover h2", "the recovery of h2 has failed: no space left on device"},
		{"promote h2", "the connection to pgproxy has ended: the switchover goes on if it had begun; events --follow shows how"},
		{"health", "the answer of " + socket + " cannot be understood: invalid character '<' looking for beginning of value"},
		{"pools", socket + " answers 502 Bad Gateway"},
		{"sessions", "unknown request GET /v1/sessions"},
	} {
		status, stdout, stderr := operate(t.Context(), append([]string{"--socket", socket}, strings.Fields(tt.args)...)...)
		if status != exitFailure || stdout != "" || stderr != "pgproxy-pcp: "+tt.want+"\n" {
			t.Errorf("%s: status %d, stdout %q, stderr %q; want %q", tt.args, status, stdout, stderr, tt.want)
		}
	}
	status, stdout, stderr := operate(t.Context(), "--socket", socket+"x", "nodes")
	if status != exitFailure || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "is pgproxy running?") {
		t.Errorf("nobody there: status %d, %q, %q", status, stdout, stderr)
	}
}
