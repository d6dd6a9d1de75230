package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestServerOfAContainer: a process whose directory has the same name, in a mount
// namespace of its own, is not of this server, whatever its postmaster.pid says.
func TestServerOfAContainer(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := filepath.Join(dir, "data"), filepath.Join(dir, "other")
	for _, d := range []string{ours, theirs} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const stay = "cd %s; echo here; exec cat"
	container := startIn(t, fmt.Sprintf("mount --bind %s %s; "+stay, theirs, ours, ours), &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", container)); err != nil || cwd != ours {
		t.Fatalf("the other process is in %q, %v: the test shows nothing", cwd, err)
	}
	if err := os.WriteFile(filepath.Join(ours, "postmaster.pid"), fmt.Appendf(nil, "%d\n", container), 0o600); err != nil {
		t.Fatal(err)
	}
	if pids, pid := processesIn(ours), postmaster(ours); len(pids) != 0 || pid != 0 {
		t.Errorf("processes %v, postmaster %d: want none", pids, pid)
	}
	if err := killAll(t.Context(), ours); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(container, 0); err != nil {
		t.Errorf("the other process was killed: %v", err)
	}
	here := startIn(t, fmt.Sprintf(stay, ours), nil)
	if pids := processesIn(ours); len(pids) != 1 || pids[0] != here {
		t.Errorf("processes %v, want %d", pids, here)
	}
}

// startIn runs a script that says something when it is ready, and ends it with the
// test.
func startIn(t *testing.T, script string, attr *syscall.SysProcAttr) int {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		stdin.Close()
		_ = cmd.Wait() // it was killed
	})
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return cmd.Process.Pid
}
