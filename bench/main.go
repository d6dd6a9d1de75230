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
	markdown string   // a document for the tables; empty: none
	targets  bool     // measure what has a target
	profile  string   // directory for profiles; empty: none are taken

	idle                int           // clients that only wait
	idleTime            time.Duration // for which they are watched
	crowd, crowdServers int           // clients that share few server connections
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
	quick := flags.Bool("quick", false, "one round of one second, fewer systems and clients: about three minutes in all")
	pattern := flags.String("run", "", "measure only the cases that this regular expression matches")
	systems := flags.String("systems", "", "measure only these, separated by commas (of "+strings.Join(systemNames(), ", ")+")")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each system runs each case; the median counts")
	flags.DurationVar(&o.duration, "duration", 3*time.Second, "of one run of pgbench, in whole seconds")
	flags.IntVar(&o.scale, "scale", 20, "scale factor of pgbench -i")
	flags.StringVar(&o.pgproxy, "pgproxy", "bin/pgproxy", "the program to measure")
	flags.StringVar(&o.output, "o", "bench.json", "file for the results in JSON")
	flags.StringVar(&o.markdown, "markdown", "", "put the tables into this document, too, between the lines that mark their place")
	flags.BoolVar(&o.targets, "targets", false, "measure only what has a target")
	flags.StringVar(&o.profile, "profile", "", "after each case take profiles of it into this directory: of pgproxy's processor time, and of each proxy's system calls where strace is installed")
	flags.IntVar(&o.idle, "idle", 10000, "clients that only wait")
	flags.IntVar(&o.crowd, "crowd", 5000, "clients that share few server connections")
	flags.IntVar(&o.crowdServers, "servers", 50, "server connections for -crowd")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.idleTime = 10 * time.Second
	if *quick {
		o.rounds, o.duration, o.idleTime = 1, time.Second, time.Second
		o.idle, o.crowd, o.crowdServers = 500, 500, 5
		if *systems == "" {
			*systems = strings.Join([]string{direct, pgbouncer, pgpool, pgproxy}, ",")
		}
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
	if err := raiseFiles(uint64(max(o.idle, o.crowd) + 2000)); err != nil {
		return err
	}
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

	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return fmt.Errorf("make directory of profiles: %w", err)
		}
	}
	report := newReport(ctx, r, o)
	for _, st := range stages(o) {
		if err := st.run(ctx, r, o, report); err != nil {
			return err
		}
	}
	report.judge(o)
	report.printTargets(os.Stdout)
	if err := report.write(o.output); err != nil || o.markdown == "" {
		return err
	}
	return report.writeMarkdown(o.markdown)
}

// raiseFiles lets this process and its children open so many files.
func raiseFiles(files uint64) error {
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	if limit.Max < files {
		return fmt.Errorf("the limit of open files is %d and cannot be raised to %d: see ulimit -Hn", limit.Max, files)
	}
	// Set explicitly, also where it is as high: the children get what was set.
	limit.Cur = max(limit.Cur, files)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	return nil
}
