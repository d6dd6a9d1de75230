package agent

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TestMain runs the tests as the user postgres when root runs them: an agent refuses
// to be root, and so do the server's programs. The test binary runs itself again.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || slices.Contains(os.Args, "-rewrite") { // of the scripts, that need no server
		os.Exit(m.Run())
	}
	code, err := asPostgres()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run tests as postgres:", err)
		code = 1
	}
	os.Exit(code)
}

func asPostgres() (int, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return 0, err
	}
	// go test builds the binary in a directory of root's alone.
	dir, err := os.MkdirTemp("", "pgproxy-agent-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		return 0, err
	}
	binary := filepath.Join(dir, "agent.test")
	if err := copyFile("/proc/self/exe", binary); err != nil {
		return 0, err
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") && !strings.HasPrefix(a, "-test.coverprofile") && !strings.HasPrefix(a, "-test.gocoverdir") {
			args = append(args, a) // the others are files that only root may write
		}
	}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Pdeathsig: syscall.SIGKILL,
	}
	cmd.Env = append(os.Environ(), "HOME="+u.HomeDir)
	err = cmd.Run()
	if cmd.ProcessState != nil {
		return cmd.ProcessState.ExitCode(), nil
	}
	return 0, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// counted reads a counter.
func counted(t *testing.T, c prometheus.Counter) int {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}
