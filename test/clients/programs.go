package clients

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

//go:embed node/client.js node/package.json node/package-lock.json python/client.py
var sources embed.FS

// Install writes the programs of other languages into a directory and fetches what
// they need.
func Install(ctx context.Context, dir string) error {
	err := fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := sources.ReadFile(name)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644))
	})
	if err != nil {
		return fmt.Errorf("install client programs: %w", err)
	}
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = filepath.Join(dir, "node")
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("install node-postgres: %w\n%s", err, out)
	}
	return nil
}

// program is a running one, of many clients.
type program struct {
	kind  string
	cmd   *exec.Cmd
	stdin io.Closer
	said  complaint
	wait  sync.WaitGroup // for what it prints
	err   error          // of reading that, set before wait ends
}

// programCommand prepares the program of a share; the environment leads to the server. A
// Python of another origin than Debian's does not see its packages.
func programCommand(ctx context.Context, dir string, s share, command func(context.Context, string, ...string) *exec.Cmd) (*exec.Cmd, error) {
	argument, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write share of clients: %w", err)
	}
	switch s.Kind {
	case kindNode:
		return command(ctx, "node", "--no-deprecation", filepath.Join(dir, "node", "client.js"), string(argument)), nil
	case kindPsycopg:
		return command(ctx, "/usr/bin/python3", filepath.Join(dir, "python", "client.py"), string(argument)), nil
	default:
		panic("BUG: no program of kind " + s.Kind)
	}
}

// startProgram starts a prepared one, whose events go to the journal.
func startProgram(kind string, cmd *exec.Cmd, j *journal) (*program, error) {
	p := &program{kind: kind, cmd: cmd}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start clients of %s: %w", kind, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start clients of %s: %w", kind, err)
	}
	p.stdin, cmd.Stderr = stdin, &p.said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start clients of %s: %w", kind, err)
	}
	p.wait.Go(func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			p.err = errors.Join(p.err, j.addLine(lines.Bytes()))
		}
		p.err = errors.Join(p.err, lines.Err())
	})
	return p, nil
}

// stop lets the clients finish what is under way, and returns what went wrong with
// the program itself.
func (p *program) stop() error {
	_ = p.stdin.Close() // it may be gone
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	p.wait.Wait()
	if err := errors.Join(p.err, p.cmd.Wait()); err != nil {
		return fmt.Errorf("clients of %s: %w\n%s", p.kind, err, p.said.String())
	}
	return nil
}

// complaint keeps the beginning of what a program says on standard error.
type complaint struct {
	mu struct {
		sync.Mutex
		b strings.Builder
	}
}

func (l *complaint) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 4000
	l.mu.b.Write(b[:min(len(b), max(0, most-l.mu.b.Len()))])
	return len(b), nil
}

func (l *complaint) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.b.String()
}
