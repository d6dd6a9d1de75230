package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest"
)

// Host is a machine of the cluster.
type Host struct {
	Name string
	IP   string
	Net  *nettest.Host

	HasServer bool
	DataDir   string // of the server; all below is in Dir
	SocketDir string // of the server and of pcp
	Config    string // pgproxy.yaml
	MemberLog string
	MemberDir string // pgproxy's data_dir

	c   *Cluster
	dir string

	mu struct {
		sync.Mutex
		ended chan struct{} // of the member started last, closed at its end; nil: none was
	}
}

func newHost(c *Cluster, name, ip string, server bool) *Host {
	dir := filepath.Join(c.o.Dir, name)
	return &Host{
		Name: name, IP: ip, HasServer: server, c: c, dir: dir,
		DataDir:   filepath.Join(dir, "data"),
		SocketDir: filepath.Join(dir, "run"),
		Config:    filepath.Join(dir, "pgproxy.yaml"),
		MemberLog: filepath.Join(dir, "pgproxy.log"),
		MemberDir: filepath.Join(dir, "pgproxy"),
	}
}

// makeDirs makes the directories, which belong to the servers' user: a rebuild makes
// a new data directory beside the old one.
func (h *Host) makeDirs() error {
	for _, dir := range []string{h.dir, h.SocketDir, h.MemberDir, h.confDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := h.c.own(dir); err != nil {
			return err
		}
	}
	return nil
}

// confDir is where the server's configuration lies with Options.Outside.
func (h *Host) confDir() string { return filepath.Join(h.dir, "conf") }

// own gives a path to the servers' user, which is postgres: this process is root.
func (c *Cluster) own(path string) error {
	cred := c.bin.Credential()
	if err := os.Lchown(path, int(cred.Uid), int(cred.Gid)); err != nil {
		return fmt.Errorf("give %s to the servers' user: %w", path, err)
	}
	return nil
}

// writeFile writes a file of the servers' user that nobody else reads.
func (c *Cluster) writeFile(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return c.own(path)
}

// Holds tells whether the host's kernel has the virtual address.
func (h *Host) Holds() (bool, error) { return h.Net.Has(h.c.VIP) }

// report writes the ends of the host's logs and what its member says.
func (h *Host) report(ctx context.Context, b *strings.Builder, lines int) {
	if holds, err := h.Holds(); holds {
		fmt.Fprintf(b, "holds the virtual address\n")
	} else if err != nil {
		fmt.Fprintf(b, "%v\n", err)
	}
	fmt.Fprintf(b, "processes of the server: %v; of pgproxy: %v\n", h.ServerProcesses(), h.MemberProcesses())
	if h.c.o.PCP != "" {
		for _, verb := range []string{"nodes", "watchdog", "events"} {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			out, err := h.PCP(ctx, verb)
			cancel()
			fmt.Fprintf(b, "-- pgproxy-pcp %s\n%s", verb, out)
			if err != nil {
				fmt.Fprintf(b, "%v\n", err)
			}
		}
	}
	for _, log := range h.logs() {
		fmt.Fprintf(b, "-- %s\n%s\n", log, tail(log, lines))
	}
}

// logs are those of the member and of the server: the first is of its start by us,
// the others are where its agent may put them.
func (h *Host) logs() []string {
	all := []string{h.MemberLog, h.serverLog()}
	for _, pattern := range []string{"*.log", "*/*.log"} {
		found, err := filepath.Glob(filepath.Join(h.MemberDir, pattern))
		if err == nil {
			all = append(all, found...)
		}
	}
	return all
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// PCP runs pgproxy-pcp against the host's member and returns all it prints.
func (h *Host) PCP(ctx context.Context, args ...string) (string, error) {
	cmd := h.Net.Command(ctx, h.c.o.PCP, append([]string{"--socket", h.pcpSocket()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run pgproxy-pcp %s on %s: %w: %s", strings.Join(args, " "), h.Name, err, out)
	}
	return string(out), nil
}

func (h *Host) pcpSocket() string { return filepath.Join(h.SocketDir, "pcp.sock") }

// PCPSocket is where the host's member serves operators.
func (h *Host) PCPSocket() string { return h.pcpSocket() }
