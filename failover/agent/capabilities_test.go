package agent

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// childVariable tells the test's own binary that it is the child.
const childVariable = "PGPROXY_TEST_AMBIENT"

// TestServerInheritsNoCapability starts this test as systemd starts pgproxy, as
// another user with two ambient capabilities; what it starts has none.
func TestServerInheritsNoCapability(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		inherited := ambient(t, func(cmd *exec.Cmd) error { return cmd.Run() })
		if inherited != 1<<12|1<<13 {
			t.Errorf("a child of pgproxy has the ambient capabilities %#x: the test shows nothing", inherited)
		}
		dropped := ambient(t, func(cmd *exec.Cmd) error { return withoutCapabilities(cmd.Run) })
		if dropped != 0 {
			t.Errorf("what the agent starts has the ambient capabilities %#x", dropped)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const both = "+net_admin,+net_raw"
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
		"--inh-caps="+both, "--ambient-caps="+both, "--bounding-set=-all,"+both,
		"--", "/proc/self/fd/3", "-test.run=^TestServerInheritsNoCapability$")
	// The file may lie where that user may not look.
	file, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.ExtraFiles = []*os.File{file}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childVariable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// ambient returns the ambient set of a program that run starts.
func ambient(t *testing.T, run func(*exec.Cmd) error) uint64 {
	t.Helper()
	cmd := exec.Command("cat", "/proc/self/status")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := run(cmd); err != nil {
		t.Fatal(err)
	}
	w.Close()
	status := make([]byte, 16<<10)
	n, err := r.Read(status)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^CapAmb:\s+([0-9a-f]+)$`).FindSubmatch(status[:n])
	if m == nil {
		t.Fatalf("no ambient set in %s", status[:n])
	}
	set, err := strconv.ParseUint(string(m[1]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
