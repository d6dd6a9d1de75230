package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The rig itself: servers that replicate between hosts, broken and looked at. What
// pgproxy makes of it is tested in test/failover.

// startServers makes a cluster whose servers run and whose members do not.
func startServers(t *testing.T, o Options) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	o.Binary = filepath.Join(t.TempDir(), "pgproxy")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", o.Binary, "github.com/pgproxy/pgproxy/cmd/pgproxy").CombinedOutput(); err != nil {
		t.Fatalf("build pgproxy: %v\n%s", err, out)
	}
	o.Dir = dir
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.StartServers(ctx); err != nil {
		t.Fatalf("%v\n%s", err, c.Report(context.Background(), 20))
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, Poll(ctx, what, ask))
}

func TestServersReplicateBetweenHosts(t *testing.T) {
	for name, o := range map[string]Options{
		"three":                               {},
		"two and a witness, config elsewhere": {Servers: 2, Witness: true, Outside: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := startServers(t, o)
			if p := c.Primaries(t.Context()); len(p) != 1 || p[0].Name != "h1" {
				t.Errorf("%d primaries, want h1", len(p))
			}
			h1, h2 := c.Host("h1"), c.Host("h2")
			must(t, h1.Exec(t.Context(), "CREATE TABLE t AS SELECT 42 AS n"))
			await(t, "the standby has the row", func(ctx context.Context) error {
				n, err := h2.Query(ctx, "SELECT n FROM t")
				if err == nil && n != "42" {
					err = fmt.Errorf("got %q", n)
				}
				return err
			})
		})
	}
}

func TestServersBreak(t *testing.T) {
	c := startServers(t, Options{Servers: 2})
	h1, h2 := c.Host("h1"), c.Host("h2")
	must(t, h1.FreezeServer())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := h1.Query(ctx, "SELECT 1"); err == nil {
		t.Error("a frozen server answers")
	}
	must(t, h1.ThawServer())
	await(t, "it answers again", func(ctx context.Context) error { return h1.Exec(ctx, "SELECT 1") })

	// Another process finds the same, and breaks it.
	state := filepath.Join(t.TempDir(), "state")
	must(t, c.Save(state))
	opened, err := Open(state)
	must(t, err)
	must(t, opened.Host("h2").KillServer())
	await(t, "all processes of h2's server are gone", func(context.Context) error {
		if pids := h2.ServerProcesses(); len(pids) > 0 {
			return fmt.Errorf("there are %v", pids)
		}
		return nil
	})
	if h2.ServerRuns() || !h1.ServerRuns() {
		t.Error("it is h2's server alone that should not run")
	}
	if err := h2.KillServer(); err == nil {
		t.Error("a server that does not run is killed")
	}
	must(t, h2.DeleteData())
	must(t, h1.StopServer(t.Context(), "fast"))
}

// A member runs as the user postgres, with the two capabilities and no others.
func TestMembersHaveTheirRightsAndNoMore(t *testing.T) {
	c := startServers(t, Options{Servers: 1})
	h1 := c.Host("h1")
	must(t, h1.StartMember())
	await(t, "the member runs", func(context.Context) error {
		if len(h1.MemberProcesses()) != 1 {
			return fmt.Errorf("processes %v\n%s", h1.MemberProcesses(), tail(h1.MemberLog, 20))
		}
		return nil
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h1.MemberProcesses()[0]))
	must(t, err)
	const want = "CapEff:\t0000000000003000" // CAP_NET_ADMIN is 12, CAP_NET_RAW is 13
	if !slices.Contains(strings.Split(string(status), "\n"), want) {
		t.Errorf("status of the member has no line %q:\n%s", want, status)
	}
	must(t, h1.KillMember())
	<-h1.MemberEnded()
	if err := h1.KillMember(); err == nil {
		t.Error("a member that does not run is killed")
	}
}
