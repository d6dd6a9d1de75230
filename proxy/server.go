package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// Cluster is the agreed truth about the backends.
type Cluster interface {
	// State returns the latest state. It is never nil, and another value only when
	// something changed.
	State() *cluster.State
	// Changed returns a channel that is closed when State is about to return something
	// newer than it did before the call.
	Changed() <-chan struct{}
}

// Deps is what a Server needs of the other parts.
type Deps struct {
	Cluster Cluster
	// Lease is the right to use the primary; nil: whenever the State has one.
	Lease Lease
	// Nudge is called when Drained or Barred have changed; nil: nobody wants to know.
	// It must not block.
	Nudge func()
	// Observations returns what this member last saw of the backends.
	Observations func() map[string]cluster.Observation
	// ObservationsChanged returns a channel that is closed when newer Observations are
	// there; nil: they never change.
	ObservationsChanged func() <-chan struct{}
	// Poke asks for a probe of a backend now: a connection to it has just failed.
	Poke func(backend string)
	// GoesOn takes a fresh look at a backend and reports whether the run of the server
	// goes on that began at that time, in microseconds since 1970 (0: the one seen last).
	// It bounds the time that this takes.
	GoesOn func(ctx context.Context, backend string, began uint64) bool
	// Sampler gives log positions on demand.
	Sampler Sampler
	// HealthStats counts the health checks of a backend.
	HealthStats func(backend string) HealthStats
	// CancelElsewhere has the other members look for the session with that cancel key;
	// true: one of them has it, and has told its server. nil: there are no others.
	CancelElsewhere func(ctx context.Context, pid uint32, secret []byte) bool
	// Version is what SHOW pool_version answers.
	Version string
	// MonitorPassword is the password of monitor.user.
	MonitorPassword string
	// ClusterSecret is shared by all members, so that they answer alike about users
	// that do not exist. Without one it is made up.
	ClusterSecret []byte
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
}

// Server accepts clients, authenticates them and runs their sessions.
type Server struct {
	cfg  atomic.Pointer[Config] // in force; see Reload
	deps Deps
	log  *slog.Logger

	tls     atomic.Pointer[frontTLS] // nil: no TLS
	store   *auth.Store
	auth    *auth.Authenticator
	lookups *lookups
	dialer  *dialer
	pools   *pools
	cancels *cancelRegistry
	waits   *commitWaits
	gate    *gate
	inputs  sync.Pool // of *[startupBuffer]byte

	sessions *sessions

	// handle runs the session of an authenticated client. When ctx
	// ends it must return at once, when draining is closed as soon as the session is
	// idle, after errShutdown. It does not close the client's connection.
	handle func(ctx context.Context, c *client) error

	ready    chan struct{}
	addr     net.Addr       // of the first listener; set before ready is closed
	draining chan struct{}  // closed when no new session starts
	clients  atomic.Int64   // authenticated ones
	conns    sync.WaitGroup // connections of clients, from accept to the end of their session
}

// errShutdown is what sessions and connections are told when pgproxy stops.
var errShutdown = &Refusal{Code: codeAdminShutdown, Message: "pgproxy: shutting down"}

// New makes a Server. It reads the files that the configuration names, and opens
// no connection.
func New(cfg Config, deps Deps) (*Server, error) {
	s := &Server{
		deps: deps, log: deps.Logger,
		gate:     newGate(cfg.Listen.Startup),
		ready:    make(chan struct{}),
		draining: make(chan struct{}),
	}
	s.handle = s.serveSession
	s.cfg.Store(&cfg)
	front, err := newFrontTLS(cfg.Listen.TLS, s.log)
	if err != nil {
		return nil, err
	}
	s.tls.Store(front)
	rules, err := newDialRules(&cfg)
	if err != nil {
		return nil, err
	}
	s.dialer = newDialer(rules)
	s.lookups = newLookups(cfg, deps, s.dialer)
	s.store = auth.NewStore(auth.StoreConfig{Lookup: s.lookups.role, TTL: cfg.Auth.Cache, MaxLookups: maxLookups})
	if s.auth, err = newAuthenticator(cfg.Auth, s.store, deps.ClusterSecret); err != nil {
		return nil, err
	}
	s.pools = newPools(cfg.Pool, deps.Cluster, s.log)
	s.pools.login, s.pools.poke, s.pools.goesOn = s.login, deps.Poke, deps.GoesOn
	s.pools.trust.Store(int64(cfg.Auth.Cache))
	s.pools.configure(cfg.Pool, cfg.Limits)
	s.pools.holdWith(cfg.Hold)
	if deps.Lease != nil {
		s.pools.lease = deps.Lease
	}
	if deps.Nudge != nil {
		s.pools.nudge = deps.Nudge
	}
	s.lookups.present = s.pools.present
	s.waits = newCommitWaits(deps.Cluster, s.lookups)
	if s.cancels, err = newCancelRegistry(s.dialer, s.waits, deps); err != nil {
		return nil, err
	}
	if s.sessions, err = newSessions(cfg, deps, s.pools, s.cancels, s.lookups, s.gate.count); err != nil {
		return nil, err
	}
	s.sessions.ended = s.ended
	return s, nil
}

