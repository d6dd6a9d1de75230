package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"github.com/pgproxy/pgproxy/configs"
)

// pgproxy runs the program in this process.
func pgproxy(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	status = run(t.Context(), args, strings.NewReader(""), &out, &errOut)
	return status, out.String(), errOut.String()
}

func TestUsage(t *testing.T) {
	tests := []struct {
		args   []string
		stderr string
	}{
		{nil, "pgproxy: no command; pgproxy --help lists them\n"},
		{[]string{"frobnicate"}, "pgproxy: unknown command \"frobnicate\"; pgproxy --help lists them\n"},
		{[]string{"chekc"}, "pgproxy: unknown command \"chekc\"; did you mean check?\n"},
		{[]string{"--frobnicate"}, "pgproxy: unknown flag: --frobnicate; see pgproxy --help\n"},
		{[]string{"check"}, "pgproxy: which file? use -c FILE\n"},
		{[]string{"check", "-c"}, "pgproxy: flag needs an argument: 'c' in -c; see pgproxy check --help\n"},
		{[]string{"check", "--konfig", "x"}, "pgproxy: unknown flag: --konfig; see pgproxy check --help\n"},
		{[]string{"check", "pgproxy.yaml"}, "pgproxy: unexpected argument \"pgproxy.yaml\"; see pgproxy check --help\n"},
		{[]string{"keygen", "x"}, "pgproxy: unexpected argument \"x\"; see pgproxy keygen --help\n"},
		{[]string{"setup-sql", "--user", ""}, "pgproxy: --user is empty\n"},
		{[]string{"setup-sql", "--user", strings.Repeat("x", 64)}, "pgproxy: --user is longer than 63 bytes\n"},
	}
	for _, tt := range tests {
		status, stdout, stderr := pgproxy(t, tt.args...)
		if status != exitUsage || stdout != "" || stderr != tt.stderr {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want 2, nothing and %q", tt.args, status, stdout, stderr, tt.stderr)
		}
	}
}

func TestHelpListsEveryCommand(t *testing.T) {
	status, stdout, _ := pgproxy(t, "--help")
	if status != exitOK {
		t.Errorf("status %d", status)
	}
	for _, cmd := range commands() {
		if cmd.Short == "" || !strings.Contains(stdout, cmd.Short) {
			t.Errorf("the help does not explain %s", cmd.Name())
		}
	}
}

func TestReport(t *testing.T) {
	faults := configs.Faults{
		{File: "f", Line: 1, Column: 2, Path: "a", Message: "x"},
		{File: "f", Line: 3, Column: 4, Message: "y"},
	}
	tests := []struct {
		err    error
		status int
		stderr string
	}{
		{nil, 0, ""},
		{errors.New("broken"), 1, "pgproxy: broken\n"},
		{faults, 1, "f:1:2: a: x\nf:3:4: y\n"},
		{fmt.Errorf("load: %w", faults), 1, "f:1:2: a: x\nf:3:4: y\n"},
		{usageError{errors.New("what")}, 2, "pgproxy: what\n"},
		{exitStatus(7), 7, ""},
		{fmt.Errorf("run command: %w", exitStatus(0)), 0, ""},
	}
	for _, tt := range tests {
		var stderr bytes.Buffer
		if status := report(tt.err, &stderr); status != tt.status || stderr.String() != tt.stderr {
			t.Errorf("%v: status %d, %q; want %d, %q", tt.err, status, stderr.String(), tt.status, tt.stderr)
		}
	}
}

func TestKeygen(t *testing.T) {
	seen := make(map[string]bool)
	for range 3 {
		status, stdout, stderr := pgproxy(t, "keygen")
		if status != exitOK || stderr != "" {
			t.Fatalf("status %d, stderr %q", status, stderr)
		}
		line, ok := strings.CutSuffix(stdout, "\n")
		if !ok || strings.Contains(line, "\n") {
			t.Errorf("%q is not one line", stdout)
		}
		secret, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(secret) != 32 {
			t.Errorf("%q is not 32 bytes in base64: %v", line, err)
		}
		seen[line] = true
	}
	if len(seen) != 3 {
		t.Error("two secrets are equal")
	}
}

func TestVersion(t *testing.T) {
	status, stdout, stderr := pgproxy(t, "version")
	if status != exitOK || stderr != "" || !strings.HasPrefix(stdout, "pgproxy ") || !strings.Contains(stdout, runtime.Version()) {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}

	vcs := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: "abc123"}, {Key: "vcs.modified", Value: modified}}
	}
	tests := []struct {
		version string
		info    debug.BuildInfo
		want    string
	}{
		{"", debug.BuildInfo{}, "pgproxy (devel), commit unknown, "},
		{"", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "pgproxy v1.2.3, commit unknown, "},
		{"v2.0.0", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: vcs("false")}, "pgproxy v2.0.0, commit abc123, "},
		{"v2.0.0", debug.BuildInfo{Settings: vcs("true")}, "pgproxy v2.0.0, commit abc123 (modified), "},
	}
	for _, tt := range tests {
		want := tt.want + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
		if got := versionLine(tt.version, &tt.info); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// failingWriter is a full disk or a closed pipe.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestOutputThatCannotBeWritten(t *testing.T) {
	for _, args := range [][]string{{"keygen"}, {"version"}, {"setup-sql"}, {"check", "-c", "../../configs/pgproxy.yaml"}} {
		var stderr bytes.Buffer
		status := run(t.Context(), args, strings.NewReader(""), failingWriter{}, &stderr)
		if status != exitFailure || !strings.Contains(stderr.String(), "closed pipe") {
			t.Errorf("%q: status %d, stderr %q", args, status, stderr.String())
		}
	}
}

// TestRunConcurrently shows that nothing of a run is shared with another.
func TestRunConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			user := fmt.Sprintf("monitor%d", i)
			var stdout bytes.Buffer
			run(context.Background(), []string{"setup-sql", "--user", user}, strings.NewReader(""), &stdout, io.Discard)
			if stdout.String() != setupSQL(user) {
				t.Errorf("the output is not that of %s", user)
			}
		})
	}
	wg.Wait()
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, _ := newLogger(configs.LogConfig{Level: configs.LogWarn, Format: configs.LogJSON}, &out)
	log.Info("not this")
	log.Warn("this", "backend", "h1")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	if line["level"] != "WARN" || line["msg"] != "this" || line["backend"] != "h1" {
		t.Errorf("got %v", line)
	}

	levels := []configs.LogLevel{configs.LogDebug, configs.LogInfo, configs.LogWarn, configs.LogError}
	for i, level := range levels {
		out.Reset()
		log, _ := newLogger(configs.LogConfig{Level: level, Format: configs.LogText}, &out)
		log.Debug("x")
		log.Info("x")
		log.Warn("x")
		log.Error("x")
		if got := strings.Count(out.String(), " msg=x\n"); got != len(levels)-i {
			t.Errorf("level %s: %d lines, want %d:\n%s", level, got, len(levels)-i, out.String())
		}
	}
}
