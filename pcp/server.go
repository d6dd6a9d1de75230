package pcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/identity"
)

// Bounds of what a peer may take.
const (
	maxBody        = 64 << 10
	maxHeader      = 16 << 10
	maxConnections = 64               // on each listener, so that TCP cannot shut out the socket
	readTimeout    = 5 * time.Second  // of a handshake, of a header, of a body
	writeTimeout   = 10 * time.Second // of each write
	idleTimeout    = 2 * time.Minute
)

// Bounds of what a request may wait for.
const (
	orderTimeout  = 10 * time.Second // for the log, or the watchdog
	reportTimeout = 2 * time.Second  // for the leader's table
	promoteWait   = 10 * time.Minute // for a switchover to end, in one of its ways
	staleAfter    = 5 * time.Second  // the age of a report that tells nothing any more; they come four times a second
)

// reopenPause is between two attempts to open a listener. An operator's interface
// that cannot be opened is no reason not to serve clients.
const reopenPause = 5 * time.Second

// errStopping ends the streams of a member that stops.
var errStopping = errors.New("this member stops")

// errLeft is a stream whose client has gone.
var errLeft = errors.New("the client has left")

// Cluster is the truth about the cluster and the way to change it, on every member.
type Cluster interface {
	State() *cluster.State
	Changed() <-chan struct{}
	Propose(ctx context.Context, c cluster.Command) (cluster.State, error)
}

// Deps is what the server shows and what it hands orders to.
type Deps struct {
	Member string // name of this one
	// Managed: pgproxy promotes and rebuilds (failover.mode). Without it promote and
	// recover are refused.
	Managed bool

	Cluster Cluster
	// Ready is closed when the State of Cluster is known: orders are judged by it.
	Ready <-chan struct{}
	// Reports returns the leader's table, by member, At by this member's clock. The map
	// is the server's. An error is shown as not known.
	Reports func(ctx context.Context) (map[string]cluster.Reported, error)

	// Watchdog returns what the leader's watchdog says, or this member's when nobody
	// leads; of a lone proxy too.
	Watchdog     func() WatchdogStatus
	AddMember    func(ctx context.Context, name, address string, witness bool) error
	RemoveMember func(ctx context.Context, name string) error

	// Of this member.
	Observations func() map[string]cluster.Observation
	Checks       func(backend string) Checks
	Pools        func() []Pool
	Sessions     func() []Session
	Kill         func(session uint64) error
	// Paused tells whether a pause is in force here, and in how many sessions something
	// still runs on the primary.
	Paused  func() (inForce bool, running int)
	Reload  func(ctx context.Context) (Reloaded, error)
	Running func() Running
	Stop    func() // begins the orderly stop of the process

	// TLS is of a member's identity, ServerTLS(Protocol); nil: there is no secret.
	TLS *tls.Config
	// Token is the content of Config.TokenFile without its end of line; "" none.
	Token string

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server is the operator's API of one member.
type Server struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	tls     *tls.Config // nil: no listener on TCP
	refused atomic.Int64

	mu struct {
		sync.Mutex
		addresses map[string]net.Addr // of the open listeners, by network
		opened    chan struct{}       // closed and replaced when addresses has one more
	}
}

// New makes a server. It opens nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	s := &Server{cfg: cfg, deps: deps, log: deps.Logger.With("part", "pcp")}
	s.mu.addresses = make(map[string]net.Addr)
	s.mu.opened = make(chan struct{})
	var err error
	if s.metrics, err = newMetrics(deps.Registerer); err != nil {
		return nil, err
	}
	if deps.TLS == nil && deps.Token == "" {
		return s, nil
	}
	if s.tls, err = serverTLS(deps.TLS, deps.Token, deps.Member); err != nil {
		return nil, err
	}
	return s, nil
}

// serverTLS gives each client the certificate of the way that it wants to go.
func serverTLS(members *tls.Config, token, member string) (*tls.Config, error) {
	var byToken *tls.Config
	if token != "" {
		id, err := identity.New([]byte(token), member)
		if err != nil {
			return nil, fmt.Errorf("use token of pcp.token_file: %w", err)
		}
		byToken = id.ServerTLS(tokenProtocol, "http/1.1")
		byToken.ClientAuth = tls.NoClientCert
		byToken.VerifyConnection = nil // a client that names no protocol shows the token too
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			for _, p := range hello.SupportedProtos {
				if p == Protocol && members != nil {
					return members, nil
				}
			}
			if byToken != nil {
				return byToken, nil
			}
			return nil, errors.New("the client does not speak " + Protocol)
		},
	}, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var listeners sync.WaitGroup
	defer listeners.Wait()
	if s.cfg.UnixSocket != "" {
		listeners.Go(func() { s.listen(ctx, "unix", s.openUnix) })
	}
	switch {
	case s.cfg.Listen == "":
	case s.tls == nil:
		s.log.Warn("pcp.listen is not opened: it needs watchdog.secret_file or pcp.token_file", "address", s.cfg.Listen)
	default:
		listeners.Go(func() { s.listen(ctx, "tcp", s.openTCP) })
	}
	<-ctx.Done()
	return nil
}

// listen keeps one listener open and served until ctx ends.
func (s *Server) listen(ctx context.Context, network string, open func(context.Context) (net.Listener, error)) {
	last := ""
	for ctx.Err() == nil {
		l, err := open(ctx)
		if err == nil {
			last = ""
			s.opened(network, l.Addr())
			err = s.serve(ctx, l)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			s.log.Error("operator's interface is not open, trying again", "network", network, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopenPause):
		}
	}
}

func (s *Server) opened(network string, address net.Addr) {
	s.log.Info("operator's interface is open", "network", network, "address", address.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.addresses[network] = address
	close(s.mu.opened)
	s.mu.opened = make(chan struct{})
}

// serve answers on one listener and closes it.
func (s *Server) serve(ctx context.Context, l net.Listener) error {
	requests, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	// Streams end at once; what was ordered a moment ago is still answered.
	ended := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(ended)
		stop(errStopping)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close()
		}
	})()
	l = bounded(l)
	if l.Addr().Network() == "tcp" {
		l = &tlsListener{l, s.tls}
	}
	err := server.Serve(l)
	if ctx.Err() != nil {
		<-ended
		return nil
	}
	_ = server.Close()
	return err
}
