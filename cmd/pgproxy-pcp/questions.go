package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgproxy/pgproxy/pcp"
)

// questions are the commands that change nothing.
func (c *console) questions() []*cobra.Command {
	watch, follow := false, false
	nodes := &cobra.Command{
		Use:   "nodes",
		Short: "Show the servers: status, role, lag",
		Long: `Show the servers as the cluster has agreed on them (status, role, since), and as the
asked member sees them (timeline, lag, replication).

status: up, waiting (not seen yet), down, detached (by an operator), quarantine (only an
operator can judge it, or the asked member alone does not reach it), recovering.
LAG and AGE are the log that a standby has not replayed and an upper bound of the age
of what is read there; - stands for what is not known.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return c.watchNodes(cmd.Context())
			}
			return ask(cmd.Context(), c, (*pcp.Client).Nodes, nodesTable)
		},
	}
	nodes.Flags().BoolVarP(&watch, "watch", "w", false, "show them again at each change, until Ctrl-C; with -o json one array on each line")
	events := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened and why, oldest first",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if follow {
				return c.followEvents(cmd.Context())
			}
			return ask(cmd.Context(), c, (*pcp.Client).Events, eventLines)
		},
	}
	events.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until Ctrl-C; with -o json one event on each line")
	return []*cobra.Command{
		nodes,
		{
			Use:   "health",
			Short: "Show the health checks of the asked member and what the agents report",
			Args:  arguments(),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return ask(cmd.Context(), c, (*pcp.Client).Health, healthTable)
			},
		},
		{
			Use:   "pools",
			Short: "Show the connections of the asked member to the servers",
			Args:  arguments(),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return ask(cmd.Context(), c, (*pcp.Client).Pools, poolsTable)
			},
		},
		{
			Use:   "sessions",
			Short: "Show the clients of the asked member",
			Args:  arguments(),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return ask(cmd.Context(), c, (*pcp.Client).Sessions, sessionsTable)
			},
		},
		events,
	}
}

// ask asks a question and shows the answer.
func ask[T any](ctx context.Context, c *console, question func(*pcp.Client, context.Context) (T, error), show func(T, time.Time) string) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := question(client, ctx)
	if err != nil {
		return err
	}
	if c.json() {
		return c.value(answer, "  ")
	}
	return c.print(show(answer, time.Now()))
}

// watchNodes shows the nodes until ctx ends or nobody reads any more.
func (c *console) watchNodes(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := c.untilUnread(ctx)
	defer stop()
	screen := c.newScreen()
	err = client.WatchNodes(ctx, func(nodes []pcp.Node) error {
		if c.json() {
			return c.value(nodes, "")
		}
		return screen.draw(nodesTable(nodes, time.Now()))
	})
	return unlessEnded(ctx, err)
}

func (c *console) followEvents(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := c.untilUnread(ctx)
	defer stop()
	err = client.FollowEvents(ctx, func(e pcp.Event) error {
		if c.json() {
			return c.value(e, "")
		}
		return c.print(eventLine(e))
	})
	return unlessEnded(ctx, err)
}

// unlessEnded returns the error of a stream that was not ended by its reader.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}
