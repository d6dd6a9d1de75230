package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/nettest"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// ClientConfig is how a client on the client host connects as the ordinary role to
// an address, which is c.VIP or a host's.
func (c *Cluster) ClientConfig(ip string, port int, connectTimeout time.Duration) *pgx.ConnConfig {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s sslmode=disable",
		ip, port, pgtest.AppDatabase, pgtest.AppUser, c.passwords[pgtest.AppUser]))
	if err != nil {
		panic("BUG: bad connection string: " + err.Error())
	}
	cfg.ConnectTimeout = connectTimeout
	cfg.DialFunc = c.Client.DialContext
	return cfg
}

// Environment is ClientConfig for the virtual address in the variables of libpq.
func (c *Cluster) Environment() []string {
	return []string{
		"PGHOST=" + c.VIP, fmt.Sprintf("PGPORT=%d", ProxyPort), "PGDATABASE=" + pgtest.AppDatabase,
		"PGUSER=" + pgtest.AppUser, "PGPASSWORD=" + c.passwords[pgtest.AppUser],
	}
}

// Node is a line of SHOW pool_nodes.
type Node struct {
	Address     string
	Status      string
	Role        string
	Replication string // pg_stat_replication.state
	Lag         string
}

// Nodes asks whoever holds the virtual address.
func (c *Cluster) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c.ClientConfig(c.VIP, ProxyPort, 2*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.VIP, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return ShowNodes(ctx, conn.PgConn())
}

// ShowNodes asks the pgproxy at the other end of a connection.
func ShowNodes(ctx context.Context, conn *pgconn.PgConn) ([]Node, error) {
	results, err := conn.Exec(ctx, "SHOW pool_nodes").ReadAll()
	if err != nil {
		return nil, fmt.Errorf("show nodes: %w", err)
	}
	var nodes []Node
	for _, row := range results[0].Rows {
		column := map[string]string{}
		for i, field := range results[0].FieldDescriptions {
			column[field.Name] = string(row[i])
		}
		nodes = append(nodes, Node{
			Address: net.JoinHostPort(column["hostname"], column["port"]), Status: column["status"],
			Role: column["role"], Replication: column["replication_state"], Lag: column["replication_delay"],
		})
	}
	return nodes, nil
}

// state is what Open needs to know.
type state struct {
	Lab       string
	Options   Options
	Passwords map[string]string
}

// Save writes the cluster's state to a file that only root reads: it has passwords.
func (c *Cluster) Save(path string) error {
	b, err := json.Marshal(state{Lab: c.Lab.Name(), Options: c.o, Passwords: c.passwords})
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// Open returns a cluster that another process runs, to look at and to break.
func Open(path string) (*Cluster, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	lab, err := nettest.Open(s.Lab)
	if err != nil {
		return nil, err
	}
	bin, err := pgtest.FindBinaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: lab, VIP: ip(s.Options.Subnet, vipNumber), Client: lab.Host("client"), o: s.Options, bin: bin, passwords: s.Passwords}
	for i := range c.o.Servers {
		c.Hosts = append(c.Hosts, newHost(c, fmt.Sprintf("h%d", i+1), ip(c.o.Subnet, firstNumber+i), true))
	}
	if c.o.Witness {
		c.Hosts = append(c.Hosts, newHost(c, "w1", ip(c.o.Subnet, firstNumber+c.o.Servers), false))
	}
	for _, h := range c.Hosts {
		h.Net = lab.Host(h.Name)
	}
	return c, nil
}

// SavedDir returns the directory of a cluster that was saved, also of one that does
// not run any more.
func SavedDir(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read state: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return "", fmt.Errorf("read state: %w", err)
	}
	return s.Options.Dir, nil
}

// Password returns that of a role.
func (c *Cluster) Password(role string) string { return c.passwords[role] }

// Dir returns the directory of the cluster.
func (c *Cluster) Dir() string { return c.o.Dir }

// Leader returns the host whose member says that it leads, by its metrics; nil
// where none does.
func (c *Cluster) Leader(ctx context.Context) *Host {
	for _, h := range c.Hosts {
		if value, err := h.Metric(ctx, "pgproxy_watchdog_leader"); err == nil && value == 1 {
			return h
		}
	}
	return nil
}

// Holders returns the hosts whose kernel has the virtual address.
func (c *Cluster) Holders() ([]*Host, error) {
	var all []*Host
	for _, h := range c.Hosts {
		holds, err := h.Holds()
		if err != nil {
			return nil, err
		}
		if holds {
			all = append(all, h)
		}
	}
	return all, nil
}
