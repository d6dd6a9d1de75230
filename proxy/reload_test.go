package proxy

import (
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/lb"
)

// reload puts the configuration in force that change makes of the present one.
func (l *leased) reload(change func(*Config)) error {
	cfg := *l.cfg.Load()
	change(&cfg)
	return l.Reload(cfg, pgtest.Password(pgtest.MonitorUser))
}

func (l *leased) mustReload(change func(*Config)) {
	l.t.Helper()
	if err := l.reload(change); err != nil {
		l.t.Fatal(err)
	}
}

// refused connects and wants to be told that code.
func (l *leased) refused(code string) {
	l.t.Helper()
	conn, err := pgx.Connect(l.t.Context(), appDSN(l.Server, ""))
	if err == nil {
		_ = conn.Close(l.t.Context())
	}
	wantCode(l.t, err, code)
}

// TestReloadRules: an HBA file that was changed in place counts when it is read again,
// for those who come then.
func TestReloadRules(t *testing.T) {
	path := writeFile(t, "host all all all scram-sha-256\n")
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.Auth.HBAFile = path })
	old := l.client()
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("host all all all reject\n")
	l.client() // it was not read again
	l.mustReload(func(*Config) {})
	l.refused("28000")
	if got := value(t, old, "1"); got != "1" {
		t.Errorf("a session that was there: %q", got)
	}
	write("host all all all nonsense\n")
	contains(t, l.reload(func(cfg *Config) { cfg.Listen.MaxClients = 1 }), "nonsense")
	l.refused("28000")
	if n := l.cfg.Load().Listen.MaxClients; n == 1 {
		t.Error("half of a faulty configuration was taken")
	}
	l.mustReload(func(cfg *Config) { cfg.Auth.HBAFile = "" })
	l.client()
}

// TestReloadBounds: bounds hold for those who come, and for what waits from now on.
func TestReloadBounds(t *testing.T) {
	l := newLeased(t, 0, nil)
	first := l.client()
	l.mustReload(func(cfg *Config) { cfg.Listen.MaxClients = 1 })
	l.refused("53300")
	l.mustReload(func(cfg *Config) { cfg.Listen.MaxClients, cfg.Hold.Timeout = 10, 100*time.Millisecond })
	l.client()
	l.mustReload(func(cfg *Config) { cfg.Limits = []LimitConfig{{User: "app", MaxClients: 2}} })
	l.refused("53300")
	l.pause(true)
	l.awaitPaused(0)
	_, err := first.Exec(t.Context(), "INSERT INTO t VALUES (1)")
	wantCode(t, err, "57P03")
	contains(t, err, "within 100ms")
}

// TestReloadBackendTLS: connections made by the old rules are not lent again.
func TestReloadBackendTLS(t *testing.T) {
	l := newLeased(t, 0, func(cfg *Config, _ *Server) { cfg.BackendTLS.Mode = SSLDisable })
	enableTLS(t, l.pg.Primary(), newAuthority(t), "127.0.0.1")
	const encrypted = "(SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
	conn := l.client()
	if got := value(t, conn, encrypted); got != "false" {
		t.Fatalf("encrypted: %s", got)
	}
	l.mustReload(func(cfg *Config) { cfg.BackendTLS.Mode = SSLRequire })
	if got := value(t, conn, encrypted); got != "false" {
		t.Errorf("a session that was there: encrypted %s", got)
	}
	_ = conn.Close(t.Context())
	l.await("h1", ofClients("true"), "0")
	if got := value(t, l.client(), encrypted); got != "true" {
		t.Errorf("a new session: encrypted %s", got)
	}
}

// TestReloadListenTLS: TLS is offered and demanded from now on.
func TestReloadListenTLS(t *testing.T) {
	l := newLeased(t, 0, nil)
	l.client()
	l.mustReload(func(cfg *Config) { withTLS(cfg, newAuthority(t), TLSRequire) })
	l.refused("28000")
	if _, err := pgx.Connect(t.Context(), appDSN(l.Server, "sslmode=require")); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	contains(t, l.reload(func(cfg *Config) { cfg.Listen.TLS.CertFile = "/nonexistent" }), "nonexistent")
}

// TestReloadBalancing: sessions that are there are routed by the new rules.
func TestReloadBalancing(t *testing.T) {
	l := newLeased(t, 0, nil)
	conn := l.client()
	classify := func(sql string) bool {
		l.sessions.mu.Lock()
		defer l.sessions.mu.Unlock()
		for _, s := range l.sessions.mu.byID {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.env.Classify([]byte(sql)).Read
		}
		t.Fatal("no session")
		return false
	}
	if got := value(t, conn, "1"); got != "1" { // now the catalog was read
		t.Fatal(got)
	}
	const sql = "SELECT n FROM t"
	if !classify(sql) {
		t.Fatal("not a read")
	}
	l.mustReload(func(cfg *Config) {
		cfg.Balance.PrimaryPatterns = []string{"FROM t"}
		cfg.Balance.Redirects = []lb.Redirect{{User: "app", To: "standby"}}
	})
	if classify(sql) {
		t.Error("a read in spite of the pattern")
	}
	for _, s := range l.sessions.all() {
		s.mu.Lock()
		s.env.Choose("", false, lb.ToAny)
		if s.env.forced != "standby" {
			t.Errorf("redirected to %q", s.env.forced)
		}
		s.mu.Unlock()
	}
	contains(t, l.reload(func(cfg *Config) { cfg.Balance.PrimaryPatterns = []string{"("} }), "balance")
}
