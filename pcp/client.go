package pcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Event is one line of the cluster's history.
type Event = cluster.Event

// Bounds of what a server may take. Both are above what a server that works needs.
const (
	answerTimeout = 30 * time.Second
	silence       = 3 * aliveEvery // of a stream
	maxAnswer     = 64 << 20
)

// ErrInterrupted is a stream that ended without having said how. What was ordered
// goes on.
var ErrInterrupted = errors.New("the connection to pgproxy has ended")

// Client asks one member. It may be used by several goroutines.
type Client struct {
	http   *http.Client
	base   string
	server string // for messages
	token  string
}

// Nodes returns the backends.
func (c *Client) Nodes(ctx context.Context) (nodes []Node, err error) {
	return nodes, c.get(ctx, "nodes", &nodes)
}

// WatchNodes calls see with the backends, now and when they have changed, until
// ctx ends, see fails or the server stops.
func (c *Client) WatchNodes(ctx context.Context, see func([]Node) error) error {
	_, err := stream(ctx, c, http.MethodGet, "nodes?watch=1", nil, see)
	return err
}

// Watchdog returns the members.
func (c *Client) Watchdog(ctx context.Context) (w Watchdog, err error) {
	return w, c.get(ctx, "watchdog", &w)
}

// Health returns what is known about each backend.
func (c *Client) Health(ctx context.Context) (all []Health, err error) {
	return all, c.get(ctx, "health", &all)
}

// Pools returns the pools of the asked member.
func (c *Client) Pools(ctx context.Context) (all []Pool, err error) {
	return all, c.get(ctx, "pools", &all)
}

// Sessions returns the clients of the asked member.
func (c *Client) Sessions(ctx context.Context) (all []Session, err error) {
	return all, c.get(ctx, "sessions", &all)
}

// Events returns the last events, oldest first.
func (c *Client) Events(ctx context.Context) (all []Event, err error) {
	return all, c.get(ctx, "events", &all)
}

// FollowEvents calls see with the last events and then with each new one, until
// ctx ends, see fails or the server stops.
func (c *Client) FollowEvents(ctx context.Context, see func(Event) error) error {
	_, err := stream(ctx, c, http.MethodGet, "events?follow=1", nil, see)
	return err
}

// Attach takes a detached backend into use again. Like all orders it returns a
// sentence that says what has happened.
func (c *Client) Attach(ctx context.Context, node string) (string, error) {
	return c.order(ctx, "attach", nodeOrder{Node: node})
}

// Detach takes a backend that is not the primary out of use.
func (c *Client) Detach(ctx context.Context, node string) (string, error) {
	return c.order(ctx, "detach", nodeOrder{Node: node})
}

// Recover has a backend rebuilt and waits until it is. Once it has begun it goes
// on whatever becomes of ctx or the connection.
func (c *Client) Recover(ctx context.Context, node string, inPlace bool, see func(Progress) error) (string, error) {
	return stream(ctx, c, http.MethodPost, "recover", nodeOrder{Node: node, InPlace: inPlace}, see)
}

// Promote has a standby and the primary change places and waits until that has
// ended. Once it has begun it goes on whatever becomes of ctx or the connection.
func (c *Client) Promote(ctx context.Context, node string, see func(Event) error) (string, error) {
	return stream(ctx, c, http.MethodPost, "promote", nodeOrder{Node: node}, see)
}

// SetFailover switches failover on or off.
func (c *Client) SetFailover(ctx context.Context, on bool) (string, error) {
	return c.order(ctx, "failover", failoverOrder{On: &on})
}

// AddMember adds a voter to the watchdog.
func (c *Client) AddMember(ctx context.Context, name, address string, witness bool) (string, error) {
	return c.order(ctx, "watchdog/add", memberOrder{Name: name, Address: address, Witness: witness})
}

// RemoveMember removes a member from the watchdog.
func (c *Client) RemoveMember(ctx context.Context, name string) (string, error) {
	return c.order(ctx, "watchdog/remove", memberOrder{Name: name})
}

// MoveAddress gives a virtual address to a member.
func (c *Client) MoveAddress(ctx context.Context, address, member string) (string, error) {
	return c.order(ctx, "vip/move", addressOrder{Address: address, Member: member})
}

// Kill ends a session of the asked member.
func (c *Client) Kill(ctx context.Context, session uint64) (string, error) {
	return c.order(ctx, "kill", killOrder{Session: session})
}

// Stop stops the asked member in good order.
func (c *Client) Stop(ctx context.Context) (string, error) {
	return c.order(ctx, "stop", struct{}{})
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) get(ctx context.Context, what string, into any) error {
	return c.once(ctx, http.MethodGet, what, nil, into)
}

func (c *Client) order(ctx context.Context, verb string, order any) (string, error) {
	var l line
	if err := c.once(ctx, http.MethodPost, verb, order, &l); err != nil {
		return "", err
	}
	return l.Done, nil
}

// once is a request with one answer.
func (c *Client) once(ctx context.Context, method, path string, order, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("%s has not answered within %v", c.server, answerTimeout))
	defer cancel()
	body, err := c.send(ctx, method, path, order)
	if err != nil {
		return err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return c.explain(ctx, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("the answer of %s cannot be understood: %w", c.server, err)
	}
	return nil
}

// send returns the body of an answer that is no error.
func (c *Client) send(ctx context.Context, method, path string, order any) (io.ReadCloser, error) {
	var body io.Reader
	if order != nil {
		data, err := json.Marshal(order)
		if err != nil {
			return nil, fmt.Errorf("encode order: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/v1/"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	defer res.Body.Close()
	var l line
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil || json.Unmarshal(data, &l) != nil || l.Error == "" {
		return nil, fmt.Errorf("%s answers %s", c.server, res.Status)
	}
	return nil, errors.New(oneLine(l.Error))
}

// stream reads a stream to its end and returns what it ended with.
func stream[T any](ctx context.Context, c *Client, method, path string, order any, see func(T) error) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(answerTimeout, func() { cancel(fmt.Errorf("%s has gone silent: %w", c.server, ErrInterrupted)) })
	defer silent.Stop()
	body, err := c.send(ctx, method, path, order)
	if err != nil {
		return "", err
	}
	defer body.Close()
	lines := bufio.NewReader(body)
	for {
		silent.Reset(silence)
		data, err := readLine(lines)
		if err != nil {
			if ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			return "", ErrInterrupted
		}
		var l line
		if err := json.Unmarshal(data, &l); err != nil {
			return "", fmt.Errorf("the answer of %s cannot be understood: %w", c.server, err)
		}
		switch {
		case l.Error != "":
			return "", errors.New(oneLine(l.Error))
		case l.Done != "":
			return l.Done, nil
		case l.Item != nil:
			var item T
			if err := json.Unmarshal(l.Item, &item); err != nil {
				return "", fmt.Errorf("the answer of %s cannot be understood: %w", c.server, err)
			}
			if err := see(item); err != nil {
				return "", err
			}
		}
	}
}

// readLine reads a line of bounded length.
func readLine(r *bufio.Reader) ([]byte, error) {
	var all []byte
	for {
		part, err := r.ReadSlice('\n')
		all = append(all, part...)
		switch {
		case err == nil:
			return all, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(all) > maxAnswer:
			return nil, errors.New("line is too long")
		}
	}
}
