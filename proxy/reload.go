package proxy

import (
	"fmt"
	"os"
	"reflect"

	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// Reload puts another configuration in force, or none of it where something in it or
// in the files that it names is wrong. monitorPassword is the password of its
// monitor.user. The files are read anew whether their names have changed or not.
//
// Connections that come later are let in by the new rules; sessions that exist keep
// what they were authenticated by, and get the new bounds, weights and routing at
// once. What a listener is made of, and pool.mode, must be as before. It is called by
// one goroutine at a time.
func (s *Server) Reload(cfg Config, monitorPassword string) error {
	old := s.cfg.Load()
	hba, err := loadHBA(cfg.Auth.HBAFile)
	if err != nil {
		return err
	}
	front, err := newFrontTLS(cfg.Listen.TLS, s.log)
	if err != nil {
		return err
	}
	rules, err := newDialRules(&cfg)
	if err != nil {
		return err
	}
	sameBalancing := reflect.DeepEqual(old.Balance, cfg.Balance)
	var classifier *lb.Classifier
	var redirects *lb.Redirects
	if !sameBalancing {
		if classifier, redirects, err = newBalancing(cfg.Balance); err != nil {
			return err
		}
	}

	// Nothing below fails.
	s.cfg.Store(&cfg)
	s.sessions.reconfigure(&cfg)
	s.gate.resize(cfg.Listen.Startup)
	s.tls.Store(front)
	s.auth.SetHBA(hba)
	s.store.SetTTL(cfg.Auth.Cache)
	s.pools.trust.Store(int64(cfg.Auth.Cache))
	before, now := s.lookups.rules.Load(), newLookupRules(&cfg, monitorPassword)
	s.dialer.rules.Store(rules)
	s.lookups.rules.Store(now)
	s.lookups.forget()
	if !before.equal(now) {
		s.store.Forget()
	}
	if old.BackendTLS != cfg.BackendTLS {
		for _, b := range s.deps.Cluster.State().Backends {
			s.pools.closeIdle(b.Name)
		}
	}
	s.pools.configure(cfg.Pool, cfg.Limits)
	s.pools.holdWith(cfg.Hold)
	s.sessions.setLimits(cfg.Limits)
	if !sameBalancing {
		s.sessions.balance(cfg.Balance, classifier, redirects)
	}
	return nil
}

// balance puts another balancing in force. What the old classifier knows is lost.
func (sh *sessions) balance(cfg lb.Config, c *lb.Classifier, r *lb.Redirects) {
	sh.classifier.Store(c)
	sh.redirects.Store(r)
	sh.catalogs.refresh.Store(int64(cfg.CatalogRefresh))
}

// forget closes the connections that are kept: they were made by other rules.
func (l *lookups) forget() {
	l.mu.Lock()
	old := l.mu.kept
	l.mu.kept = nil
	l.mu.Unlock()
	closeLookups(old)
}

func newBalancing(cfg lb.Config) (*lb.Classifier, *lb.Redirects, error) {
	c, err := lb.NewClassifier(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("configure balance: %w", err)
	}
	r, err := lb.NewRedirects(cfg.Redirects)
	if err != nil {
		return nil, nil, fmt.Errorf("configure balance.redirects: %w", err)
	}
	return c, r, nil
}

func newDialRules(cfg *Config) (*dialRules, error) {
	r := &dialRules{keepalive: cfg.Listen.Keepalive}
	var err error
	if r.tls, err = newBackTLS(cfg.BackendTLS); err != nil {
		return nil, err
	}
	if cfg.Auth.PasswordFile != "" {
		if r.passfile, err = auth.LoadPassfile(cfg.Auth.PasswordFile); err != nil {
			return nil, fmt.Errorf("load auth.password_file: %w", err)
		}
	}
	return r, nil
}

// loadHBA returns the built-in rules where no file is named.
func loadHBA(path string) (*auth.HBA, error) {
	if path == "" {
		return auth.DefaultHBA(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load auth.hba_file: %w", err)
	}
	defer f.Close()
	hba, err := auth.ParseHBA(f, path)
	if err != nil {
		return nil, fmt.Errorf("load auth.hba_file: %w", err)
	}
	return hba, nil
}
