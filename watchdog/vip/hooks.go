package vip

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	hookTimeout = 10 * time.Second
	hookRetry   = 5 * time.Second
)

// hooks runs the commands of one address: the one for what is wanted, when the one
// that was run last is another. Its goroutine runs one at a time.
type hooks struct {
	cfg  *Config
	log  *slog.Logger
	done func(up bool) // called when a command has succeeded; there may be none to run

	mu struct {
		sync.Mutex
		up      bool
		changed chan struct{} // closed and replaced when up is written
	}
	ended chan struct{} // closed by the keeper: up is final
}

func newHooks(cfg *Config, log *slog.Logger, done func(up bool)) *hooks {
	h := &hooks{cfg: cfg, log: log, done: done, ended: make(chan struct{})}
	h.mu.changed = make(chan struct{})
	return h
}

// want says which state the commands have to bring about. It does not block.
func (h *hooks) want(up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.up == up {
		return
	}
	h.mu.up = up
	close(h.mu.changed)
	h.mu.changed = make(chan struct{})
}

func (h *hooks) wanted() (bool, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.up, h.mu.changed
}

// run runs commands until its keeper has ended and down was run for it, whatever
// became of ctx: what is up must not stay so.
func (h *hooks) run(context.Context) {
	known, is := false, false // what the last command brought about
	for {
		up, changed := h.wanted()
		var retry <-chan time.Time
		if !known || is != up {
			err := h.exec(up, changed)
			if known = err == nil; known {
				is = up
				h.done(up)
			}
			select {
			case <-changed: // it may have been killed for that
				continue
			default:
			}
			if err != nil {
				h.log.Error("command of a virtual address failed", "event", event(up), "error", err)
				retry = time.After(hookRetry)
			}
		}
		select {
		case <-changed:
		case <-retry:
		case <-h.ended:
			if now, _ := h.wanted(); now == up {
				return
			}
		}
	}
}

// exec runs a command and waits for it; it is killed when it takes too long or
// something else is wanted, with what it started.
func (h *hooks) exec(up bool, changed <-chan struct{}) error {
	argv := h.cfg.Down
	if up {
		argv = h.cfg.Up
	}
	if len(argv) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), hookTimeout)
	defer cancel()
	p := h.cfg.prefix()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(),
		"PGPROXY_VIP_EVENT="+event(up),
		"PGPROXY_VIP_ADDRESS="+p.Addr().String(),
		"PGPROXY_VIP_PREFIX="+strconv.Itoa(p.Bits()),
		"PGPROXY_VIP_INTERFACE="+h.cfg.Interface)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a child of its own that left the group may hold the pipe
	ended := make(chan struct{})
	var output []byte
	var err error
	go func() {
		defer close(ended)
		output, err = cmd.CombinedOutput()
	}()
	select {
	case <-ended:
	case <-changed:
		cancel()
		<-ended
	}
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("run %s: killed: %w", argv[0], context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", argv[0], err, lastLine(output))
	}
	return nil
}

func event(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// lastLine returns what a command said last, of bounded length.
func lastLine(output []byte) string {
	text := strings.TrimSpace(string(output))
	text = text[strings.LastIndexByte(text, '\n')+1:]
	return text[:min(len(text), 200)]
}
