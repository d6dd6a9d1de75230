package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/pcp"
)

// demoAction is something that another terminal does to a running demo. It returns
// what was done and what is to be seen.
type demoAction struct {
	use   string
	short string
	host  bool // it takes the name of a host
	do    func(ctx context.Context, c *rig.Cluster, h *rig.Host, out io.Writer) error
}

func demoActions() []*cobra.Command {
	var all []*cobra.Command
	for _, a := range []demoAction{
		{"status", "Show each host: its server, its pgproxy, who holds the address", false, demoStatus},
		{"watch", "Write a row each 50 ms through the address, and tell when none was acknowledged", false, demoWatch},
		{"kill-primary", "kill -9 of the primary's postmaster", false, onPrimary((*rig.Host).KillServer,
			"its postmaster is killed; another server is promoted, this one comes back as a standby")},
		{"freeze-primary", "SIGSTOP of all processes of the primary", false, onPrimary((*rig.Host).FreezeServer,
			"its processes are frozen; another server is promoted, this one is killed and comes back as a standby")},
		{"kill-leader", "kill -9 of the pgproxy that leads", false, onLeader((*rig.Host).KillMember,
			"its pgproxy is killed; another leads, and has the address; it is started again after "+demoRestart.String())},
		{"freeze-leader", "SIGSTOP of the pgproxy that leads", false, onLeader((*rig.Host).FreezeMember,
			"its pgproxy is frozen; another leads, and has the address; thaw it by: pgproxy demo thaw HOST")},
		{"thaw", "SIGCONT of the pgproxy and the server of a host", true, demoThaw},
		{"cut", "Cut a host off: its switch port forwards nothing", true, demoCut},
		{"heal", "End cut", true, demoHeal},
		{"wipe", "Kill the server of a host and delete its data directory", true, demoWipe},
		{"promote", "Make the server of a host the primary (pgproxy-pcp promote)", true, demoPromote},
		{"recover", "Build the server of a host anew (pgproxy-pcp recover)", true, demoRecover},
	} {
		all = append(all, a.command())
	}
	return all
}

func (a demoAction) command() *cobra.Command {
	use := a.use
	if a.host {
		use += " HOST"
	}
	return &cobra.Command{
		Use: use, Short: a.short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.host != (len(args) == 1) || len(args) > 1 {
				return usageError{fmt.Errorf("usage: pgproxy demo %s", use)}
			}
			c, err := openDemo()
			if err != nil {
				return err
			}
			var h *rig.Host
			if a.host {
				if h = c.Host(args[0]); h == nil {
					return usageError{fmt.Errorf("no host %q; there are %s", args[0], hostNames(c))}
				}
			}
			return a.do(cmd.Context(), c, h, cmd.OutOrStdout())
		},
	}
}

func hostNames(c *rig.Cluster) string {
	var names []string
	for _, h := range c.Hosts {
		names = append(names, h.Name)
	}
	return strings.Join(names, ", ")
}

// demoAskTimeout bounds a question to a host that may be frozen.
const demoAskTimeout = time.Second

// onPrimary does something to the primary's host.
func onPrimary(f func(*rig.Host) error, what string) func(context.Context, *rig.Cluster, *rig.Host, io.Writer) error {
	return func(ctx context.Context, c *rig.Cluster, _ *rig.Host, out io.Writer) error {
		ctx, cancel := context.WithTimeout(ctx, demoAskTimeout)
		defer cancel()
		primaries := c.Primaries(ctx)
		if len(primaries) != 1 {
			return fmt.Errorf("there are %d primaries now; see pgproxy demo status", len(primaries))
		}
		return announce(out, primaries[0], f(primaries[0]), what)
	}
}

// onLeader does something to the leader's host.
func onLeader(f func(*rig.Host) error, what string) func(context.Context, *rig.Cluster, *rig.Host, io.Writer) error {
	return func(ctx context.Context, c *rig.Cluster, _ *rig.Host, out io.Writer) error {
		leader := c.Leader(ctx)
		if leader == nil {
			return errors.New("no pgproxy leads now; see pgproxy demo status")
		}
		return announce(out, leader, f(leader), what)
	}
}

func announce(out io.Writer, h *rig.Host, err error, what string) error {
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s: %s\n", h.Name, what); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

func demoThaw(_ context.Context, _ *rig.Cluster, h *rig.Host, out io.Writer) error {
	err := h.ThawServer()
	if len(h.MemberProcesses()) > 0 {
		err = errors.Join(err, h.ThawMember())
	}
	return announce(out, h, err, "what was frozen goes on")
}

func demoCut(_ context.Context, _ *rig.Cluster, h *rig.Host, out io.Writer) error {
	return announce(out, h, h.Net.Cut(), "it is cut off; what it had goes to the others; heal it by: pgproxy demo heal "+h.Name)
}

func demoHeal(_ context.Context, _ *rig.Cluster, h *rig.Host, out io.Writer) error {
	return announce(out, h, h.Net.Heal(), "it is linked again; its server rejoins as a standby")
}

func demoWipe(_ context.Context, _ *rig.Cluster, h *rig.Host, out io.Writer) error {
	return announce(out, h, h.DeleteData(), "its data directory is gone; build it anew by: pgproxy demo recover "+h.Name)
}

// demoAsk gives an operator's order to the first member that answers.
func demoAsk(ctx context.Context, c *rig.Cluster, order func(*pcp.Client) (string, error)) (said string, err error) {
	// The leader first: it does what the others would only pass on.
	hosts := slices.Clone(c.Hosts)
	if leader := c.Leader(ctx); leader != nil {
		hosts = append([]*rig.Host{leader}, hosts...)
	}
	for _, h := range hosts {
		client, clientErr := pcp.NewClient(pcp.Target{Socket: h.PCPSocket()})
		if clientErr != nil {
			return "", fmt.Errorf("ask pgproxy on %s: %w", h.Name, clientErr)
		}
		asking, cancel := context.WithTimeout(ctx, demoAskTimeout)
		_, err = client.Watchdog(asking)
		cancel()
		if err != nil {
			client.Close()
			continue
		}
		said, err = order(client)
		client.Close()
		return said, err
	}
	return "", fmt.Errorf("no pgproxy answers: %w", err)
}

func demoPromote(ctx context.Context, c *rig.Cluster, h *rig.Host, out io.Writer) error {
	said, err := demoAsk(ctx, c, func(client *pcp.Client) (string, error) {
		return client.Promote(ctx, h.Name, func(e pcp.Event) error {
			_, err := fmt.Fprintln(out, e.Text)
			return err
		})
	})
	return announce(out, h, err, said)
}

func demoRecover(ctx context.Context, c *rig.Cluster, h *rig.Host, out io.Writer) error {
	said, err := demoAsk(ctx, c, func(client *pcp.Client) (string, error) {
		return client.Recover(ctx, h.Name, false, func(p pcp.Progress) error {
			done := ""
			if p.Progress != nil {
				done = fmt.Sprintf("%.0f%% ", 100**p.Progress)
			}
			_, err := fmt.Fprintf(out, "%s %s%s\n", p.Task, done, p.Detail)
			return err
		})
	})
	return announce(out, h, err, said)
}