func newAuthenticator(cfg AuthConfig, store *auth.Store, secret []byte) (*auth.Authenticator, error) {
	hba, err := loadHBA(cfg.HBAFile)
	if err != nil {
		return nil, err
	}
	if len(secret) == 0 {
		secret = make([]byte, 32)
		rand.Read(secret) // never fails (crypto/rand)
	}
	return auth.NewAuthenticator(auth.AuthenticatorConfig{HBA: hba, Store: store, MockSecret: auth.MockSecret(secret)})
}

// MonitorConfig is how the monitor connects to a backend, for the probes: by the
// rules of backend_tls. They bound the time that it takes (health.timeout).
func (s *Server) MonitorConfig(address string) (*pgconn.Config, error) {
	config, err := s.lookups.config(address, s.cfg.Load().Monitor.Database, nil)
	if err != nil {
		return nil, err
	}
	return &config.Config, nil
}

// Drained returns the ID of the last switchover for which nothing runs on the old
// primary any more and nothing begins there; 0 none. Replication clients do not count:
// their streams have no end.
func (s *Server) Drained() uint64 { return s.sessions.drains.done.Load() }

// Barred returns the ID of the last operation with a barrier for which every
// connection to the old primary is closed, those that were being opened, too, and no
// write to one is under way (S2); 0 none.
func (s *Server) Barred() uint64 { return s.pools.barred.Load() }

// Ready is closed when all listeners accept.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr returns the address of the TCP listener, or of the Unix socket where there
// is no other. It must not be called before Ready is closed.
func (s *Server) Addr() net.Addr { return s.addr }

// Run serves until ctx ends; then it stops accepting, lets sessions come to an idle
// point for listen.drain, closes what is left, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	listeners, err := listen(ctx, s.cfg.Load().Listen)
	if err != nil {
		return err
	}
	s.addr = listeners[0].Addr()
	if s.sessions.loops, err = newLoops(&s.cfg.Load().Listen); err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return fmt.Errorf("make event loops: %w", err)
	}

	// Not children of ctx, whose cause says nothing to a client.
	accepting, stopAccepting := context.WithCancelCause(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() { stopAccepting(errShutdown) })()
	serving, stopServing := context.WithCancelCause(context.WithoutCancel(ctx))
	pooling, stopPooling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPooling()

	var accepts, pooled sync.WaitGroup
	pooled.Go(func() { s.pools.run(pooling) })
	pooled.Go(func() { s.sessions.run(pooling) })
	looping, stopLooping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLooping()
	looped := make(chan error, 1)
	go func() {
		err := s.sessions.runLoops(looping)
		if err != nil {
			stopAccepting(err)
		}
		looped <- err
	}()
	defer context.AfterFunc(serving, s.sessions.abort)()
	var acceptors []*acceptor
	for i, l := range listeners {
		if loops := s.sessions.loops; len(loops) > 0 {
			a, err := s.newAcceptor(loops[i%len(loops)], l, accepting, serving)
			if err != nil {
				stopAccepting(err)
				break
			}
			acceptors = append(acceptors, a)
			continue
		}
		accepts.Go(func() {
			if err := s.accept(accepting, l, func(n newcomer) {
				s.conns.Go(func() { s.serve(serving, n) })
			}); err != nil {
				stopAccepting(err)
			}
		})
	}
	close(s.ready)
	s.log.Info("accepting clients", "address", s.addr.String())

	<-accepting.Done()
	for _, l := range listeners {
		_ = l.Close()
	}
	for _, a := range acceptors {
		a.stop()
	}
	accepts.Wait()
	s.gate.clear(context.Cause(accepting))
	close(s.draining)
	s.sessions.drain(errShutdown.encode(pgwire.SeverityFatal))
	overdue := time.AfterFunc(s.cfg.Load().Listen.Drain, func() { stopServing(errShutdown) })
	s.conns.Wait()
	overdue.Stop()
	stopServing(nil)
	s.lookups.close()
	s.waits.close()
	stopPooling()
	pooled.Wait()
	stopLooping()
	<-looped
	if err := context.Cause(accepting); !errors.Is(err, errShutdown) {
		return err
	}
	return nil
}

