// Command measure runs the client programs of test/clients through many failovers and
// switchovers, against pgproxy and, for comparison, pgpool-II, and prints what they
// have seen side by side. It needs root.
//
//	go run ./test/clients/measure -clients 200 -failovers 20 -switchovers 20 -pool transaction -target pgproxy,pgpool
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

	"github.com/pgproxy/pgproxy/test/clients"
	"github.com/pgproxy/pgproxy/test/failover/installation"
)

// errViolated stands for what has been printed.
var errViolated = errors.New("clients of pgproxy have seen what they must not")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o clients.Options
	flag.IntVar(&o.Clients, "clients", 200, "clients in all")
	flag.DurationVar(&o.Pace, "pace", 500*time.Millisecond, "of each client, from the end of a statement to the next one")
	flag.IntVar(&o.Failovers, "failovers", 5, "how often the primary is killed")
	flag.IntVar(&o.Switchovers, "switchovers", 5, "how often another primary is ordered")
	flag.StringVar(&o.Pool, "pool", "transaction", "pool.mode of pgproxy")
	flag.IntVar(&o.PoolSize, "size", 20, "pool.size of pgproxy")
	flag.BoolVar(&o.Asynchronous, "async", false, "without a synchronous standby")
	flag.BoolVar(&o.Patient, "patient", false, "timers for a machine that is too slow for so many clients")
	flag.StringVar(&o.Sections, "config", "", "further content of pgproxy.yaml")
	flag.StringVar(&o.LogLevel, "log", "info", "log.level of pgproxy")
	flag.StringVar(&o.Events, "events", "", "a file for all that the clients have seen, of the last target")
	flag.StringVar(&o.Logs, "logs", "", "a directory for the logs of pgproxy")
	targets := flag.String("target", clients.Pgproxy, "what to measure, separated by commas: "+clients.Pgproxy+", "+clients.Pgpool)
	bin := flag.String("bin", "", "a directory with the built programs; empty: build them")
	flag.Parse()
	o.Log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	dir, err := os.MkdirTemp("", "pgproxy-measure-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	o.Programs = installation.Programs{Proxy: filepath.Join(*bin, "pgproxy"), PCP: filepath.Join(*bin, "pgproxy-pcp")}
	if *bin == "" {
		if o.Programs, err = installation.Build(ctx, dir); err != nil {
			return err
		}
	}
	var results []*clients.Result
	for target := range strings.SplitSeq(*targets, ",") {
		o.Target = target
		r, err := clients.Run(ctx, o)
		if err != nil {
			clients.Print(os.Stdout, results) // those of the others stand
			return fmt.Errorf("%s: %w", target, err)
		}
		results = append(results, r)
	}
	clients.Print(os.Stdout, results)
	return violated(results)
}

// violated prints what pgproxy's clients must not have seen. Others are only compared.
func violated(results []*clients.Result) error {
	for _, r := range results {
		if r.Target != clients.Pgproxy || len(r.Violations) == 0 {
			continue
		}
		fmt.Printf("\nwhat clients of %s must not see:\n  %s\n", r.Target, strings.Join(r.Violations, "\n  "))
		return errViolated
	}
	return nil
}
