package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// runCommand runs one member until its context ends.
type runCommand struct {
	ConfigFile string
	Stderr     io.Writer        // of the log
	Hangup     <-chan os.Signal // has the file read again

	ready chan struct{}
}

// newRunCommand returns a command that logs to standard error.
func newRunCommand(configFile string) *runCommand {
	return &runCommand{ConfigFile: configFile, Stderr: os.Stderr, ready: make(chan struct{})}
}

func newRunCobraCommand() *cobra.Command {
	c := newRunCommand("")
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the proxy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Stderr = cmd.ErrOrStderr()
			hangup := make(chan os.Signal, 1) // one that waits stands for all
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			c.Hangup = hangup
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&c.ConfigFile, "config", "c", "", "the configuration file (required)")
	return cmd
}

// Ready is closed when clients can connect.
func (c *runCommand) Ready() <-chan struct{} { return c.ready }

// Run reads and checks the configuration before it opens anything, and returns
// nil after an orderly stop.
func (c *runCommand) Run(ctx context.Context) error {
	f, err := readConfig(c.ConfigFile)
	if err != nil {
		return err
	}
	if len(f.Faults) > 0 {
		return f.Faults
	}
	log, level := newLogger(f.Config.Log, c.Stderr)
	for _, w := range f.Warnings {
		log.Warn(w.Error())
	}
	m, err := newMember(f.Config, log, level)
	if err != nil {
		return err
	}
	m.reloader = newReloader(m, f, c.Hangup)
	return m.run(ctx, c.ready)
}
