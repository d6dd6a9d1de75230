package watchdog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Bounds of a call's bodies, in bytes. The largest are reports of all members.
const (
	maxRequest  = 1 << 20
	maxResponse = 8 << 20
)

// caller calls other members. It keeps the connections that it made.
type caller struct {
	client    *http.Client
	transport *http.Transport
}

type dialFunc func(ctx context.Context, member, hostport, protocol string) (net.Conn, error)

// newCaller returns a caller; the host of its URLs is a server's address in hex,
// since that may hold anything.
func newCaller(dial dialFunc) *caller {
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, host string) (net.Conn, error) {
			id, hostport, err := fromHost(host)
			if err != nil {
				return nil, err
			}
			return dial(ctx, nameOf(id), hostport, protocolCall)
		},
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
	}
	return &caller{client: &http.Client{Transport: t}, transport: t}
}

func toHost(a raft.ServerAddress) string { return fmt.Sprintf("%x", string(a)) }

func fromHost(hostport string) (id, target string, err error) {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", "", err
	}
	var a []byte
	if _, err := fmt.Sscanf(host, "%x", &a); err != nil {
		return "", "", fmt.Errorf("host %q: %w", host, err)
	}
	id, target = splitAddress(raft.ServerAddress(a))
	return id, target, nil
}

func (c *caller) close() { c.transport.CloseIdleConnections() }

// call asks the server at that address. Its answer goes to out, or is an error that
// errors.Is knows as it was there.
func (c *caller) call(ctx context.Context, to raft.ServerAddress, verb string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s: %w", verb, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+toHost(to)+"/"+verb, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s: %w", verb, err)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil { // without the URL
			err = cause
		}
		return fmt.Errorf("call %s of %s: %w", verb, nameOf(to), err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxResponse+1))
	switch {
	case err != nil:
		return fmt.Errorf("call %s of %s: %w", verb, nameOf(to), err)
	case len(data) > maxResponse:
		return fmt.Errorf("call %s of %s: answer of more than %d bytes", verb, nameOf(to), maxResponse)
	case answer.StatusCode != http.StatusOK:
		var e callError
		if json.Unmarshal(data, &e) != nil || e.Text == "" {
			e.Text = answer.Status
		}
		return fmt.Errorf("%s: %w", nameOf(to), &e)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("call %s of %s: %w", verb, nameOf(to), err)
	}
	return nil
}

// callError is an error as it crosses the network.
type callError struct {
	Text string `json:"error"`
	Code string `json:"code,omitempty"` // of known
}

// Error implements error.
func (e *callError) Error() string { return e.Text }

// Unwrap returns the error that the code stands for.
func (e *callError) Unwrap() error { return known[e.Code] }

// known are the errors that callers branch on.
var known = map[string]error{
	"epoch":      cluster.ErrEpoch,
	"unknown":    cluster.ErrUnknown,
	"no_leader":  ErrNoLeader,
	"not_leader": ErrNotLeader,
	"not_member": ErrNotMember,
}

func newCallError(err error) *callError {
	e := &callError{Text: err.Error()}
	for code, is := range known {
		if errors.Is(err, is) {
			e.Code = code
		}
	}
	return e
}
