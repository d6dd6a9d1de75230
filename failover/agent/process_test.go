package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestKillCopies kills what copies into the directory, and nothing that looks like it.
func TestKillCopies(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "pg_basebackup")
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shell, program); err != nil {
		t.Fatal(err)
	}
	start := func(path string, args ...string) *exec.Cmd {
		cmd := exec.Command(path, append([]string{"-c", "read line"}, args...)...)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}
	ours := start(program, "-D", "/there", copyLabel)
	others := []*exec.Cmd{start(program, "-D", "/here", copyLabel), start(shell, "-D", "/there", copyLabel), start(program, "-D", "/there")}
	if err := killCopies("/there"); err != nil {
		t.Fatal(err)
	}
	if err := ours.Wait(); err == nil || ours.ProcessState.String() != "signal: killed" {
		t.Errorf("what copies there ended with %v", err)
	}
	for _, cmd := range others {
		if _, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "exe")); err != nil {
			t.Errorf("%v was killed: %v", cmd.Args, err)
		}
	}
}
