package pcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgproxy/pgproxy/internal/identity"
)

// connectTimeout bounds connect and handshake.
const connectTimeout = 5 * time.Second

// DefaultSecretFile is the file of the reference configuration.
const DefaultSecretFile = "/etc/pgproxy/secret"

// Target says which member a client asks, and as who: on the Unix socket of this
// host, or on TCP with one of the two files.
type Target struct {
	Socket string // Host is not used when it is given

	Host       string
	Port       int
	SecretFile string // watchdog.secret_file of the members
	TokenFile  string // pcp.token_file; SecretFile is not used when it is given
}

// NewClient makes a client. It opens no connection.
func NewClient(t Target) (*Client, error) {
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		DisableCompression:  true,
		MaxIdleConns:        1,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: connectTimeout,
	}
	c := &Client{http: &http.Client{Transport: transport}}
	if t.Socket != "" {
		c.server, c.base = t.Socket, "http://pgproxy"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", t.Socket)
		}
		return c, nil
	}
	address := net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	c.server, c.base = address, "https://"+address
	config, err := c.clientTLS(t)
	if err != nil {
		return nil, err
	}
	transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
	}
	return c, nil
}

// clientTLS trusts only a server that has the same secret or token.
func (c *Client) clientTLS(t Target) (*tls.Config, error) {
	file, protocol := t.SecretFile, Protocol
	if t.TokenFile != "" {
		file, protocol = t.TokenFile, tokenProtocol
	}
	secret, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	id, err := identity.New([]byte(secret), operatorName())
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", file, err)
	}
	config := id.ClientTLS(protocol)
	if t.TokenFile != "" {
		c.token = secret
		config.Certificates = nil // the token says who asks
	}
	return config, nil
}

// operatorName is what the event log will say: user@host.
func operatorName() string {
	name := "operator"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return strings.ToValidUTF8(name[:min(len(name), 64)], "") // as much as a certificate's name may have (RFC 5280)
}

// readSecret reads a file of one line as pgproxy does: the end of the line is not
// part of it.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read secret file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBody))
	if err != nil {
		return "", fmt.Errorf("read secret file: %w", err)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("secret file %s does not have one line", path)
	}
	return secret, nil
}

// explain says in an operator's words why a request has no answer.
func (c *Client) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("connect to %s: %w: is pgproxy running?", c.server, last(err))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("connect to %s: %w: only root and the user that pgproxy runs as may", c.server, last(err))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s: %w", c.server, ErrInterrupted)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%s is not a member with the same secret or token", c.server)
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" { // of crypto/tls
		return fmt.Errorf("%s refuses this secret or token: %w", c.server, alert.Err)
	}
	return fmt.Errorf("ask %s: %w", c.server, err)
}

// last returns the innermost error: "connection refused" without the address that
// stands before it already.
func last(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
