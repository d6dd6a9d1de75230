package agent

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// rewind takes back what the server wrote beyond the fork, and starts it as a
// standby of source (PostgreSQL manual, pg_rewind). The marker stands from before
// the first change that cannot be undone until the server streams.
func (a *Agent) rewind(ctx context.Context, t *task, source *cluster.Backend) error {
	if err := a.checkpointOn(ctx, source, t.state.Timeline); err != nil {
		return err
	}
	if err := a.confirm(ctx, t); err != nil {
		return err
	}
	if err := a.stopHard(ctx); err != nil {
		return err
	}
	dir := a.dataDir()
	if err := a.files.keep(dir); err != nil {
		return err
	}
	// postgres --single knows no standby mode, and pg_rewind runs it.
	if err := setSignal(dir, false); err != nil {
		return err
	}
	err := a.rewindFiles(ctx, t, source)
	if err != nil && ctx.Err() == nil && !exists(a.files.path("marker.json")) {
		// Nothing was changed: whoever starts it now must not make it a primary.
		if signalErr := setSignal(dir, true); signalErr != nil {
			a.log.Warn("put standby.signal back", "err", signalErr)
		}
	}
	if err != nil {
		return err
	}
	return a.startStandby(ctx, source)
}

func (a *Agent) rewindFiles(ctx context.Context, t *task, source *cluster.Backend) error {
	if err := a.endRecovery(ctx); err != nil {
		return err
	}
	// What is missing on source, or not allowed there, shows before anything changes.
	if err := a.runRewind(ctx, t, source, "--dry-run"); err != nil {
		if reachable(err) {
			return &finalError{err}
		}
		return err
	}
	if err := a.confirm(ctx, t); err != nil {
		return err
	}
	dir := a.dataDir()
	if err := a.files.mark(dir, marker{}); err != nil {
		return err
	}
	if err := a.runRewind(ctx, t, source); err != nil {
		return &finalError{err}
	}
	if err := a.files.markData(dir); err != nil {
		return err
	}
	return a.files.restore(dir)
}

// endRecovery has a crashed server replay its log to its end, as pg_rewind needs it,
// and would do itself where the configuration file is in the data directory.
func (a *Agent) endRecovery(ctx context.Context) error {
	c, err := a.readControl(ctx)
	if err != nil {
		return err
	}
	if c.clean() {
		return nil
	}
	args := []string{"--single", "-F", "-D", a.cfg.DataDirectory}
	if file := a.configFile(); file != "" {
		args = append(args, "-c", "config_file="+file)
	}
	cmd := a.command(ctx, "postgres", append(args, "template1")...) // without input it ends at once
	if err := runTied(ctx, cmd, func(string) {}); err != nil {
		return &finalError{fmt.Errorf("replay its log: %w", err)}
	}
	return nil
}

func (a *Agent) runRewind(ctx context.Context, t *task, source *cluster.Backend, more ...string) error {
	args := append([]string{
		"--target-pgdata=" + a.cfg.DataDirectory, "--source-server=" + a.conninfo(source) + " dbname=postgres",
		"--no-ensure-shutdown", "--progress",
	}, more...)
	return runTied(ctx, a.command(ctx, "pg_rewind", args...), func(line string) {
		a.log.Debug("pg_rewind", "line", line)
		if p, ok := progressOf(line); ok {
			t.notes.progress(p, strings.TrimSpace(line))
		}
	})
}

// percent is in the progress lines of pg_rewind and pg_basebackup:
// "12345/67890 kB (18%) copied".
var percent = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \((\d+)%\)`)

// progressOf reads the share that is done.
func progressOf(line string) (float64, bool) {
	m := percent.FindStringSubmatch(line)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[3])
	return min(float64(n)/100, 1), err == nil
}

// reachable tells whether a program failed for another reason than that it could
// not connect.
func reachable(err error) bool {
	text := err.Error()
	return !strings.Contains(text, "connection to server") && !strings.Contains(text, "could not connect") &&
		!strings.Contains(text, "could not translate host name") && !strings.Contains(text, "server closed the connection")
}
