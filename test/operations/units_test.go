package operations

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root = "../.."
	unit = root + "/systemd/pgproxy.service"
)

// TestUnitIsRead: a key that systemd does not know it ignores, with a remark and
// exit status 0. So every line that it prints is a fault. The binary is not
// installed here: an empty one stands for it.
func TestUnitIsRead(t *testing.T) {
	text := readFile(t, unit)
	binary := filepath.Join(t.TempDir(), "pgproxy")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out := verify(t, strings.ReplaceAll(text, installed(t), binary)); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	if out := verify(t, strings.ReplaceAll(text, installed(t), binary)+"\nKillMode=gently\n"); out == "" {
		t.Error("systemd-analyze verify says nothing of a unit with a fault: the test cannot fail")
	}
}

func verify(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pgproxy.service")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatalf("systemd-analyze verify (Debian package systemd): %v", err)
	}
	return string(out)
}

// TestUnitAndDocumentationAgree: whoever follows docs/operations.md has the binary
// where the unit looks for it, and the capabilities that it says.
func TestUnitAndDocumentationAgree(t *testing.T) {
	text, doc := readFile(t, unit), readFile(t, root+"/docs/operations.md")
	dir := filepath.Dir(installed(t))
	if !regexp.MustCompile(`(?m)^ +sudo install .*bin/pgproxy bin/pgproxy-pcp ` + regexp.QuoteMeta(dir) + `/?$`).MatchString(doc) {
		t.Errorf("docs/operations.md does not install pgproxy and pgproxy-pcp in %s, where the unit looks for them", dir)
	}
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		if got := setting(text, key); !slices.Equal(strings.Fields(got), []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}) {
			t.Errorf("%s=%s, want the two of the virtual addresses", key, got)
		}
	}
	for _, word := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW"} {
		if !strings.Contains(doc, word) {
			t.Errorf("docs/operations.md does not name %s", word)
		}
	}
	for _, word := range regexp.MustCompile(`CAP_[A-Z_]+`).FindAllString(doc, -1) {
		if word != "CAP_NET_ADMIN" && word != "CAP_NET_RAW" {
			t.Errorf("docs/operations.md names %s, which the unit does not have", word)
		}
	}
	config := regexp.MustCompile(`-c (\S+)`).FindAllStringSubmatch(setting(text, "ExecStart")+" "+setting(text, "ExecStartPre"), -1)
	if len(config) != 2 || config[0][1] != config[1][1] || !strings.Contains(doc, config[0][1]) {
		t.Errorf("the configuration file of the unit %v is not that of docs/operations.md", config)
	}
	for _, kept := range []string{setting(text, "RuntimeDirectory"), setting(text, "StateDirectory"), setting(text, "User")} {
		if kept == "" {
			t.Error("the unit has no RuntimeDirectory, StateDirectory or User")
		}
	}
	reference := readFile(t, root+"/configs/pgproxy.yaml")
	if !strings.Contains(reference, "\ndata_dir: /var/lib/"+setting(text, "StateDirectory")+"\n") {
		t.Errorf("StateDirectory=%s is not the default of data_dir", setting(text, "StateDirectory"))
	}
}

// TestServerOutlivesPgproxy: what a server that the agent started needs of the unit.
// Any other KillMode kills it when pgproxy stops; OOMPolicy=stop would stop pgproxy
// for one of its processes.
func TestServerOutlivesPgproxy(t *testing.T) {
	text := readFile(t, unit)
	for key, want := range map[string]string{
		"KillMode": "process", "OOMPolicy": "continue", "TasksMax": "infinity", "Type": "notify", "Restart": "on-failure", "StartLimitIntervalSec": "0",
		"PrivateTmp": "", "MemoryDenyWriteExecute": "", "ProtectHome": "", "SystemCallFilter": "", "RuntimeMaxSec": "",
	} {
		if got := setting(text, key); got != want {
			t.Errorf("%s=%s, want %q", key, got, want)
		}
	}
}

// TestPolkitRule asks the rule as polkit does; its language is JavaScript.
func TestPolkitRule(t *testing.T) {
	type question struct {
		Action, Unit, Verb, User string
		May                      bool
	}
	const action, server = "org.freedesktop.systemd1.manage-units", "postgresql@15-main.service"
	questions := []question{
		{action, server, "start", "postgres", true},
		{action, server, "stop", "postgres", true},
		{action, server, "restart", "postgres", true},
		{action, server, "start", "www-data", false},
		{action, server, "kill", "postgres", false},
		{action, server, "set-property", "postgres", false},
		{action, "postgresql@15-main.service.evil", "start", "postgres", false},
		{action, "ssh.service", "stop", "postgres", false},
		{"org.freedesktop.systemd1.manage-unit-files", server, "start", "postgres", false},
		{"org.freedesktop.systemd1.reload-daemon", "", "", "postgres", false},
	}
	asked, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	script := `let rule; const polkit = {addRule: (f) => { rule = f }, Result: {YES: "yes"}};` +
		readFile(t, root+"/systemd/50-pgproxy.rules") + `
		console.log(JSON.stringify(` + string(asked) + `.map((q) => {
			const action = {id: q.Action, lookup: (key) => ({unit: q.Unit, verb: q.Verb})[key]};
			return rule(action, {user: q.User}) === "yes";
		})))`
	cmd := exec.Command("node", "-")
	cmd.Stdin = strings.NewReader(script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node (Debian package nodejs): %v\n%s", err, stderr.String())
	}
	var answers []bool
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(questions) {
		t.Fatalf("%s: %v", out, err)
	}
	for i, q := range questions {
		if answers[i] != q.May {
			t.Errorf("%s may %s %s (%s): %t, want %t", q.User, q.Verb, q.Unit, q.Action, answers[i], q.May)
		}
	}
}

// installed returns the path of the binary that the unit runs.
func installed(t *testing.T) string {
	t.Helper()
	path, _, _ := strings.Cut(setting(readFile(t, unit), "ExecStart"), " ")
	if !filepath.IsAbs(path) {
		t.Fatalf("ExecStart of the unit begins with %q", path)
	}
	return path
}

// setting returns the value of a key that stands once, "" when it is not there.
func setting(text, key string) string {
	if m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
