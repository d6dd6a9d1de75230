package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	// startWait is for how long a start is watched. What takes longer, such as a long
	// recovery, goes on by itself and is seen by looks.
	startWait = 5 * time.Second
	// aliveWait is for how long a postmaster may take to write its postmaster.pid.
	aliveWait = 5 * time.Second
	// immediateWait is for how long an immediate shutdown may take before SIGKILL.
	immediateWait = 5 * time.Second
	// killWait bounds the kill of the lost primary in a failover (S6).
	killWait = 300 * time.Millisecond
)

// start starts the server as its signal files say. It returns when it accepts
// connections, or lives for startWait.
func (a *Agent) start(ctx context.Context) error {
	dir := a.dataDir()
	orphans, cancel := context.WithTimeout(ctx, immediateWait)
	defer cancel()
	if err := awaitGone(orphans, dir); err != nil {
		return fmt.Errorf("start server: wait for the end of its last processes: %w", err)
	}
	logAt := fileSize(a.logFile())
	if err := a.launch(ctx); err != nil {
		return fmt.Errorf("start server: %w; %s", err, a.logSince(logAt))
	}
	began, seenAlive := time.Now(), false
	return pollUntil(ctx, func() (bool, error) {
		alive := postmaster(a.dataDir()) != 0
		switch {
		case !alive && (seenAlive || time.Since(began) > aliveWait):
			return false, fmt.Errorf("start server: it has ended; %s", a.logSince(logAt))
		case !alive:
			return false, nil
		}
		seenAlive = true
		if time.Since(began) > startWait {
			return true, nil
		}
		asked, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
		defer cancel()
		conn, err := a.connect(asked)
		if err == nil {
			hangUp(conn)
			return true, nil
		}
		return stateOf(err) == cluster.ServerUnknown, nil
	})
}

// launch runs the configured command, or pg_ctl.
func (a *Agent) launch(ctx context.Context) error {
	if a.cfg.StartCommand != "" {
		return a.shell(ctx, a.cfg.StartCommand)
	}
	args := []string{"start", "-W", "-s", "-D", a.cfg.DataDirectory, "-l", a.logFile()}
	if file := a.configFile(); file != "" {
		// pg_ctl gives this to a shell.
		args = append(args, "-o", "-c config_file="+quoteShell(file))
	}
	// Not tied to ctx or this process: the server outlives both.
	cmd := a.command(context.WithoutCancel(ctx), "pg_ctl", args...)
	cmd.Stdout, cmd.Stderr = nil, nil
	if err := withoutCapabilities(cmd.Run); err != nil {
		return fmt.Errorf("run pg_ctl: %w", err)
	}
	return nil
}

func quoteShell(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// shell runs a configured command to its end.
func (a *Agent) shell(ctx context.Context, command string) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.StopTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env, cmd.Dir = a.environment(), a.files.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // what it started may keep its output open
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := withoutCapabilities(cmd.Run); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("run %q: %w: %s", command, err, lastLines(out.String(), 3))
	}
	return nil
}

// configFile is the place of postgresql.conf where it is not the data directory;
// else "".
func (a *Agent) configFile() string {
	if a.cfg.ConfigFile != "" {
		return a.cfg.ConfigFile
	}
	l := a.known.Load()
	if l.ConfigFile == "" || filepath.Dir(l.ConfigFile) == a.cfg.DataDirectory || filepath.Dir(l.ConfigFile) == a.dataDir() {
		return ""
	}
	return l.ConfigFile
}

func (a *Agent) logFile() string {
	if a.cfg.LogFile != "" {
		return a.cfg.LogFile
	}
	return a.files.path("postgresql.log")
}

// logSince returns what speaks of a fault in the server's log since it had that size.
func (a *Agent) logSince(size int64) string {
	content, err := os.ReadFile(a.logFile())
	if err != nil || int64(len(content)) < size {
		return "see the server's log"
	}
	var faults []string
	for line := range strings.Lines(string(content[size:])) {
		if strings.Contains(line, "FATAL:") || strings.Contains(line, "PANIC:") {
			faults = append(faults, strings.TrimSpace(line))
		}
	}
	if len(faults) == 0 {
		return "see the server's log " + a.logFile()
	}
	return strings.Join(faults[max(0, len(faults)-3):], "; ")
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// stopFast asks for a fast shutdown and waits for its end, for that long at most. It
// never does more than ask.
func (a *Agent) stopFast(ctx context.Context, within time.Duration) error {
	dir := a.dataDir()
	pid := postmaster(dir)
	if pid == 0 {
		return awaitGone(ctx, dir)
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if a.cfg.StopCommand != "" {
		if err := a.shell(ctx, a.cfg.StopCommand); err != nil {
			return fmt.Errorf("stop server: %w", err)
		}
	} else if err := signal(pid, syscall.SIGINT); err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	if err := awaitGone(ctx, dir); err != nil {
		return fmt.Errorf("stop server: it has not stopped within %v", within)
	}
	return nil
}

// stopClean is stopFast that has failed when the server was not shut down.
func (a *Agent) stopClean(ctx context.Context) error {
	if err := a.stopFast(ctx, a.cfg.StopTimeout); err != nil {
		return err
	}
	c, err := a.readControl(ctx)
	if err != nil {
		return err
	}
	if !c.clean() {
		return fmt.Errorf("stop server: it has ended %s", c.state)
	}
	return nil
}

// hardWait is what a fast shutdown gets where it may be made harder: it waits for
// standbys to receive the rest of a log that nobody may follow.
const hardWait = 2 * time.Second

// stopHard stops the server in any case: a fast shutdown, an immediate one, SIGKILL.
func (a *Agent) stopHard(ctx context.Context) error {
	dir := a.dataDir()
	if len(processesIn(dir)) == 0 {
		return nil
	}
	within := hardWait
	if a.cfg.StopCommand != "" {
		within = a.cfg.StopTimeout // what the command does takes its time
	}
	err := a.stopFast(ctx, within)
	if err == nil || ctx.Err() != nil {
		return err
	}
	a.log.Warn("stop server: next an immediate shutdown", "err", err)
	if pid := postmaster(dir); pid != 0 {
		if err := signal(pid, syscall.SIGQUIT); err != nil {
			return fmt.Errorf("stop server: %w", err)
		}
		immediate, cancel := context.WithTimeout(ctx, immediateWait)
		defer cancel()
		if awaitGone(immediate, dir) == nil {
			return nil
		}
		a.log.Warn("stop server: next SIGKILL")
	}
	killed, cancel := context.WithTimeout(ctx, immediateWait)
	defer cancel()
	if err := killAll(killed, dir); err != nil {
		return fmt.Errorf("kill server: %w", err)
	}
	return nil
}

// kill kills the server, for at most killWait.
func (a *Agent) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	if err := killAll(ctx, a.dataDir()); err != nil {
		return fmt.Errorf("kill server: %w", err)
	}
	return nil
}

// asStandby has the stopped server come up as a standby, whoever starts it.
func (a *Agent) asStandby() error {
	if !exists(filepath.Join(a.dataDir(), "PG_VERSION")) {
		return nil
	}
	return setSignal(a.dataDir(), true)
}
