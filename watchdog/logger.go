package watchdog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatAfter is how long the same complaint of raft is kept quiet.
const repeatAfter = time.Minute

// raftSink hands raft's log lines on. Its warnings come with every failed heartbeat,
// several a second; each is said once a minute, with a count. What it calls info is
// said by this package itself where it matters.
type raftSink struct {
	log *slog.Logger

	mu struct {
		sync.Mutex
		said map[string]*complaint
	}
}

type complaint struct {
	at    time.Time
	count int
}

// newRaftLogger returns raft's logger on top of log.
func newRaftLogger(log *slog.Logger) hclog.Logger {
	s := &raftSink{log: log}
	s.mu.said = map[string]*complaint{}
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(s)
	return l
}

// Accept implements hclog.SinkAdapter.
func (s *raftSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < hclog.Warn {
		if s.log.Enabled(context.Background(), slog.LevelDebug) {
			s.log.Debug("raft: "+msg, plain(args)...)
		}
		return
	}
	args = plain(args)
	if n := s.count(msg+fmt.Sprint(args...), time.Now()); n > 0 {
		s.log.Warn("raft: "+msg, append(args, "times", n)...)
	}
}

// count returns how often the line came since it was last said, 0 when it is to be
// kept quiet.
func (s *raftSink) count(line string, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.mu.said[line]
	if c == nil {
		if len(s.mu.said) >= 100 {
			clear(s.mu.said)
		}
		c = &complaint{}
		s.mu.said[line] = c
	}
	c.count++
	if now.Sub(c.at) < repeatAfter {
		return 0
	}
	n := c.count
	c.at, c.count = now, 0
	return n
}

// plain turns hclog's own kinds of values into text.
func plain(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				a = fmt.Sprintf(format, f[1:]...)
			}
		}
		out[i] = a
	}
	return out
}
