package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

const (
	// loginTimeout bounds connecting to a backend and logging in.
	loginTimeout = 15 * time.Second
	// maxLoginMessage and maxLoginNotices bound what a server may send outside a
	// session, in bytes: one message, and all notices of a login.
	maxLoginMessage = 1 << 20
	maxLoginNotices = 64 << 10
)

// dialer opens connections to backends and logs in on them.
type dialer struct {
	rules atomic.Pointer[dialRules] // taken anew for each connection
	// connect opens the connection itself; nil: net.Dialer does.
	connect func(ctx context.Context, network, address string) (net.Conn, error)
}

// dialRules is the part of the configuration that connections to backends follow. It
// is immutable.
type dialRules struct {
	tls       *backTLS
	keepalive KeepaliveConfig
	passfile  *auth.Passfile // nil: none
}

func newDialer(r *dialRules) *dialer {
	d := &dialer{}
	d.rules.Store(r)
	return d
}

// dialed is a connection to a server before the startup.
type dialed struct {
	net.Conn
	raw     net.Conn
	binding auth.ChannelBinding // of the server's certificate; nil without TLS
}

// splitAddress takes a backend's address apart: host and port for TCP, directory
// and port for a Unix socket.
func splitAddress(address string) (network, target, host, port string, err error) {
	if strings.HasPrefix(address, "/") {
		i := strings.LastIndexByte(address, ':')
		if i < 0 {
			return "", "", "", "", fmt.Errorf("address %q: no port", address)
		}
		host, port = address[:i], address[i+1:]
		return "unix", host + "/.s.PGSQL." + port, host, port, nil
	}
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", "", "", fmt.Errorf("address %q: %w", address, err)
	}
	return "tcp", address, host, port, nil
}

