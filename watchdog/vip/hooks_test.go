package vip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Commands run once for each transition, and tell the address; a failed one is
// repeated, one that hangs ends when the opposite is wanted.
func TestHooks(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{ModeLayer2, ModeLayer3, ModeHooks} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			h1 := newLAN(t).host("h1", 11)
			dir := t.TempDir()
			for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
				if err := os.Chmod(d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "calls")
			script := []string{"/bin/sh", "-c", `echo "$PGPROXY_VIP_EVENT $PGPROXY_VIP_ADDRESS $PGPROXY_VIP_PREFIX $PGPROXY_VIP_INTERFACE $1" >>` + file, "sh", "arg"}
			calls := func() string {
				text, _ := os.ReadFile(file)
				return strings.ReplaceAll(string(text), " 10.77.0.100 24 eth0 arg\n", " ")
			}
			m := h1.run(Config{Address: text4, Interface: "eth0", Mode: mode, Up: script, Down: script})
			within(t, time.Second, "down at start", func() bool { return calls() == "down " })
			m.tell("keep", text4)
			within(t, time.Second, "up", func() bool { return calls() == "down up " })
			within(t, time.Second, "held", func() bool { return m.link().Held })
			if got := h1.has(vip4); got != (mode != ModeHooks) {
				t.Errorf("in mode %s the kernel has the address: %t", mode, got)
			}
			never(t, time.Second, "called again", func() bool { return calls() != "down up " })
			m.tell("want", text4, "0s")
			within(t, time.Second, "down", func() bool { return calls() == "down up down " })
			within(t, time.Second, "not held", func() bool { return !m.link().Held })
			m.tell("keep", text4)
			within(t, time.Second, "up", func() bool { return calls() == "down up down up " })
			m.stop()
			if got := calls(); got != "down up down up down " {
				t.Errorf("after the end: %q", got)
			}
		})
	}
}

func TestHookThatHangs(t *testing.T) {
	t.Parallel()
	h1 := newLAN(t).host("h1", 11)
	m := h1.run(Config{
		Address: text4, Interface: "eth0", Mode: ModeHooks,
		Up: []string{"/bin/sh", "-c", "sleep 1000 & wait"}, Down: []string{"/bin/false"},
	})
	within(t, time.Second, "a failed command is logged", func() bool { return m.logged("event=down", "/bin/false", "exit status 1") == 1 })
	m.tell("keep", text4)
	never(t, 500*time.Millisecond, "held before its command has ended", func() bool { return m.link().Held })
	begin := time.Now()
	m.stop()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stopped %s after the order", took)
	}
}
