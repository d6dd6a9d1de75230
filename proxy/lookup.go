package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

const (
	// maxLookups bounds the auth queries under way, and so the monitor's connections.
	maxLookups = 4
	// lookupTimeout bounds one auth query on the server.
	lookupTimeout = 5 * time.Second
	// patience is how long a server that does not answer is waited for when another one
	// could be asked: a primary may be frozen, and is not known to be lost yet.
	patience = time.Second
)

// lookups runs the auth query as the monitor, on connections that it keeps. It is
// safe for concurrent use.
type lookups struct {
	cluster Cluster
	rules   atomic.Pointer[lookupRules]
	dialer  *dialer
	slots   chan struct{}
	// present returns the tenure of the primary, nil for a standby: a server that is not
	// the primary any more may hang, and its answers are old.
	present  func(b cluster.Backend) (*tenure, error)
	defaults func() (*pgx.ConnConfig, error) // read once: the files that libpq knows are looked for

	mu struct {
		sync.Mutex
		kept []*lookupConn // the one used last at the end
	}
}

// lookupRules is the part of the configuration that lookups follow. It is immutable.
type lookupRules struct {
	monitor    MonitorConfig
	credential *auth.Credential // of the monitor; remembers its keys
	query      string
}

// equal tells if both lead to the same answers.
func (r *lookupRules) equal(o *lookupRules) bool {
	return r.monitor == o.monitor && r.query == o.query && r.credential.Equal(o.credential)
}

func newLookupRules(cfg *Config, password string) *lookupRules {
	r := &lookupRules{monitor: cfg.Monitor, credential: auth.NewPasswordCredential(password), query: cfg.Auth.Query}
	if r.query == "" {
		r.query = auth.LookupQuery
	}
	return r
}

type lookupConn struct {
	*pgx.Conn
	backend string  // its address
	tenure  *tenure // of the primary that it was made to; nil: of a standby
	rules   *lookupRules
}

func newLookups(cfg Config, deps Deps, d *dialer) *lookups {
	l := &lookups{
		cluster: deps.Cluster, dialer: d, slots: make(chan struct{}, maxLookups),
		present:  func(cluster.Backend) (*tenure, error) { return nil, nil },
		defaults: sync.OnceValues(func() (*pgx.ConnConfig, error) { return pgx.ParseConfig("sslmode=disable") }),
	}
	l.rules.Store(newLookupRules(&cfg, deps.MonitorPassword))
	return l
}

// role asks the primary, or without one a standby, about a role.
func (l *lookups) role(ctx context.Context, user string) (auth.Role, error) {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return auth.Role{}, fmt.Errorf("look up role: %w", ctx.Err())
	}
	servers := usable(l.cluster.State())
	err := errors.New("no server is up")
	for i, b := range servers {
		var role auth.Role
		if role, err = l.askWithin(ctx, b, user, i < len(servers)-1); err == nil {
			return role, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return auth.Role{}, fmt.Errorf("look up role: %w", err)
}

// usable returns the backends that may be asked, the primary first.
func usable(s *cluster.State) []cluster.Backend {
	var servers []cluster.Backend
	if b := s.Backend(s.Primary); b != nil {
		servers = append(servers, *b)
	}
	for _, b := range s.Backends {
		if b.Name != s.Primary && b.Status == cluster.StatusUp && b.Role == cluster.RoleStandby && !b.Rebuild {
			servers = append(servers, b)
		}
	}
	return servers
}

// askWithin is ask; where there is another server to ask, this one has patience only.
func (l *lookups) askWithin(ctx context.Context, b cluster.Backend, user string, another bool) (auth.Role, error) {
	if another {
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		ctx = within
	}
	return l.ask(ctx, b, user)
}

// ask runs the query on one server: on a kept connection, and when that turns out
// to be broken on a new one.
func (l *lookups) ask(ctx context.Context, b cluster.Backend, user string) (auth.Role, error) {
	t, err := l.present(b)
	if err != nil {
		return auth.Role{}, err
	}
	if conn := l.take(b.Address, t); conn != nil {
		role, err := l.run(ctx, conn, user)
		if err == nil || !conn.IsClosed() || ctx.Err() != nil {
			return role, err
		}
	}
	conn, err := l.connect(ctx, b, t, l.rules.Load().monitor.Database, lookupTimeout)
	if err != nil {
		return auth.Role{}, err
	}
	return l.run(ctx, conn, user)
}

// run runs the query and keeps the connection unless it broke.
func (l *lookups) run(ctx context.Context, conn *lookupConn, user string) (auth.Role, error) {
	role, err := queryRole(ctx, conn.Conn, l.rules.Load().query, user)
	if conn.IsClosed() {
		return role, err
	}
	l.mu.Lock()
	l.mu.kept = append(l.mu.kept, conn)
	l.mu.Unlock()
	return role, err
}

// take returns a kept connection to that server in that tenure, made by the rules in
// force. The others are of no use any more: the primary has changed, or a standby has
// become it (S1).
func (l *lookups) take(address string, t *tenure) *lookupConn {
	l.mu.Lock()
	var found *lookupConn
	var old []*lookupConn
	for n := len(l.mu.kept); n > 0 && found == nil; n = len(l.mu.kept) {
		conn := l.mu.kept[n-1]
		l.mu.kept = l.mu.kept[:n-1]
		if conn.backend == address && conn.tenure == t && conn.rules == l.rules.Load() {
			found = conn
		} else {
			old = append(old, conn)
		}
	}
	l.mu.Unlock()
	closeLookups(old)
	return found
}

// connect logs the monitor in. The search_path is fixed, so that no object that
// somebody made is taken for one of the query's.
func (l *lookups) connect(ctx context.Context, b cluster.Backend, t *tenure, database string, timeout time.Duration) (*lookupConn, error) {
	rules := l.rules.Load()
	config, err := l.config(b.Address, database, t)
	if err != nil {
		return nil, err
	}
	config.ConnectTimeout = lookupTimeout
	config.RuntimeParams["search_path"] = "pg_catalog"
	config.RuntimeParams["jit"] = "off" // it costs seconds where the planner guesses wrong
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt(timeout.Milliseconds(), 10)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &lookupConn{Conn: conn, backend: b.Address, tenure: t, rules: rules}, nil
}

// config is how the monitor connects to a server, as the primary of that tenure
// unless it is nil: by the rules of backend_tls, and by nothing that stands in the
// environment.
func (l *lookups) config(address, database string, t *tenure) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("configure monitor connection: %w", err)
	}
	_, _, host, port, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	config.Host, config.Port = host, uint16(n)
	r := l.rules.Load()
	config.User, config.Database = r.monitor.User, database
	config.Password, config.RequireAuth, config.ChannelBinding = "", "", "disable" // see monitorConn
	config.Fallbacks = nil
	config.RuntimeParams = map[string]string{"application_name": "pgproxy"}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := l.dialer.dial(ctx, address, t)
		if err != nil {
			return nil, err
		}
		return newMonitorConn(conn, r.credential.Login(r.monitor.User, conn.binding)), nil
	}
	return config, nil
}

