package failover

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/test/failover/installation"
	"github.com/pgproxy/pgproxy/test/failover/scenario"
)

// startTimeout bounds the start of an installation on a loaded machine.
const startTimeout = 2 * time.Minute

// reportLines is how much of each log a failed test shows.
const reportLines = 80

// programs are built once for all tests.
var programs installation.Programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "pgproxy-failover-")
		if err == nil {
			defer os.RemoveAll(dir)
			programs, err = installation.Build(context.Background(), dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// start starts an installation that ends with the test, and reports when that has failed.
func start(ctx context.Context, t *testing.T, o rig.Options) *installation.Installation {
	t.Helper()
	in, err := installation.Start(ctx, programs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(in.Report(context.WithoutCancel(ctx), reportLines))
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	return in
}

func TestThreeHosts(t *testing.T) { runAll(t, rig.Options{Servers: 3}) }

func TestTwoHostsAndWitness(t *testing.T) { runAll(t, rig.Options{Servers: 2, Witness: true}) }

// runAll runs every scenario that the number of servers allows: on one installation
// as long as nothing fails, for each leaves it as it should be.
func runAll(t *testing.T, o rig.Options) {
	var in *installation.Installation
	stop := func() {
		if in != nil {
			if err := in.Close(); err != nil {
				t.Error(err)
			}
			in = nil
		}
	}
	t.Cleanup(stop)
	for i, s := range scenario.All() {
		if o.Servers < s.Servers {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			o := o
			if s.Rig != nil {
				stop()
				defer stop()
				s.Rig(&o)
			}
			if in == nil {
				ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
				defer cancel()
				var err error
				if in, err = installation.Start(ctx, programs, o); err != nil {
					t.Fatal(err)
				}
			}
			res, err := s.Execute(t.Context(), in.Cluster, i, t.Logf)
			t.Log(&res)
			if err != nil {
				t.Errorf("%s: %v", s.What, err)
				t.Log(in.Report(context.WithoutCancel(t.Context()), reportLines))
				stop()
			}
		})
	}
}
