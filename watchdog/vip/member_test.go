package vip

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// The environment variable that makes the test binary a member: its Configs.
const memberEnv = "VIP_TEST_MEMBER"

func TestMain(m *testing.M) {
	if text := os.Getenv(memberEnv); text != "" {
		if err := memberMain(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The tests wait for the kernel's and the members' timers, not for the processor.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	status := m.Run()
	if copied.path != "" {
		_ = os.RemoveAll(filepath.Dir(copied.path)) // what is left is in the system's temporary directory
	}
	os.Exit(status)
}

// said is a line of a member on standard output.
type said struct {
	Links   []cluster.Link
	Metrics map[string]float64
}

// memberMain is a member that obeys its standard input, a line at a time:
// "want ADDRESS DURATION" (a lease that ends then; 0: none), "keep ADDRESS" (a lease
// of a second, renewed every 250 ms), "hardware ADDR..." (of members).
func memberMain(text string) error {
	var cfgs []Config
	if err := json.Unmarshal([]byte(text), &cfgs); err != nil {
		return err
	}
	var mu sync.Mutex
	until, kept, hardware, changed := map[string]time.Time{}, map[string]bool{}, []string(nil), make(chan struct{})
	reg := prometheus.NewRegistry()
	h, err := New(cfgs, Deps{
		Wanted: func(a string) time.Time {
			mu.Lock()
			defer mu.Unlock()
			return until[a]
		},
		Changed: func() <-chan struct{} {
			mu.Lock()
			defer mu.Unlock()
			return changed
		},
		Hardware: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return hardware
		},
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Registerer: reg,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		defer stop()
		lines := make(chan string)
		go func() {
			defer close(lines)
			for in := bufio.NewScanner(os.Stdin); in.Scan(); {
				lines <- in.Text()
			}
		}()
		renew := time.NewTicker(250 * time.Millisecond)
		for {
			var words []string
			select {
			case line, ok := <-lines:
				if !ok {
					return
				}
				words = strings.Fields(line)
			case <-renew.C:
			}
			mu.Lock()
			switch {
			case len(words) == 0:
			case words[0] == "keep":
				kept[words[1]] = true
			case words[0] == "want":
				d, _ := time.ParseDuration(words[2])
				until[words[1]], kept[words[1]] = time.Now().Add(d), false
			case words[0] == "hardware":
				hardware = words[1:]
			}
			for a, k := range kept {
				if k {
					until[a] = time.Now().Add(time.Second)
				}
			}
			if len(words) > 0 {
				close(changed)
				changed = make(chan struct{})
			}
			mu.Unlock()
		}
	}()
	go func() {
		for out := json.NewEncoder(os.Stdout); ; {
			changed := h.LinkChanged()
			_ = out.Encode(said{h.Links(), gathered(reg)})
			<-changed
		}
	}()
	return h.Run(ctx)
}

func gathered(reg *prometheus.Registry) map[string]float64 {
	all := make(map[string]float64)
	families, _ := reg.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			all[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

// member is a running member on a host: a process of user postgres that has the
// two capabilities and nothing more.
type member struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	log lockedBuffer

	mu    sync.Mutex
	last  said
	ended chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var copied struct {
	sync.Once
	path string
	err  error
}

// program returns a copy of this test binary that every user may execute.
func program(t *testing.T) string {
	t.Helper()
	copied.Do(func() {
		var dir string
		if dir, copied.err = os.MkdirTemp("", "vip-test-"); copied.err != nil {
			return
		}
		copied.path = filepath.Join(dir, "member")
		var self []byte
		if self, copied.err = os.ReadFile("/proc/self/exe"); copied.err == nil {
			copied.err = os.WriteFile(copied.path, self, 0o755)
		}
		if copied.err == nil {
			copied.err = os.Chmod(dir, 0o755)
		}
	})
	if copied.err != nil {
		t.Fatalf("copy the test binary: %v", copied.err)
	}
	return copied.path
}

// start runs a member on the host with these capabilities ("+net_admin,+net_raw").
func (n *node) start(caps string, cfgs ...Config) *member {
	n.t.Helper()
	text, err := json.Marshal(cfgs)
	if err != nil {
		n.t.Fatal(err)
	}
	m := &member{t: n.t, ended: make(chan struct{})}
	m.cmd = exec.Command("ip", "netns", "exec", n.ns, "setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups",
		"--bounding-set", caps, "--inh-caps", caps, "--ambient-caps", caps, program(n.t))
	m.cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	m.cmd.Stderr = &m.log
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		n.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		n.t.Fatalf("start member: %v", err)
	}
	go func() {
		defer close(m.ended)
		for in := json.NewDecoder(out); ; {
			var s said
			if in.Decode(&s) != nil {
				_ = m.cmd.Wait() // tests look at ended and the log
				return
			}
			m.mu.Lock()
			m.last = s
			m.mu.Unlock()
		}
	}()
	n.t.Cleanup(func() {
		m.signal(syscall.SIGKILL)
		<-m.ended
		if n.t.Failed() {
			n.t.Logf("log of %s:\n%s", n.ns, m.log.String())
		}
	})
	return m
}

// run starts a member with both capabilities and waits until it knows its interfaces.
func (n *node) run(cfgs ...Config) *member {
	n.t.Helper()
	m := n.start("-all,+net_admin,+net_raw", cfgs...)
	within(n.t, 5*time.Second, "the member knows its interface", func() bool { return m.link().Carrier })
	return m
}

// link is the member's report about its first address.
func (m *member) link() cluster.Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.last.Links) == 0 {
		return cluster.Link{}
	}
	return m.last.Links[0]
}

func (m *member) metric(name string) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last.Metrics[name]
}

func (m *member) tell(words ...string) {
	m.t.Helper()
	if _, err := fmt.Fprintln(m.in, strings.Join(words, " ")); err != nil {
		m.t.Fatalf("tell member: %v", err)
	}
}

func (m *member) signal(s syscall.Signal) { _ = syscall.Kill(m.cmd.Process.Pid, s) }

// stop ends the member as a service manager does, and waits for it.
func (m *member) stop() {
	m.t.Helper()
	m.in.Close()
	select {
	case <-m.ended:
	case <-time.After(5 * time.Second):
		m.t.Fatal("the member does not stop")
	}
}

// logged counts the lines of the log that contain all words.
func (m *member) logged(words ...string) int {
	count := 0
	for line := range strings.Lines(m.log.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			count++
		}
	}
	return count
}
