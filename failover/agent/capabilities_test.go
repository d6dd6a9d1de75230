package agent

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childVariable tells the test's own binary that it is the child.
const childVariable = "PGPROXY_TEST_AMBIENT"

// TestServerInheritsNoCapability starts this test as systemd starts pgproxy, as
// another user with two ambient capabilities; what it starts has none.
func TestServerInheritsNoCapability(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		inherited := ambient(t, func(cmd *exec.Cmd) error { return cmd.Run() })
		if inherited != 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW {
			t.Errorf("a child of pgproxy has the ambient capabilities %#x: the test shows nothing", inherited)
		}
		dropped := ambient(t, func(cmd *exec.Cmd) error { return withoutCapabilities(cmd.Run) })
		if dropped != 0 {
			t.Errorf("what the agent starts has the ambient capabilities %#x", dropped)
		}
		return
	}
	// A user namespace of its own gives the child the capabilities that it may have.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestServerInheritsNoCapability$")
	cmd.Env = append(os.Environ(), childVariable+"=1")
	uid, gid := os.Getuid(), os.Getgid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW},
	}
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
