// Package installation builds the programs and starts a cluster of package rig in a
// directory of its own, for the tests and for the measuring.
package installation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// reportLines is how much of each log an installation shows that does not start.
const reportLines = 40

// Programs are the paths of the built ones.
type Programs struct{ Proxy, PCP string }

// Build builds them into a directory, as they are released.
func Build(ctx context.Context, dir string) (Programs, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/",
		"github.com/pgproxy/pgproxy/cmd/pgproxy", "github.com/pgproxy/pgproxy/cmd/pgproxy-pcp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Programs{}, fmt.Errorf("build pgproxy: %w\n%s", err, out)
	}
	return Programs{Proxy: filepath.Join(dir, "pgproxy"), PCP: filepath.Join(dir, "pgproxy-pcp")}, nil
}

// Installation is a cluster with its directory.
type Installation struct {
	*rig.Cluster
	dir string
}

// Start starts a cluster and waits until it is ready. The caller must Close it.
func Start(ctx context.Context, p Programs, o rig.Options) (*Installation, error) {
	dir, err := os.MkdirTemp("", "pgproxy-rig-") // short: sockets lie in it
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	in := &Installation{dir: dir}
	o.Dir, o.Binary, o.PCP = dir, p.Proxy, p.PCP
	if in.Cluster, err = rig.New(ctx, o); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := in.Cluster.Start(ctx); err != nil {
		report := in.Report(context.WithoutCancel(ctx), reportLines)
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, report), in.Close())
	}
	return in, nil
}

// Close ends and removes everything.
func (in *Installation) Close() error {
	err := in.Cluster.Close()
	if removeErr := os.RemoveAll(in.dir); removeErr != nil {
		err = errors.Join(err, fmt.Errorf("remove installation: %w", removeErr))
	}
	return err
}
