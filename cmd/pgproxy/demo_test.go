package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The demo runs copies of its own program as another user, so these tests run the
// built one.

// demoProgram is built once, by the first test that needs it.
var demoProgram struct {
	sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	status := m.Run()
	_ = os.RemoveAll(demoProgram.dir) // "": nothing was built
	os.Exit(status)
}

func demoBinary(t *testing.T) string {
	t.Helper()
	demoProgram.Do(func() { demoProgram.err = buildDemo(t.Context()) })
	if demoProgram.err != nil {
		t.Fatal(demoProgram.err)
	}
	return demoProgram.path
}

func buildDemo(ctx context.Context) (err error) {
	if demoProgram.dir, err = os.MkdirTemp("", "demo-program-"); err != nil {
		return err
	}
	if err := os.Chmod(demoProgram.dir, 0o755); err != nil { // for the user nobody, too
		return err
	}
	demoProgram.path = filepath.Join(demoProgram.dir, "pgproxy")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", demoProgram.path, ".").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build pgproxy: %w\n%s", err, out)
	}
	return nil
}

// demoTest is a demo that a test runs.
type demoTest struct {
	cmd *exec.Cmd
	out *demoOutput
	tmp string
}

// demoOutput collects what a process prints, and calls seen once when it has printed
// a text.
type demoOutput struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	text string
	seen func()
}

func (o *demoOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if o.seen != nil && strings.Contains(o.buf.String(), o.text) {
		o.seen()
		o.seen = nil
	}
	return len(p), nil
}

func (o *demoOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// newDemoTest prepares a demo in a temporary directory of its own, and checks at the
// end that it has left nothing.
func newDemoTest(t *testing.T, args ...string) *demoTest {
	t.Helper()
	tmp, err := os.MkdirTemp("", "demo-") // short, for the paths of Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, 0o711); err != nil { // for the servers' user
		t.Fatal(err)
	}
	d := &demoTest{out: &demoOutput{}, tmp: tmp}
	d.cmd = exec.Command(demoBinary(t), append([]string{"demo"}, args...)...)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "PGPROXY="+demoBinary(t))
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	t.Cleanup(func() {
		d.checkNothingLeft(t)
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	return d
}

// run waits for the end and returns the exit status.
func (d *demoTest) run(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// SIGQUIT makes the Go runtime print all goroutines.
	defer context.AfterFunc(ctx, func() { _ = d.cmd.Process.Signal(syscall.SIGQUIT) })()
	err := d.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func (d *demoTest) checkNothingLeft(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(d.tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v (%v)", left, err)
	}
	pid := d.cmd.Process.Pid
	for _, pattern := range []string{
		fmt.Sprintf("/run/netns/pgproxy-%d-*", pid), fmt.Sprintf("%s/%d.json", demoStateDir, pid),
	} {
		if found, err := filepath.Glob(pattern); err != nil || len(found) > 0 {
			t.Errorf("left behind: %v (%v)", found, err)
		}
	}
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b, err := os.ReadFile(e); err == nil && bytes.Contains(b, []byte(d.tmp+"/")) {
			t.Errorf("process left behind: %s: %q", e, b)
		}
	}
}

// Everything goes through the virtual address, also after the primary was killed from
// the outside, and the command's status is the demo's.
func TestDemoRunsCommandAndSurvives(t *testing.T) {
	const command = `
case $PGHOST in 10.77.*.100) ;; *) exit 4 ;; esac
test "$PGPORT" = 9999 || exit 5
psql -X -A -t -F' ' -c 'show pool_nodes' || exit 6
psql -X -q -c 'create table t (n int)' -c 'insert into t values (42)' || exit 7
"$PGPROXY" demo status || exit 8
"$PGPROXY" demo kill-primary || exit 9
psql -X -A -t -c 'insert into t values (43)' -c 'select sum(n) from t' || exit 10
"$PGPROXY" demo cut h9 && exit 11
exit 3`
	d := newDemoTest(t, "--exec", command)
	if status := d.run(t); status != 3 {
		t.Errorf("status %d, want the command's 3\n%s", status, d.out)
	}
	for _, want := range []string{"streaming", "primary", "standby", "leads", "its postmaster is killed", "\n85\n", `no host "h9"; there are h1, h2, h3`} {
		if !strings.Contains(d.out.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, d.out)
		}
	}
}

// The status of a command that a signal has ended is the shell's.
func TestDemoReportsSignalAsShellDoes(t *testing.T) {
	d := newDemoTest(t, "--exec", "kill -TERM $$")
	if status := d.run(t); status != 128+15 {
		t.Errorf("status %d, want 143\n%s", status, d.out)
	}
}

func TestDemoLeavesNothingWhenInterrupted(t *testing.T) {
	for name, text := range map[string]string{
		"while the hosts start": "starting three hosts",
		"when it is ready":      "Ctrl-C takes everything down",
	} {
		t.Run(name, func(t *testing.T) {
			d := newDemoTest(t)
			d.out.text = text
			d.out.seen = func() { _ = d.cmd.Process.Signal(os.Interrupt) }
			if status := d.run(t); status != exitOK {
				t.Errorf("status %d, want 0\n%s", status, d.out)
			}
			if strings.Contains(d.out.String(), "Usage") {
				t.Errorf("an interrupt is taken for a wrong command line:\n%s", d.out)
			}
		})
	}
}

// Without root it says so, and its actions too.
func TestDemoNeedsRoot(t *testing.T) {
	for _, args := range [][]string{{"demo"}, {"demo", "kill-primary"}} {
		cmd := exec.Command(demoBinary(t), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailure {
			t.Errorf("%v: %v, want status 1", args, err)
		}
		if want := "pgproxy: the demo needs root, for "; !strings.HasPrefix(string(out), want) {
			t.Errorf("%v: output %q, want it to begin with %q", args, out, want)
		}
	}
}

func TestDemoActionsCheckTheirArguments(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		stderr string
	}{
		{[]string{"demo", "cut"}, "pgproxy: usage: pgproxy demo cut HOST\n"},
		{[]string{"demo", "status", "h1"}, "pgproxy: usage: pgproxy demo status\n"},
		{[]string{"demo", "kill-everything"}, "pgproxy: unexpected argument \"kill-everything\"; see pgproxy demo --help\n"},
	} {
		if status, _, stderr := pgproxy(t, tt.args...); status != exitUsage || stderr != tt.stderr {
			t.Errorf("%v: status %d, stderr %q, want 2 and %q", tt.args, status, stderr, tt.stderr)
		}
	}
	t.Setenv(demoStateVariable, filepath.Join(t.TempDir(), "none.json"))
	if status, _, stderr := pgproxy(t, "demo", "status"); status != exitFailure || !strings.Contains(stderr, "open cluster") {
		t.Errorf("status of a demo that is not there: %d, %q", status, stderr)
	}
}
