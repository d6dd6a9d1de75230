package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/internal/pgtest"
)

const (
	// demoPace is the time between two rows of the writer.
	demoPace = 50 * time.Millisecond
	// demoGap is how long a write may take before it is worth a line.
	demoGap = 300 * time.Millisecond
	// demoLook is the time between two looks at who is who.
	demoLook = 200 * time.Millisecond
)

// greet tells how to connect and what to try.
func (d *demo) greet(ctx context.Context) error {
	if err := demoStatus(ctx, d.cluster, nil, d.Stdout); err != nil {
		return err
	}
	c := d.cluster
	_, err := fmt.Fprintf(d.Stdout, `
connect    PGPASSWORD=%[1]s psql -h %[2]s -p %[3]d -U %[4]s %[5]s
           (from a host of its own: ip netns exec %[6]s env PGPASSWORD=... psql ...)
ask        bin/pgproxy-pcp --socket %[7]s nodes
look       pgproxy demo status, and the log of each pgproxy: tail -f %[8]s/h*/pgproxy.log
break      from another terminal: pgproxy demo kill-primary | freeze-primary | kill-leader |
           freeze-leader | thaw HOST | cut HOST | heal HOST | wipe HOST | recover HOST | promote HOST
watch      here: a row is written through the address each 50 ms, from now on

Ctrl-C takes everything down.

`, c.Password(pgtest.AppUser), c.VIP, rig.ProxyPort, pgtest.AppUser, pgtest.AppDatabase, c.Client.Namespace(),
		c.Hosts[0].PCPSocket(), c.Dir())
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// demoStatus shows each host. What is frozen or cut off says nothing, and is shown so.
func demoStatus(ctx context.Context, c *rig.Cluster, _ *rig.Host, out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tADDRESS\tPOSTGRESQL\tPGPROXY\tVIRTUAL ADDRESS\tLINK")
	for _, h := range c.Hosts {
		s := demoLookAt(ctx, c, h)
		holds, link := "-", "cut"
		if s.holds {
			holds = c.VIP
		}
		if linked, err := h.Net.Linked(); err != nil {
			return err
		} else if linked {
			link = "up"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", h.Name, h.IP, s.server, s.member, holds, link)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print hosts: %w", err)
	}
	return nil
}

// demoHost is what a host looks like.
type demoHost struct {
	server string // primary, standby, frozen, gone, silent
	member string // leads, follows, frozen, gone
	holds  bool
}

func demoLookAt(ctx context.Context, c *rig.Cluster, h *rig.Host) demoHost {
	ctx, cancel := context.WithTimeout(ctx, demoAskTimeout)
	defer cancel()
	s := demoHost{server: "silent", member: "follows"}
	switch {
	case !h.ServerRuns():
		s.server = "gone"
	case h.ServerFrozen():
		s.server = "frozen"
	default:
		switch standby, err := h.Query(ctx, "SELECT pg_is_in_recovery()"); {
		case err != nil: // it starts or stops
		case standby == "t":
			s.server = "standby"
		default:
			s.server = "primary"
		}
	}
	switch {
	case len(h.MemberProcesses()) == 0:
		s.member = "gone"
	case h.MemberFrozen():
		s.member = "frozen"
	default:
		if leads, err := h.Metric(ctx, "pgproxy_watchdog_leader"); err == nil && leads == 1 {
			s.member = "leads"
		}
	}
	s.holds, _ = h.Holds() // a host that is being taken down holds nothing
	return s
}

// demoPrinter writes lines with the time before them.
type demoPrinter struct {
	out io.Writer
	mu  sync.Mutex
}

func (p *demoPrinter) print(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%s  %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// demoWatch writes rows through the address and tells what happens, until ctx ends.
func demoWatch(ctx context.Context, c *rig.Cluster, _ *rig.Host, out io.Writer) error {
	p := &demoPrinter{out: out}
	var both sync.WaitGroup
	both.Go(func() { demoWatchHosts(ctx, c, p) })
	demoWrite(ctx, c, p)
	both.Wait()
	return nil
}

// demoWatchHosts tells each change of who is who.
func demoWatchHosts(ctx context.Context, c *rig.Cluster, p *demoPrinter) {
	before := map[string]demoHost{}
	tick := time.NewTicker(demoLook)
	defer tick.Stop()
	for {
		for _, h := range c.Hosts {
			s := demoLookAt(ctx, c, h)
			if ctx.Err() != nil {
				return
			}
			old, known := before[h.Name]
			before[h.Name] = s
			if !known {
				continue
			}
			if s.server != old.server {
				p.print("%s: PostgreSQL was %s, is %s", h.Name, old.server, s.server)
			}
			if s.member != old.member {
				p.print("%s: pgproxy %s", h.Name, s.member)
			}
			if s.holds != old.holds && s.holds {
				p.print("%s: has %s", h.Name, c.VIP)
			} else if s.holds != old.holds {
				p.print("%s: has %s no more", h.Name, c.VIP)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// demoWrite writes a row each demoPace, on one connection as long as that lasts.
func demoWrite(ctx context.Context, c *rig.Cluster, p *demoPrinter) {
	var conn *pgx.Conn
	defer func() { demoHangUp(conn) }()
	tick := time.NewTicker(demoPace)
	defer tick.Stop()
	var last time.Time
	var server string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = demoConnect(ctx, c); err != nil {
				continue
			}
		}
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		var by string
		err := conn.QueryRow(asking, "INSERT INTO demo DEFAULT VALUES RETURNING coalesce(host(inet_server_addr()), '')").Scan(&by)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				p.print("writer: %v", err)
			}
			continue
		}
		if gap := time.Since(last); !last.IsZero() && (gap > demoGap || by != server) {
			p.print("writer: no row was acknowledged for %.2f s; now %s answers", gap.Seconds(), by)
		}
		last, server = time.Now(), by
	}
}

func demoConnect(ctx context.Context, c *rig.Cluster) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, c.ClientConfig(c.VIP, rig.ProxyPort, 2*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.VIP, err)
	}
	asking, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = conn.Exec(asking, "CREATE TABLE IF NOT EXISTS demo (id bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
	if err != nil {
		demoHangUp(conn)
		return nil, fmt.Errorf("make table: %w", err)
	}
	return conn, nil
}

// demoHangUp ends a session without waiting for who does not answer.
func demoHangUp(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // its rows have been answered
}
