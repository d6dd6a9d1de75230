package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// command prepares a program of the server's installation. Messages are
// untranslated, no password is ever asked for.
func (a *Agent) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	path := program
	if a.cfg.BinDirectory != "" {
		path = filepath.Join(a.cfg.BinDirectory, program)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(a.environment(), "LC_ALL=C", "PGPASSFILE="+a.files.passfile())
	cmd.Dir = a.files.dir
	// A group of its own: an interrupt from the terminal is for pgproxy.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

// environment is that of this process without what would change how programs of
// PostgreSQL connect, and without systemd's socket. What a server reads about its
// processes' chance to be killed for memory stays (PG_OOM_ADJUST_FILE).
func (a *Agent) environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if (!strings.HasPrefix(e, "PG") || strings.HasPrefix(e, "PG_OOM_ADJUST_")) && !strings.HasPrefix(e, "LC_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			env = append(env, e)
		}
	}
	return env
}

// commandError adds what the program wrote last to the error of its end.
func commandError(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, lastLines(string(exit.Stderr), 3))
	}
	return err
}

// lastLines returns the last lines of a text as one line.
func lastLines(text string, n int) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// runTied runs a program that dies with this process, however that ends
// (Pdeathsig), and hands each line of its output to line. The error has its last
// lines.
func runTied(ctx context.Context, cmd *exec.Cmd, line func(string)) error {
	var mu struct {
		sync.Mutex
		tail []string
	}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// Of the whole group: pg_basebackup has a child.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	read := make(chan struct{})
	go func() {
		defer close(read)
		s := bufio.NewScanner(r)
		s.Split(scanLines)
		for s.Scan() {
			if s.Text() == "" {
				continue
			}
			line(s.Text())
			mu.Lock()
			mu.tail = append(mu.tail[max(0, len(mu.tail)-5):], s.Text())
			mu.Unlock()
		}
		_, _ = io.Copy(io.Discard, r) // a line too long for the scanner
	}()
	// The death signal is tied to the thread that started the program: it is one of its
	// own, which lives until the program ends.
	err := withoutCapabilities(cmd.Run)
	w.Close()
	<-read
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	mu.Lock()
	defer mu.Unlock()
	return fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, strings.Join(mu.tail, "; "))
}

// scanLines splits at \n and \r: progress overwrites its line.
func scanLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
