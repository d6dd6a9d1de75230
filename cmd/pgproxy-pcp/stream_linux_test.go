package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var recoveryLines = []string{
	`{"item":{"task":"","progress":null,"detail":"waiting for the agent"}}`, `{}`,
	`{"item":{"task":"rebuild","progress":0,"detail":"0 of 4.0 GB"}}`,
	`{"item":{"task":"rebuild","progress":0.01,"detail":"0.04 of 4.0 GB"}}`,
	`{"item":{"task":"rebuild","progress":0.5,"detail":"2.0 of 4.0 GB"}}`,
	`{"item":{"task":"rebuild","progress":1,"detail":"4.0 of 4.0 GB"}}`,
	`{"item":{"task":"stream","progress":null,"detail":"waiting until it streams"}}`,
	`{"done":"h2 is recovered"}`,
}

// TestRecoverPlain: without a terminal there is a line for each step, and not for
// each report.
func TestRecoverPlain(t *testing.T) {
	socket := answers{"POST /v1/recover": says(recoveryLines...)}.serve(t)
	status, stdout, stderr := operate(t.Context(), "--socket", socket, "recover", "h2")
	if status != exitOK || stderr != "" {
		t.Errorf("status %d, %q", status, stderr)
	}
	golden(t, "recover.txt", stdout)
	status, stdout, stderr = operate(t.Context(), "--socket", socket, "-o", "json", "recover", "h2")
	if status != exitOK || stderr != "" {
		t.Errorf("status %d, %q", status, stderr)
	}
	golden(t, "recover.json", stdout)
}

// terminal returns a pseudo terminal of 72 columns, and what is written to it
// after it was closed (pty(7)).
func terminal(t *testing.T) (tty *os.File, shown func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	control, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	_ = control.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 72})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(master) // ends with EIO when the last one has closed the terminal
		_ = master.Close()
		text <- string(data)
	}()
	return tty, func() string {
		_ = tty.Close()
		return strings.ReplaceAll(<-text, "\r\n", "\n")
	}
}

// TestRecoverOnATerminal: one line that is drawn again.
func TestRecoverOnATerminal(t *testing.T) {
	socket := answers{"POST /v1/recover": says(recoveryLines...)}.serve(t)
	tty, shown := terminal(t)
	if status := run(t.Context(), []string{"--socket", socket, "recover", "h2"}, tty, os.Stderr); status != exitOK {
		t.Errorf("status %d", status)
	}
	text := shown()
	golden(t, "recover-terminal.txt", strings.ReplaceAll(strings.ReplaceAll(text, "\r", "<CR>\n"), "\x1b[K", "<EL>"))
	for _, l := range strings.FieldsFunc(text, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if n := len(strings.TrimSuffix(l, "\x1b[K")); n >= 72 {
			t.Errorf("%d columns of 72: %q", n, l)
		}
	}
}

// waits sends lines and then nothing until the client leaves.
func waits(asked chan<- struct{}, lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		says(lines...)(w, r)
		asked <- struct{}{}
		<-r.Context().Done()
	}
}

// TestInterrupted: Ctrl-C ends the waiting and says what goes on, and is the way to
// end what only shows.
func TestInterrupted(t *testing.T) {
	asked := make(chan struct{})
	socket := answers{
		"POST /v1/recover":        waits(asked, recoveryLines[0]),
		"POST /v1/promote":        waits(asked, `{"item":{"at":"2026-03-01T12:00:00Z","epoch":9,"backend":"h1","text":"switchover begins"}}`),
		"GET /v1/nodes?watch=1":   waits(asked, `{"item":[]}`),
		"GET /v1/events?follow=1": waits(asked),
	}.serve(t)
	for _, tt := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{
			"recover h2", exitFailure, "h2: waiting for the agent\n",
			"pgproxy-pcp: interrupted: the recovery goes on if it had begun; events --follow shows how\n",
		},
		{
			"promote h2", exitFailure, "2026-03-01 12:00:00.000  h1: switchover begins\n",
			"pgproxy-pcp: interrupted: the switchover goes on if it had begun; events --follow shows how\n",
		},
		{"-o json nodes --watch", exitOK, "[]\n", ""},
		{"events --follow", exitOK, "", ""},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		go func() {
			<-asked
			interrupt()
		}()
		// What was sent before is read before the interrupt is seen only where it was
		// flushed; says does.
		status, stdout, stderr := operate(ctx, append([]string{"--socket", socket}, strings.Fields(tt.args)...)...)
		if status != tt.status || stdout != tt.stdout && stdout != "" || stderr != tt.stderr {
			t.Errorf("%s: status %d, %q, %q; want %d, %q, %q", tt.args, status, stdout, stderr, tt.status, tt.stdout, tt.stderr)
		}
	}
}

// TestWatch: tables one after the other in a file, in place on a terminal.
func TestWatch(t *testing.T) {
	row := func(status string) string {
		return `{"item":[{"name":"h1","address":"h1:5432","status":"` + status + `","role":"primary","weight":1,"timeline":1,` +
			`"lag_bytes":0,"lag_seconds":0,"replication_state":"","sync_state":"","since":"2026-03-01T12:00:00Z"}]}`
	}
	socket := answers{"GET /v1/nodes?watch=1": says(row("up"), row("down"), `{"error":"h1 stops"}`)}.serve(t)
	status, stdout, stderr := operate(t.Context(), "--socket", socket, "nodes", "--watch")
	if status != exitFailure || stderr != "pgproxy-pcp: h1 stops\n" {
		t.Errorf("status %d, %q", status, stderr)
	}
	golden(t, "watch.txt", stdout)
	tty, shown := terminal(t)
	if status := run(t.Context(), []string{"--socket", socket, "nodes", "--watch"}, tty, io.Discard); status != exitFailure {
		t.Errorf("status %d", status)
	}
	golden(t, "watch-terminal.txt", strings.ReplaceAll(shown(), "\x1b", "<ESC>"))
}

// TestProcess runs the program as a process: its exit status, a signal, and a pipe
// that nobody reads any more.
func TestProcess(t *testing.T) {
	asked := make(chan struct{})
	socket := answers{
		"GET /v1/nodes":         says(`[]`),
		"POST /v1/detach":       fails("h1 is the primary"),
		"GET /v1/nodes?watch=1": waits(asked, `{"item":[]}`),
	}.serve(t)
	start := func(args ...string) (*exec.Cmd, io.ReadCloser) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{"--socket", socket}, args...)...)
		cmd.Env = append(os.Environ(), mainEnv+"=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	end := func(cmd *exec.Cmd, want int) {
		t.Helper()
		timeout := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer timeout.Stop()
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%v: status %d (%v), want %d", cmd.Args[3:], got, cmd.ProcessState, want)
		}
	}
	for want, args := range map[int][]string{0: {"nodes"}, 1: {"detach", "h1"}, 2: {"detach"}} {
		cmd, _ := start(args...)
		end(cmd, want)
	}
	cmd, _ := start("nodes", "--watch")
	<-asked
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	end(cmd, 0)
	cmd, out := start("nodes", "--watch")
	<-asked
	_ = out.Close()
	end(cmd, 0)
}
