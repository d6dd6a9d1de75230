package agent

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// connectTimeout bounds a connection to another server.
const connectTimeout = 5 * time.Second

// connect opens a session on the local server as superuser.
func (a *Agent) connect(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(a.cfg.Connect)
	if err != nil {
		return nil, fmt.Errorf("read agent.connect: %w", err)
	}
	if cfg.Database == "" {
		cfg.Database = "postgres" // not the user's name, that libpq would take
	}
	setSession(cfg)
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", err)
	}
	return conn, nil
}

// setSession makes what is asked in a session mean the same everywhere, and never
// wait for a standby.
func setSession(cfg *pgconn.Config) {
	for k, v := range map[string]string{
		"application_name": "pgproxy agent", "client_encoding": "UTF8", "standard_conforming_strings": "on",
		"synchronous_commit": "local", "search_path": "pg_catalog", "default_transaction_read_only": "off",
		"statement_timeout": "0", "lock_timeout": "0", "DateStyle": "ISO",
	} {
		cfg.RuntimeParams[k] = v
	}
}

// connectTo opens a session on another server as the replication role.
func (a *Agent) connectTo(ctx context.Context, b *cluster.Backend, replication bool) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(a.conninfo(b) + " dbname=postgres")
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", b.Name, err)
	}
	cfg.ConnectTimeout = connectTimeout
	if replication {
		cfg.RuntimeParams["replication"] = "true"
	} else {
		setSession(cfg)
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", b.Name, err)
	}
	return conn, nil
}

// conninfo is how a server of this host connects to b as a standby: the value of
// primary_conninfo.
func (a *Agent) conninfo(b *cluster.Backend) string {
	host, port := splitAddress(b.Address)
	words := []string{
		"host=" + quoteConninfo(host), "port=" + quoteConninfo(port), "user=" + quoteConninfo(a.cfg.Replication.User),
		"application_name=" + quoteConninfo(a.deps.Backend),
		fmt.Sprintf("connect_timeout=%d", int(connectTimeout.Seconds())),
	}
	if a.deps.Password != "" {
		words = append(words, "passfile="+quoteConninfo(a.files.passfile()))
	}
	if a.cfg.Replication.Options != "" {
		words = append(words, a.cfg.Replication.Options)
	}
	return strings.Join(words, " ")
}

// splitAddress splits host:port, or a socket directory and :port.
func splitAddress(address string) (host, port string) {
	if filepath.IsAbs(address) {
		if i := strings.LastIndexByte(address, ':'); i > 0 {
			if _, err := strconv.Atoi(address[i+1:]); err == nil {
				return address[:i], address[i+1:]
			}
		}
		return address, "5432"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, "5432"
	}
	return host, port
}

// quoteConninfo quotes a value of a connection string (PostgreSQL manual, "Connection
// Strings").
func quoteConninfo(value string) string {
	if value != "" && !strings.ContainsAny(value, ` '\`) {
		return value
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// quoteLiteral quotes a text for SQL; standard_conforming_strings is on.
func quoteLiteral(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// slotName is the replication slot that other servers keep for a backend. Names
// that differ only in what a slot's name cannot have get different slots.
func slotName(backend string) string {
	const prefix, most = slotPrefix, 63 // NAMEDATALEN - 1
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, backend)
	if clean == backend && len(prefix)+len(clean) <= most {
		return prefix + clean
	}
	h := uint32(2166136261) // FNV-1a
	for i := range len(backend) {
		h = (h ^ uint32(backend[i])) * 16777619
	}
	tail := fmt.Sprintf("_%08x", h)
	return prefix + clean[:min(len(clean), most-len(prefix)-len(tail))] + tail
}

// slotPrefix begins the names of the slots that are pgproxy's to make and to drop.
const slotPrefix = "pgproxy_"

// query runs a query of one row and returns its columns as text, "" for NULL.
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	rows, err := queryRows(ctx, conn, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("query %q: %d rows", sql, len(rows))
	}
	return rows[0], nil
}

// queryRows runs statements and returns the rows of the last as text.
func queryRows(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	if len(results) == 0 {
		return nil, nil
	}
	return textRows(results[len(results)-1]), nil
}

func textRows(r *pgconn.Result) [][]string {
	rows := make([][]string, len(r.Rows))
	for i, row := range r.Rows {
		rows[i] = make([]string, len(row))
		for j, v := range row {
			rows[i][j] = string(v)
		}
	}
	return rows
}

// hangUp ends a session, without waiting for a server that does not answer.
func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // what was asked has been answered
}
