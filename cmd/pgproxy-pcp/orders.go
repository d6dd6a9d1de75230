package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/pcp"
)

// orders are the commands that change something.
func (c *console) orders() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "attach NODE",
			Short: "Take a detached server into use again",
			Long: `Take a server that was detached by an operator into use again, as soon as it is seen to
work. A server that was lost and is back needs no order.`,
			Args: arguments("NODE"),
			RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
				return client.Attach(ctx, args[0])
			}),
		},
		{
			Use:   "detach NODE",
			Short: "Take a standby out of use, for maintenance",
			Long: `Take a standby out of use until attach: it gets no reads and is no candidate. The server
itself runs on. The primary cannot be detached: promote another server first.`,
			Args: arguments("NODE"),
			RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
				return client.Detach(ctx, args[0])
			}),
		},
		c.recoverCommand(),
		c.promoteCommand(),
		{
			Use:   "failover on|off",
			Short: "Switch failover on or off",
			Long: `With failover off the cluster does not replace a lost primary. What is under way goes on,
and promote still works. The setting holds for all members, until it is changed again.`,
			ValidArgs: []string{"on", "off"},
			Args: func(cmd *cobra.Command, args []string) error {
				if err := arguments("on or off")(cmd, args); err != nil {
					return err
				}
				if args[0] != "on" && args[0] != "off" {
					return usage("%q, want on or off", args[0])
				}
				return nil
			},
			RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
				return client.SetFailover(ctx, args[0] == "on")
			}),
		},
		c.pauseCommand(),
		{
			Use:   "resume",
			Short: "End a pause: what was held runs",
			Args:  arguments(),
			RunE: c.order(func(ctx context.Context, client *pcp.Client, _ []string) (string, error) {
				return client.Resume(ctx)
			}),
		},
		c.watchdogCommand(),
		c.vipCommand(),
		{
			Use:   "kill SESSION",
			Short: "End a session of the asked member",
			Long:  "End a client's session on the asked member. Its number is the ID that sessions shows.",
			Args: func(cmd *cobra.Command, args []string) error {
				if err := arguments("SESSION")(cmd, args); err != nil {
					return err
				}
				if _, err := strconv.ParseUint(args[0], 10, 64); err != nil {
					return usage("%q is not the number of a session", args[0])
				}
				return nil
			},
			RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
				id, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil {
					return "", fmt.Errorf("parse session: %w", err)
				}
				return client.Kill(ctx, id)
			}),
		},
		c.profileCommand(),
		{
			Use:   "reload",
			Short: "Have the asked member read its configuration file again",
			Long: `Have the pgproxy that is asked read its configuration file, its HBA file and password files
again, as SIGHUP does. A file with a fault changes nothing. The answer names the keys that
have changed and those that count only after a restart.`,
			Args: arguments(),
			RunE: c.order(func(ctx context.Context, client *pcp.Client, _ []string) (string, error) {
				return client.Reload(ctx)
			}),
		},
		{
			Use:   "stop",
			Short: "Stop the asked member in good order",
			Long: `Stop the pgproxy that is asked: its addresses move to another member, its clients are told
to leave between their transactions, and leadership is handed over. The PostgreSQL server of
its host runs on.`,
			Args: arguments(),
			RunE: c.order(func(ctx context.Context, client *pcp.Client, _ []string) (string, error) {
				return client.Stop(ctx)
			}),
		},
	}
}

// order returns a RunE that gives an order and says what it led to.
func (c *console) order(give func(context.Context, *pcp.Client, []string) (string, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := c.client()
		if err != nil {
			return err
		}
		defer client.Close()
		sentence, err := give(cmd.Context(), client, args)
		if err != nil {
			return err
		}
		return c.done(sentence)
	}
}

func (c *console) watchdogCommand() *cobra.Command {
	witness := false
	add := &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "Add a member",
		Long: `Add a voter to the watchdog. NAME and ADDRESS (host:port) are the name and watchdog.listen
of its configuration file. Write it into the other members' files too.`,
		Example: "  pgproxy-pcp watchdog add h4 10.77.0.14:9000",
		Args:    arguments("NAME", "ADDRESS"),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
			return client.AddMember(ctx, args[0], args[1], witness)
		}),
	}
	add.Flags().BoolVar(&witness, "witness", false, "it votes and probes, and never holds an address")
	remove := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a member",
		Long: `Remove a member from the watchdog, for good. Stop it first when it still runs. Take it out
of the other members' files too.`,
		Args: arguments("NAME"),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
			return client.RemoveMember(ctx, args[0])
		}),
	}
	watchdog := &cobra.Command{
		Use:   "watchdog",
		Short: "Show the members, or add or remove one",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), c, (*pcp.Client).Watchdog, watchdogTable)
		},
	}
	watchdog.AddCommand(add, remove)
	return watchdog
}

