// Command measure runs the scenarios of test/failover many times and prints for each
// the median and the worst of the longest time without an acknowledged write, and
// what was lost. It needs root.
//
//	go run ./test/failover/measure -n 10 -scenario kill-primary,cut-host -witness
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/test/failover/installation"
	"github.com/pgproxy/pgproxy/test/failover/scenario"
)

// startTimeout bounds the start of an installation.
const startTimeout = 2 * time.Minute

// errFailed stands for what has been printed.
var errFailed = errors.New("a scenario has failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

type options struct {
	runs    int
	names   string
	keep    bool
	verbose bool
	bin     string
	report  bool
	rig     rig.Options
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.runs, "n", 10, "runs of each scenario")
	flag.StringVar(&o.names, "scenario", "", "which ones, by comma; empty: all")
	flag.BoolVar(&o.keep, "keep-going", false, "go on after a failed run, on a new installation")
	flag.BoolVar(&o.verbose, "v", false, "print every run")
	flag.BoolVar(&o.report, "report", false, "print the logs of every run, not only of those that fail")
	flag.StringVar(&o.bin, "bin", "", "a directory with the built programs; empty: build them")
	flag.IntVar(&o.rig.Servers, "servers", 3, "hosts with a server")
	flag.BoolVar(&o.rig.Witness, "witness", false, "and one that only votes")
	flag.StringVar(&o.rig.LogLevel, "log", "info", "log.level of the members")
	flag.StringVar(&o.rig.Sections, "config", "", "further content of pgproxy.yaml")
	flag.Parse()
	dir, err := os.MkdirTemp("", "pgproxy-measure-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	programs := installation.Programs{Proxy: filepath.Join(o.bin, "pgproxy"), PCP: filepath.Join(o.bin, "pgproxy-pcp")}
	if o.bin == "" {
		if programs, err = installation.Build(ctx, dir); err != nil {
			return err
		}
	}
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	failed := false
	for _, s := range chosen {
		t := &table{scenario: s}
		if err := t.run(ctx, programs, o); err != nil {
			if !errors.Is(err, errFailed) {
				return err
			}
			failed = true
		}
		fmt.Print(t)
	}
	if failed {
		return errFailed
	}
	return nil
}

// choose returns the scenarios that are named and that the installation can run.
func choose(o options) ([]scenario.Scenario, error) {
	var chosen []scenario.Scenario
	if o.names != "" {
		for name := range strings.SplitSeq(o.names, ",") {
			s, err := scenario.Find(name)
			if err != nil {
				return nil, err
			}
			chosen = append(chosen, s)
		}
		return chosen, nil
	}
	for _, s := range scenario.All() {
		if o.rig.Servers >= s.Servers {
			chosen = append(chosen, s)
		}
	}
	return chosen, nil
}
