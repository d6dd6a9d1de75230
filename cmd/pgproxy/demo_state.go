package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

const (
	// demoStateDir has a file for each running demo, that only root reads.
	demoStateDir = "/run/pgproxy-demo"
	// demoStateVariable is set for the command of --exec: its own demo comes first.
	demoStateVariable = "PGPROXY_DEMO"
)

// demoStateFile is the state of the demo that this process runs.
func demoStateFile(pid int) string {
	return filepath.Join(demoStateDir, strconv.Itoa(pid)+".json")
}

// runningDemos returns the states of the demos whose process lives, and of those
// whose process is gone.
func runningDemos() (alive, dead []string, err error) {
	found, err := filepath.Glob(filepath.Join(demoStateDir, "*.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("look for demos: %w", err)
	}
	for _, file := range found {
		pid, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".json"))
		switch {
		case err != nil:
		case errors.Is(syscall.Kill(pid, 0), syscall.ESRCH):
			dead = append(dead, file)
		default:
			alive = append(alive, file)
		}
	}
	return alive, dead, nil
}

// sweepDemos removes the files of demos that were killed. Their hosts go with the
// next lab that is made.
func sweepDemos() error {
	_, dead, err := runningDemos()
	if err != nil {
		return err
	}
	for _, file := range dead {
		if c, err := rig.Open(file); err == nil {
			if err := c.Close(); err != nil {
				return err
			}
		}
		if dir, err := rig.SavedDir(file); err == nil && strings.HasPrefix(filepath.Base(dir), "pgproxy-demo-") {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove the files of a demo that was killed: %w", err)
			}
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove the state of a demo that was killed: %w", err)
		}
	}
	return nil
}

// openDemo opens the running demo.
func openDemo() (*rig.Cluster, error) {
	if err := needRoot("the hosts' network namespaces"); err != nil {
		return nil, err
	}
	if file := os.Getenv(demoStateVariable); file != "" {
		return rig.Open(file)
	}
	alive, _, err := runningDemos()
	switch {
	case err != nil:
		return nil, err
	case len(alive) == 0:
		return nil, errors.New("no demo runs; start one by: pgproxy demo")
	case len(alive) > 1:
		return nil, fmt.Errorf("%d demos run; say which one by %s=%s", len(alive), demoStateVariable, alive[0])
	}
	return rig.Open(alive[0])
}
