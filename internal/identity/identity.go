package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// MinSecret is the least length of a secret in bytes. One of pgproxy keygen is
// longer; this only keeps out what somebody typed.
const MinSecret = 16

// maxName bounds a member's name, in bytes (RFC 5280, ub-common-name).
const maxName = 64

const (
	// authorityInfo names the use of the derived key (RFC 5869, 3.2). Another text
	// makes members that do not know each other.
	authorityInfo = "pgproxy member authority 1"

	// host is in every member's certificate, so that the standard verification has a
	// name to look for; who the peer is stands in the subject.
	host = "member.pgproxy.invalid"
)

// Certificates are valid for this time, and verified at its middle whatever the
// clock says.
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	verified  = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Identity is one process as a member. It may be used by several goroutines.
type Identity struct {
	member      string
	authority   *x509.CertPool
	certificate tls.Certificate
}

// New makes an identity for the member of that name among those who have the same
// secret.
func New(secret []byte, member string) (*Identity, error) {
	switch {
	case len(secret) < MinSecret:
		return nil, fmt.Errorf("secret of %d bytes is too short: pgproxy keygen makes a good one", len(secret))
	case member == "":
		return nil, errors.New("a member needs a name")
	case len(member) > maxName:
		return nil, fmt.Errorf("member name of %d bytes is longer than %d", len(member), maxName)
	}
	authority, key, err := newAuthority(secret)
	if err != nil {
		return nil, err
	}
	certificate, err := newLeaf(authority, key, member)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	return &Identity{member: member, authority: pool, certificate: certificate}, nil
}

// newAuthority depends on the secret alone: Ed25519 signatures are deterministic
// (RFC 8032, 5.1.6).
func newAuthority(secret []byte) (*x509.Certificate, ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, secret, nil, authorityInfo, ed25519.SeedSize)
	if err != nil {
		return nil, nil, fmt.Errorf("derive authority: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "pgproxy"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make authority: %w", err)
	}
	authority, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("parse authority: %w", err)
	}
	return authority, key, nil
}

func newLeaf(authority *x509.Certificate, signer ed25519.PrivateKey, member string) (tls.Certificate, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: member},
		DNSNames:     []string{host},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, public, signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Member returns the name that it was made for.
func (i *Identity) Member() string { return i.member }

// ServerTLS returns the configuration of a listener that speaks the protocols of
// those names (RFC 7301). A client that offers none of them is refused.
func (i *Identity) ServerTLS(alpn ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    i.authority,
		NextProtos:   alpn,
		Time:         verificationTime,
		// Members keep their connections; a ticket would only be one more way in.
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			// Without a list of its own crypto/tls lets a client through.
			if len(alpn) > 0 && s.NegotiatedProtocol == "" {
				return errors.New("the client names no protocol")
			}
			return nil
		},
	}
}

// ClientTLS returns the configuration of a client that speaks that protocol.
func (i *Identity) ClientTLS(alpn string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.certificate},
		RootCAs:      i.authority,
		ServerName:   host,
		NextProtos:   []string{alpn},
		Time:         verificationTime,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != alpn {
				return fmt.Errorf("the server does not speak %s", alpn)
			}
			return nil
		},
	}
}

func verificationTime() time.Time { return verified }

// Peer returns the member at the other end of a connection made with either
// configuration, "" when the handshake is not complete.
func Peer(s tls.ConnectionState) string {
	if !s.HandshakeComplete || len(s.VerifiedChains) == 0 {
		return ""
	}
	return s.PeerCertificates[0].Subject.CommonName
}
