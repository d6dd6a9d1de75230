package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	rounds   int
	duration time.Duration // of one run of pgbench
	scale    int           // of pgbench -i
	cases    *regexp.Regexp
	systems  []string // empty: all
	pgproxy  string   // the program to measure
	output   string   // the JSON file

	crowd, crowdServers int // clients and server connections; 0: everything but that
}

func main() {
	// Every child dies with the thread that started it (Pdeathsig). This one lives as
	// long as the process, and all children are started from here.
	runtime.LockOSThread()

	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "one round of one second: about three minutes in all")
	pattern := flags.String("run", "", "measure only the cases that this regular expression matches")
	systems := flags.String("systems", "", "measure only these, separated by commas (of "+strings.Join(systemNames(), ", ")+")")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each system runs each case; the median counts")
	flags.DurationVar(&o.duration, "duration", 3*time.Second, "of one run of pgbench, in whole seconds")
	flags.IntVar(&o.scale, "scale", 20, "scale factor of pgbench -i")
	flags.StringVar(&o.pgproxy, "pgproxy", "bin/pgproxy", "the program to measure")
	flags.StringVar(&o.output, "o", "bench.json", "file for the results in JSON")
	flags.IntVar(&o.crowd, "crowd", 0, "measure only this: so many clients on few server connections, beside PgBouncer")
	flags.IntVar(&o.crowdServers, "servers", 50, "server connections for -crowd")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		o.rounds, o.duration = 1, time.Second
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.rounds < 1 || o.duration < time.Second || o.scale < 1 {
		return o, errors.New("rounds and scale must be at least 1, duration at least 1s")
	}
	var err error
	if o.cases, err = regexp.Compile(*pattern); err != nil {
		return o, fmt.Errorf("parse -run: %w", err)
	}
	if *systems != "" {
		o.systems = strings.Split(*systems, ",")
	}
	for _, name := range o.systems {
		if !slices.Contains(systemNames(), name) {
			return o, fmt.Errorf("no system is named %q", name)
		}
	}
	return o, nil
}

// run measures everything and takes everything down, whatever happens.
func run(ctx context.Context, o options) (err error) {
	// Package pgtest keeps things for later runs in the temporary directory; of this
	// one nothing stays.
	dir, err := os.MkdirTemp("", "pgproxy-bench-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("open directory to the servers' user: %w", err)
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return fmt.Errorf("set TMPDIR: %w", err)
	}
	r, err := newRig(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(context.WithoutCancel(ctx))) }()

	if o.crowd > 0 {
		return measureCrowd(ctx, r, o)
	}
	report := newReport(ctx, r, o)
	if err := measureIdle(ctx, r, o, report); err != nil {
		return err
	}
	systems, err := r.startAll(ctx, o.systems)
	if err != nil {
		return err
	}
	for _, c := range cases() {
		if !o.cases.MatchString(c.name) {
			continue
		}
		for round := range o.rounds {
			// Whoever runs right after the load of another has an advantage or not;
			// each has each place as often as the rounds allow.
			for i := range systems {
				s := systems[(i+round)%len(systems)]
				if err := r.settle(ctx); err != nil {
					return err
				}
				m := measureCase(ctx, r, s, c, o)
				if err := ctx.Err(); err != nil {
					return err
				}
				report.add(c.name, c.unit, s.name, m)
			}
		}
		report.print(os.Stdout, c.name)
	}
	return report.write(o.output)
}