// serve carries one connection from accept to its end. ctx bounds its session.
func (s *Server) serve(ctx context.Context, n newcomer) {
	c := &client{conn: n.conn, raw: n.conn}
	if a, ok := n.conn.RemoteAddr().(*net.TCPAddr); ok {
		c.remote = a.AddrPort()
	} else {
		c.local = true
	}
	err := s.start(n, c)
	n.place.leave()
	n.end(nil)
	if err != nil {
		_ = c.conn.Close()
		s.refused(c, err)
		return
	}
	s.conns.Add(1)
	s.session(ctx, c)
}

// refused logs why a connection has not become a client.
func (s *Server) refused(c *client, err error) {
	if !errors.Is(err, errSilent) {
		s.log.Info("client refused", "client", c.addr(), "user", c.user, "database", c.database, "error", err)
	} else {
		s.log.Debug("connection closed before its session", "client", c.addr(), "error", err)
	}
}

// session runs the session of a client that was admitted. ctx bounds it.
func (s *Server) session(ctx context.Context, c *client) {
	run := s.handle
	if c.replication != pgwire.ReplicationNone {
		run = s.serveReplication
	}
	s.left(c, run(ctx, c))
}

// left takes the end of a session, unless it goes on: then ended follows.
func (s *Server) left(c *client, err error) {
	if errors.Is(err, errGoesOn) {
		return
	}
	if err != nil {
		s.log.Debug("session ended", "client", c.addr(), "user", c.user, "database", c.database, "error", err)
	}
	_ = c.conn.Close()
	s.ended(c)
}

// ended counts out a client whose session has ended.
func (s *Server) ended(c *client) {
	s.leave(c)
	s.conns.Done()
}

// start authenticates a connection and counts it as a client.
func (s *Server) start(n newcomer, c *client) error {
	release := bound(n.ctx, c.raw)
	st := &startup{server: s, client: c, spoke: n.place.spoke}
	err := st.run(n.ctx)
	if late := release(); late != nil {
		err = late
	}
	if err == nil {
		if err = s.admit(c); err == nil {
			return nil
		}
	}
	if !st.handshaking {
		st.tell(err)
	}
	return err
}

var errStartupTimeout = fmt.Errorf("not authenticated in time: %w", errSilent)

// admit counts an authenticated client, which is told that it is in when its session
// greets it.
func (s *Server) admit(c *client) error {
	if s.clients.Add(1) > int64(s.cfg.Load().Listen.MaxClients) {
		s.clients.Add(-1)
		return &Refusal{Code: codeTooManyConnections, Message: "pgproxy: sorry, too many clients already"}
	}
	if err := s.sessions.enter(c); err != nil {
		s.clients.Add(-1)
		return err
	}
	c.unsent = pgwire.AppendAuthentication(c.unsent, pgwire.AuthOK, nil)
	return nil
}

// leave counts out a client that was admitted.
func (s *Server) leave(c *client) {
	s.sessions.census.leave(c.user, c.database)
	s.clients.Add(-1)
}

// login logs a client in on a backend for the pools. A credential that the backend
// does not take any more is forgotten: the password was changed.
func (s *Server) login(ctx context.Context, b cluster.Backend, t *tenure, c *client) (*link, error) {
	l, err := s.dialer.login(ctx, b, t, c)
	refused, ok := errors.AsType[*ServerError](err)
	switch {
	case errors.Is(err, auth.ErrKeyMismatch):
		s.store.Invalidate(c.user)
		return nil, &Refusal{
			Code:    codeInvalidPassword,
			Message: fmt.Sprintf("password authentication failed for user \"%s\"", c.user),
		}
	case ok && refused.Code == codeInvalidPassword:
		s.store.Invalidate(c.user)
	}
	return l, err
}
