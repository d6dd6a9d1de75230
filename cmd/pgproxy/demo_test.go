package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
)

// demoTemp makes a directory for a demo to work below, short enough for the paths
// of Unix sockets, and checks at the end that nothing is left in it.
func demoTemp(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // for the servers' user
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

func TestDemoRunsCommandAndTakesItsStatus(t *testing.T) {
	demoTemp(t)
	var stdout, stderr bytes.Buffer
	command := `test "$PGHOST" = 127.0.0.1 || exit 4
psql -X -A -t -F' ' -c 'show pool_nodes' || exit 5
psql -X -A -t -c 'create table t (n int)' -c 'insert into t values (42)' -c 'select n from t' || exit 6
exit 3`
	if status := run(t.Context(), []string{"demo", "--exec", command}, strings.NewReader(""), &stdout, &stderr); status != 3 {
		t.Errorf("status %d, want the command's 3\n%s", status, &stderr)
	}
	out := stdout.String()
	for _, want := range []string{"primary", "standby", "streaming", "\n42\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the command's output:\n%s", want, out)
		}
	}
}

// The status of a command that a signal has ended is the shell's.
func TestDemoReportsSignalAsShellDoes(t *testing.T) {
	demoTemp(t)
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"demo", "--exec", "kill -TERM $$"}, strings.NewReader(""), &stdout, &stderr); status != 128+15 {
		t.Errorf("status %d, want 143\n%s", status, &stderr)
	}
}

// interruptAt cancels when the text has been written to it.
type interruptAt struct {
	text   string
	cancel context.CancelFunc
	mu     struct {
		sync.Mutex
		buf bytes.Buffer
	}
}

func (w *interruptAt) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.mu.buf.Write(p)
	if strings.Contains(w.mu.buf.String(), w.text) {
		w.cancel()
	}
	return n, err
}

func TestDemoLeavesNothingWhenInterrupted(t *testing.T) {
	for name, text := range map[string]string{
		"while the servers start": "starting a primary",
		"when it is ready":        "Ctrl-C takes everything down",
	} {
		t.Run(name, func(t *testing.T) {
			demoTemp(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := &interruptAt{text: text, cancel: cancel}
			if status := run(ctx, []string{"demo"}, strings.NewReader(""), w, w); status != exitOK {
				t.Errorf("status %d, want 0\n%s", status, w.mu.buf.String())
			}
		})
	}
}