// dial connects to a server, with TLS as configured; like libpq, never with TLS on
// a Unix socket. The connection is one of that tenure; nil: it is not to a primary, or
// carries nothing that the lease is for.
func (d *dialer) dial(ctx context.Context, address string, t *tenure) (*dialed, error) {
	network, target, host, _, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	rules := d.rules.Load()
	connect := d.connect
	if connect == nil {
		connect = (&net.Dialer{KeepAliveConfig: rules.keepalive.net()}).DialContext
	}
	if t != nil {
		within, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(t.over, func() { cancel(errNoLease) })()
		ctx = within
	}
	raw, err := connect(ctx, network, target)
	if err != nil {
		return nil, err
	}
	if t != nil {
		if raw, err = t.guard(raw); err != nil {
			return nil, err
		}
	}
	if network == "unix" || rules.tls.mode == SSLDisable {
		return &dialed{Conn: raw, raw: raw}, nil
	}
	conn, err := rules.tls.secure(ctx, raw, address, host)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// errNoLogin tells of a server that says something else before the login can begin.
var errNoLogin = errors.New("the server does not let anybody log in")

// secure asks the server for TLS. Only in mode prefer may it say no.
func (b *backTLS) secure(ctx context.Context, raw net.Conn, address, host string) (*dialed, error) {
	config, err := b.config(address, host)
	if err != nil {
		return nil, err
	}
	release := bound(ctx, raw)
	// One byte is the answer. A second one was sent before the handshake, by a man in
	// the middle who hopes that it is taken for encrypted (CVE-2021-23222); it must
	// not even be left for the handshake to read.
	var answer [2]byte
	n := 0
	_, err = raw.Write(pgwire.AppendSSLRequest(nil))
	if err == nil {
		n, err = io.ReadAtLeast(raw, answer[:], 1)
	}
	if late := release(); late != nil {
		return nil, fmt.Errorf("request TLS: %w", late)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("request TLS: %w", err)
	case answer[0] == 'S' && n > 1:
		return nil, errors.New("request TLS: received unencrypted data after the answer")
	case answer[0] != 'S' && n > 1:
		// The message of a process that cannot go on, as when the postmaster has just died.
		// It is not authenticated; libpq ignores it too (CVE-2024-10977).
		return nil, fmt.Errorf("request TLS: %w, answer %q", errNoLogin, answer[0])
	case answer[0] == 'N' && b.mode == SSLPrefer:
		return &dialed{Conn: raw, raw: raw}, nil
	case answer[0] == 'N':
		return nil, fmt.Errorf("request TLS: the server does not support it, backend_tls.mode is %s", b.mode)
	case answer[0] != 'S':
		return nil, fmt.Errorf("request TLS: unexpected answer %q", answer[0])
	}
	conn := tls.Client(&carrier{Conn: raw}, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	leaf := conn.ConnectionState().PeerCertificates[0]
	return &dialed{Conn: conn, raw: raw, binding: auth.EndpointBinding(leaf)}, nil
}

// login connects to a backend, as the primary of that tenure unless it is nil, and
// logs the client in there with its credential and its startup parameters. The error is a *ServerError when the server refused.
func (d *dialer) login(ctx context.Context, b cluster.Backend, t *tenure, c *client) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	conn, err := d.dial(ctx, b.Address, t)
	if err != nil {
		return nil, fmt.Errorf("connect to backend %q: %w", b.Name, err)
	}
	l := &link{
		Conn: conn.Conn, raw: conn.raw, backend: b.Name, address: b.Address,
		user: c.user, database: c.database, appName: c.appName, protocol: pgwire.VersionLatest,
	}
	release := bound(ctx, conn.raw)
	err = l.startup(c, d.credential(b.Address, c).Login(c.user, conn.binding))
	if err == nil && c.replication == pgwire.ReplicationNone {
		err = l.askServer()
	}
	if late := release(); late != nil {
		err = late
	}
	if err != nil {
		_ = conn.Close()
		if refused, ok := errors.AsType[*ServerError](err); ok {
			refused.Backend = b.Name
			return nil, refused
		}
		return nil, fmt.Errorf("log in on backend %q: %w", b.Name, err)
	}
	return l, nil
}

// credential returns what the client is logged in with on that server: what its
// own authentication gave, else an entry of the password file.
func (d *dialer) credential(address string, c *client) *auth.Credential {
	_, _, host, port, err := splitAddress(address)
	if err != nil {
		return c.cred
	}
	database := c.database
	if c.replication == pgwire.ReplicationPhysical {
		database = "replication"
	}
	return c.cred.WithPassfile(d.rules.Load().passfile, host, port, database, c.user)
}

// startup sends the startup message and reads up to the first ReadyForQuery.
func (l *link) startup(c *client, login *auth.Login) error {
	if _, err := l.Write(pgwire.AppendStartup(nil, l.protocol, startupParams(c))); err != nil {
		return fmt.Errorf("send startup: %w", err)
	}
	var buf []byte
	for authenticated := false; ; {
		typ, body, err := readMessage(l, &buf, maxLoginMessage)
		if err != nil {
			return err
		}
		switch typ {
		case pgwire.Authentication:
			send, done, err := login.Next(body)
			if err != nil {
				return err
			}
			authenticated = authenticated || done
			if len(send) > 0 {
				if _, err := l.Write(send); err != nil {
					return fmt.Errorf("send authentication: %w", err)
				}
			}
		case pgwire.ErrorResponse:
			return &ServerError{
				Raw:     pgwire.AppendMessage(nil, typ, body),
				Code:    string(pgwire.ErrorField(body, 'C')),
				Message: string(pgwire.ErrorField(body, 'M')),
			}
		case pgwire.NoticeResponse:
			if len(l.notices)+len(body) < maxLoginNotices {
				l.notices = pgwire.AppendMessage(l.notices, typ, body)
			}
		case pgwire.NegotiateProtocolVersion:
			if err := l.negotiate(body); err != nil {
				return err
			}
		case pgwire.ReadyForQuery:
			if !authenticated || l.pid == 0 {
				return errors.New("server is ready before it has authenticated or given its key")
			}
			return nil
		default:
			if !authenticated {
				return fmt.Errorf("unexpected message %q before authentication", typ)
			}
			if err := l.greeting(typ, body); err != nil {
				return err
			}
		}
	}
}

// startTime asks for the time at which the postmaster was started, in microseconds since
// 1970, whatever search_path is.
const startTime = "SELECT (extract(epoch FROM pg_catalog.pg_postmaster_start_time())" +
	" OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"

// askServer finds out which run of the server it is connected to. A server that does not
// want to say, for the client's settings or rights, leaves it unknown.
func (l *link) askServer() error {
	if _, err := l.Write(pgwire.AppendQuery(nil, startTime)); err != nil {
		return fmt.Errorf("ask for the start of the server: %w", err)
	}
	var buf []byte
	for {
		typ, body, err := readMessage(l, &buf, maxLoginMessage)
		if err != nil {
			return fmt.Errorf("ask for the start of the server: %w", err)
		}
		switch typ {
		case pgwire.DataRow:
			if len(body) > 6 { // number of columns, length of the first one (manual, "Message Formats")
				l.server, _ = strconv.ParseUint(string(body[6:]), 10, 64)
			}
		case pgwire.ParameterStatus:
			if name, value, ok := pgwire.ReadParameterStatus(body); ok {
				l.noteParameter(string(name), string(value))
			}
		case pgwire.ReadyForQuery:
			return nil
		}
	}
}

// greeting takes what a server tells between AuthenticationOk and ReadyForQuery.
func (l *link) greeting(typ byte, body []byte) error {
	switch typ {
	case pgwire.ParameterStatus:
		name, value, ok := pgwire.ReadParameterStatus(body)
		if !ok {
			return errors.New("malformed ParameterStatus")
		}
		l.params = append(l.params, pgwire.Parameter{Name: string(name), Value: string(value)})
		return nil
	case pgwire.BackendKeyData:
		pid, secret, ok := pgwire.ReadBackendKeyData(body)
		if !ok {
			return errors.New("malformed BackendKeyData")
		}
		l.pid, l.secret = pid, append([]byte(nil), secret...)
		return nil
	}
	return fmt.Errorf("unexpected message %q during startup", typ)
}

// negotiate takes the version of a server that does not speak the newest one. It
// must know all our options, for we send none.
func (l *link) negotiate(body []byte) error {
	version, unknown, ok := pgwire.ReadNegotiateProtocolVersion(body)
	if !ok || unknown != 0 || version>>16 != l.protocol>>16 || version >= l.protocol {
		return errors.New("malformed NegotiateProtocolVersion")
	}
	l.protocol = version
	return nil
}

// startupParams returns the client's startup parameters with its user and
// database, in the order of libpq.
func startupParams(c *client) []pgwire.Parameter {
	params := []pgwire.Parameter{{Name: "user", Value: c.user}}
	switch c.replication {
	case pgwire.ReplicationPhysical:
		params = append(params, pgwire.Parameter{Name: "replication", Value: "true"})
	case pgwire.ReplicationDatabase:
		params = append(params,
			pgwire.Parameter{Name: "database", Value: c.database},
			pgwire.Parameter{Name: "replication", Value: "database"})
	case pgwire.ReplicationNone:
		params = append(params, pgwire.Parameter{Name: "database", Value: c.database})
	}
	return append(params, c.params...)
}

// net returns the configuration in the words of package net.
func (k KeepaliveConfig) net() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: k.Idle > 0, Idle: k.Idle, Interval: k.Interval, Count: k.Count}
}