func (c *console) vipCommand() *cobra.Command {
	vip := &cobra.Command{
		Use:   "vip",
		Short: "Move a virtual address to another member",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			return usage("want vip move ADDRESS MEMBER; watchdog shows who holds which")
		},
	}
	vip.AddCommand(&cobra.Command{
		Use:     "move ADDRESS MEMBER",
		Short:   "Move a virtual address to another member",
		Long:    "Move a virtual address, with or without the length of its prefix, to a member. It stays\nthere until that member cannot hold it any more.",
		Example: "  pgproxy-pcp vip move 10.77.0.100 h2",
		Args:    arguments("ADDRESS", "MEMBER"),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
			return client.MoveAddress(ctx, args[0], args[1])
		}),
	})
	return vip
}

func (c *console) promoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "promote NODE",
		Short: "Make a standby the primary and the primary a standby (switchover)",
		Long: `Make NODE the primary: statements are held, the old primary is stopped cleanly, NODE is
promoted when it has everything, and the old primary follows it. Nothing acknowledged is
lost. When NODE does not get everything in time, the old primary is started again and the
command fails. It shows each step and waits for the end; Ctrl-C ends only the waiting.`,
		Args: arguments("NODE"),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
			sentence, err := client.Promote(ctx, args[0], func(e pcp.Event) error {
				if c.json() {
					return c.value(e, "")
				}
				return c.print(eventLine(e))
			})
			return sentence, left(ctx, err, "the switchover")
		}),
	}
}

func (c *console) pauseCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Let nothing new begin on the primary, on any member, until resume",
		Long: `Have statements and transactions that need the primary wait, on every member. What runs
there goes on, and so do reads on standbys. Clients can connect. A statement that has
waited for hold.timeout is answered 57P03. A failover during a pause works.

The command returns when the pause is in force on the asked member and says how many
transactions still run through it; with --wait it returns when none does.`,
		Example: "  pgproxy-pcp pause --wait 30s",
		Args:    arguments(),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, _ []string) (string, error) {
			if wait < 0 {
				return "", usage("--wait %v is negative", wait)
			}
			sentence, err := client.Pause(ctx, wait)
			return sentence, left(ctx, err, "the pause")
		}),
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait that long for the transactions that run; exit 1 when some still do")
	return cmd
}

func (c *console) profileCommand() *cobra.Command {
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "profile FILE",
		Short: "Write what the processor time of the asked member goes into",
		Long: `Watch for some seconds where the pgproxy that is asked spends its processor time, which
costs it a few percent, and write the profile into FILE, for go tool pprof.`,
		Example: "  pgproxy-pcp profile --for 30s cpu.pprof\n  go tool pprof -top cpu.pprof",
		Args:    arguments("FILE"),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
			if length <= 0 {
				return "", usage("--for %v is not positive", length)
			}
			return client.Profile(ctx, length, func(profile []byte) error {
				if err := os.WriteFile(args[0], profile, 0o644); err != nil {
					return fmt.Errorf("write profile: %w", err)
				}
				return nil
			})
		}),
	}
	cmd.Flags().DurationVar(&length, "for", 10*time.Second, "how long to watch")
	return cmd
}

func (c *console) recoverCommand() *cobra.Command {
	inPlace := false
	cmd := &cobra.Command{
		Use:   "recover NODE",
		Short: "Rebuild a server as a standby, by a base backup from the primary",
		Long: `Rebuild the server of NODE with pg_basebackup from the primary. The new data directory is
made beside the old one, which is removed only when the new standby streams. The
configuration files of the server are kept. The command shows how far it is and waits for
the end; Ctrl-C ends only the waiting.`,
		Args: arguments("NODE"),
		RunE: c.order(func(ctx context.Context, client *pcp.Client, args []string) (string, error) {
			bar := c.newBar(args[0])
			sentence, err := client.Recover(ctx, args[0], inPlace, bar.show)
			if err := bar.end(); err != nil {
				return "", err
			}
			return sentence, left(ctx, err, "the recovery")
		}),
	}
	cmd.Flags().BoolVar(&inPlace, "in-place", false, "remove the old data first: where there is no room for both, or the directory is a mount point")
	return cmd
}

// left says that what was ordered goes on, when it was only the waiting that
// ended.
func left(ctx context.Context, err error, what string) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s goes on if it had begun; events --follow shows how", what)
	case errors.Is(err, pcp.ErrInterrupted):
		return fmt.Errorf("%w: %s goes on if it had begun; events --follow shows how", err, what)
	}
	return err
}

// eventLine is one event.
func eventLine(e pcp.Event) string {
	subject := e.Backend
	if subject != "" {
		subject += ": "
	}
	return e.At.Local().Format("2006-01-02 15:04:05.000") + "  " + subject + printable(e.Text) + "\n"
}

func eventLines(events []pcp.Event, _ time.Time) string {
	text := ""
	for _, e := range events {
		text += eventLine(e)
	}
	return text
}