// catalog reads what a database says about its functions and relations, from the
// primary or without one from a standby. It returns nil when the fingerprint shows
// that nothing has changed.
func (l *lookups) catalog(ctx context.Context, database, last string) (cat *lb.Catalog, fingerprint string, err error) {
	err = errors.New("no server is up")
	for _, b := range usable(l.cluster.State()) {
		if cat, fingerprint, err = l.catalogOf(ctx, b, database, last); err == nil {
			return cat, fingerprint, nil
		}
	}
	return nil, "", fmt.Errorf("read catalog: %w", err)
}

func (l *lookups) catalogOf(ctx context.Context, b cluster.Backend, database, last string) (*lb.Catalog, string, error) {
	t, err := l.present(b)
	if err != nil {
		return nil, "", err
	}
	conn, err := l.connect(ctx, b, t, database, catalogTimeout)
	if err != nil {
		return nil, "", err
	}
	defer closeLookups([]*lookupConn{conn})
	// Taken first: what changes while the rest is read makes it old.
	var fingerprint string
	if err := conn.QueryRow(ctx, lb.FingerprintQuery).Scan(&fingerprint); err != nil {
		return nil, "", fmt.Errorf("read fingerprint: %w", err)
	}
	if fingerprint == last {
		return nil, fingerprint, nil
	}
	cat, err := readCatalog(ctx, conn.Conn)
	return cat, fingerprint, err
}

func readCatalog(ctx context.Context, conn *pgx.Conn) (*lb.Catalog, error) {
	rows, err := conn.Query(ctx, lb.FunctionsQuery)
	if err != nil {
		return nil, fmt.Errorf("read functions: %w", err)
	}
	functions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[lb.FunctionRow])
	if err != nil {
		return nil, fmt.Errorf("read functions: %w", err)
	}
	if rows, err = conn.Query(ctx, lb.RelationsQuery); err != nil {
		return nil, fmt.Errorf("read relations: %w", err)
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[lb.RelationRow])
	if err != nil {
		return nil, fmt.Errorf("read relations: %w", err)
	}
	return lb.NewCatalog(functions, relations), nil
}

// queryRole reads the one row that the query gives for a role, or none.
func queryRole(ctx context.Context, conn *pgx.Conn, query, user string) (auth.Role, error) {
	var name, verifier pgtype.Text
	var canLogin pgtype.Bool
	var until pgtype.Timestamptz
	err := conn.QueryRow(ctx, query, user).Scan(&name, &verifier, &canLogin, &until)
	if errors.Is(err, pgx.ErrNoRows) {
		return auth.Role{Name: user}, nil
	}
	if err != nil {
		return auth.Role{}, err
	}
	role := auth.Role{Name: user, Exists: true, CanLogin: canLogin.Bool}
	// A verifier of an unknown kind lets nobody in, as in PostgreSQL.
	role.Verifier, _ = auth.ParseVerifier(verifier.String)
	switch {
	case !until.Valid || until.InfinityModifier == pgtype.Infinity:
	case until.InfinityModifier == pgtype.NegativeInfinity:
		role.ValidUntil = time.Unix(0, 0)
	default:
		role.ValidUntil = until.Time
	}
	return role, nil
}

// close waits for the lookups under way, lets no other one begin, and closes the
// kept connections.
func (l *lookups) close() {
	for range maxLookups {
		l.slots <- struct{}{}
	}
	l.mu.Lock()
	old := l.mu.kept
	l.mu.kept = nil
	l.mu.Unlock()
	closeLookups(old)
}

func closeLookups(conns []*lookupConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, conn := range conns {
		_ = conn.Close(ctx)
	}
}
