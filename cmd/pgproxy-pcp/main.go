// Command pgproxy-pcp is the operator's command line: it shows what a running
// pgproxy knows and gives it orders, over the API of package pcp.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends orderly; the second one at once.
	context.AfterFunc(ctx, stop)
	signal.Ignore(syscall.SIGPIPE) // the write fails then, which is no failure of ours
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but for the process: tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand(stdout)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return report(root.ExecuteContext(ctx), stderr)
}

// report tells the operator in one line what has gone wrong and returns the exit
// status.
func report(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, syscall.EPIPE) { // whoever read has had enough
		return exitOK
	}
	fmt.Fprintf(stderr, "pgproxy-pcp: %s\n", strings.Join(strings.Fields(err.Error()), " "))
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailure
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

const rootHelp = `Show what a running pgproxy knows about its cluster, and give it orders.

Any member may be asked: what is ordered is forwarded to the leader. health, pools,
sessions, kill, profile, reload and stop are about the member that is asked.

Without flags the member on this host is asked, on its Unix socket, which serves root
and the user that pgproxy runs as. With --host or --port it is asked over TLS, where
both sides prove that they have the same secret: --secret-file names the members' own
(watchdog.secret_file), --token-file one for operators only (pcp.token_file).

Exit status: 0 done, 1 not done (one line on standard error says why), 2 the command
line cannot be understood.`

const rootExample = `  pgproxy-pcp nodes --watch
  pgproxy-pcp promote h2
  pgproxy-pcp --host h1 -o json watchdog`

// newRootCommand makes the command line. Its members share one connection.
func newRootCommand(stdout io.Writer) *cobra.Command {
	c := &console{out: stdout}
	root := &cobra.Command{
		Use:           "pgproxy-pcp",
		Short:         "The operator's command line of pgproxy",
		Long:          rootHelp,
		Example:       rootExample,
		SilenceErrors: true, // report writes them
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("no command; pgproxy-pcp --help lists them")
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usage("unknown command %q; did you mean %s?", args[0], near[0])
			}
			return usage("unknown command %q; pgproxy-pcp --help lists them", args[0])
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	c.flags(root)
	root.AddCommand(c.questions()...)
	root.AddCommand(c.orders()...)
	return root
}

// arguments is cobra's count of arguments as an error of usage.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage("%s is missing; see %s --help", names[len(args)], cmd.CommandPath())
		case len(args) > len(names):
			return usage("unexpected argument %q; see %s --help", args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}
