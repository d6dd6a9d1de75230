package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/proxy/auth"
)

// alpn is the protocol name of PostgreSQL (PostgreSQL manual, "SSL Session
// Encryption"): optional after SSLRequest, required for direct TLS.
const alpn = "postgresql"

// stamps tell whether the files of an identity were replaced.
type stamps [3]struct {
	mtime time.Time
	size  int64
}

// identity is a certificate with all that is shown and demanded with it. It is
// immutable.
type identity struct {
	config  *tls.Config
	binding auth.ChannelBinding
	read    stamps // of the files when they were last read
}

// frontTLS is the listener's side of TLS. New files are taken for the next
// handshake, without a restart.
type frontTLS struct {
	cfg     TLSConfig
	log     *slog.Logger
	current atomic.Pointer[identity]
}

// newFrontTLS returns nil when the listener has no TLS.
func newFrontTLS(cfg TLSConfig, log *slog.Logger) (*frontTLS, error) {
	if cfg.Mode == TLSDisable || cfg.CertFile == "" && cfg.Mode != TLSRequire {
		return nil, nil
	}
	f := &frontTLS{cfg: cfg, log: log}
	now, err := f.stat()
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	id.read = now
	f.current.Store(id)
	return f, nil
}

// identity returns what the next handshake shows: new files, once they can be read,
// else the old ones.
func (f *frontTLS) identity() *identity {
	current := f.current.Load()
	now, err := f.stat()
	if err != nil || now == current.read {
		return current // while it is being replaced, a file may be missing
	}
	next, err := f.load()
	if err != nil {
		// Half of a replacement, perhaps: the next change is looked at again.
		f.log.Error("certificate not reloaded, the old one stays", "error", err)
		next = &identity{config: current.config, binding: current.binding}
	} else {
		f.log.Info("certificate reloaded", "file", f.cfg.CertFile)
	}
	next.read = now
	f.current.Store(next)
	return next
}

func (f *frontTLS) stat() (stamps, error) {
	return stampsOf(f.cfg.CertFile, f.cfg.KeyFile, f.cfg.ClientCAFile)
}

// stampsOf looks at files, of which those without a name are left out.
func stampsOf(paths ...string) (s stamps, err error) {
	for i, path := range paths {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[i].mtime, s[i].size = info.ModTime(), info.Size()
	}
	return s, nil
}

func (f *frontTLS) load() (*identity, error) {
	cert, err := tls.LoadX509KeyPair(f.cfg.CertFile, f.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load listen.tls.cert_file and key_file: %w", err)
	}
	// A client that keeps session tickets saves both sides the signatures. The tickets are
	// good for this certificate only: its replacement has a Config with other keys. A
	// client's certificate is looked at again when its session is resumed.
	config := &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{alpn},
		// What is written at once is one record, and one system call, from the start.
		DynamicRecordSizingDisabled: true,
	}
	if f.cfg.ClientCAFile != "" {
		if config.ClientCAs, err = loadPool(f.cfg.ClientCAFile); err != nil {
			return nil, fmt.Errorf("load listen.tls.client_ca_file: %w", err)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return &identity{config: config, binding: auth.EndpointBinding(cert.Leaf)}, nil
}

func loadPool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return pool, nil
}

// maxTickets bounds the servers whose session tickets are kept.
const maxTickets = 100

// backTLS is TLS towards the backends. New files are taken for the next handshake.
type backTLS struct {
	mode    SSLMode
	cfg     BackendTLSConfig
	current atomic.Pointer[trust]
}

// trust is what is shown to servers, what is demanded of them, and the sessions with them
// that can be resumed. It is immutable but for those.
type trust struct {
	certs    []tls.Certificate
	roots    *x509.CertPool // nil: the chain is not looked at
	sessions tls.ClientSessionCache
	read     stamps
}

func newBackTLS(cfg BackendTLSConfig) (*backTLS, error) {
	b := &backTLS{mode: cfg.Mode, cfg: cfg}
	switch cfg.Mode {
	case SSLDisable:
		return b, nil
	case SSLPrefer, SSLRequire:
	case SSLVerifyCA, SSLVerifyFull:
		if cfg.CAFile == "" {
			return nil, fmt.Errorf("backend_tls.mode %s: backend_tls.ca_file is missing", cfg.Mode)
		}
	default:
		return nil, fmt.Errorf("backend_tls.mode %q is not known", cfg.Mode)
	}
	_, err := b.trust()
	return b, err
}

// trust returns what the files hold, and reads them where they are not those of before.
func (b *backTLS) trust() (*trust, error) {
	now, err := stampsOf(b.cfg.CertFile, b.cfg.KeyFile, b.cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read files of backend_tls: %w", err)
	}
	if t := b.current.Load(); t != nil && t.read == now {
		return t, nil
	}
	t := &trust{sessions: tls.NewLRUClientSessionCache(maxTickets), read: now}
	if b.cfg.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(b.cfg.CertFile, b.cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load backend_tls.cert_file and key_file: %w", err)
		}
		t.certs = []tls.Certificate{cert}
	}
	if b.mode != SSLPrefer && b.cfg.CAFile != "" {
		if t.roots, err = loadPool(b.cfg.CAFile); err != nil {
			return nil, fmt.Errorf("load backend_tls.ca_file: %w", err)
		}
	}
	b.current.Store(t)
	return t, nil
}

// sessionsOf are the sessions with one server. Without it all servers of a host would
// have one, whatever their ports.
type sessionsOf struct {
	tls.ClientSessionCache
	address string
}

// Get returns the last session with the server.
func (s sessionsOf) Get(string) (*tls.ClientSessionState, bool) {
	return s.ClientSessionCache.Get(s.address)
}

// Put keeps a session with the server.
func (s sessionsOf) Put(_ string, state *tls.ClientSessionState) {
	s.ClientSessionCache.Put(s.address, state)
}

// config returns what a handshake with that host demands, where the server is known by
// address. As in libpq, mode require checks the chain when there is a CA file, and mode
// prefer checks nothing.
func (b *backTLS) config(address, host string) (*tls.Config, error) {
	t, err := b.trust()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, Certificates: t.certs, RootCAs: t.roots,
		ClientSessionCache: sessionsOf{t.sessions, address}, DynamicRecordSizingDisabled: true,
	}
	if b.mode != SSLVerifyFull {
		// The standard library knows only the check with the host's name.
		config.InsecureSkipVerify = true
		if roots := config.RootCAs; roots != nil {
			config.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, roots) }
		}
	}
	return config, nil
}

// verifyChain checks a server's certificate but not its name.
func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range s.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := s.PeerCertificates[0].Verify(opts)
	return err
}
