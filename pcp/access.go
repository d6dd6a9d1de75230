package pcp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/pgproxy/pgproxy/internal/identity"
)

// The protocols that a client names in its TLS handshake (RFC 7301): who it is
// stands in its certificate, or it shows the token.
const (
	Protocol      = "pgproxy-pcp/1"
	tokenProtocol = "pgproxy-pcp-token/1"
)

type peerKey struct{}

// peer is who is at the other end of a connection.
type peer struct {
	uid   int // on a Unix socket
	known bool
	tls   *tlsConn // on TCP
}

// withPeer asks the kernel once for each connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	var p peer
	switch c := conn.(type) {
	case *tlsConn:
		p.tls = c
	case *boundedConn:
		p.uid, p.known = peerUID(c.Conn)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// operator returns who asks, for the event log, or why he may not.
func (s *Server) operator(r *http.Request) (string, error) {
	p, _ := r.Context().Value(peerKey{}).(peer)
	switch {
	case p.tls != nil:
		return s.remoteOperator(r, p.tls.ConnectionState())
	case !p.known:
		return "", refuse(http.StatusForbidden, "the operating system does not say who connects")
	case p.uid != 0 && p.uid != os.Geteuid():
		return "", refuse(http.StatusForbidden, "%s may not: only %s and root", userName(p.uid), userName(os.Geteuid()))
	}
	return userName(p.uid), nil
}

// remoteOperator returns who asks over TLS.
func (s *Server) remoteOperator(r *http.Request, state tls.ConnectionState) (string, error) {
	if state.NegotiatedProtocol == Protocol {
		if name := identity.Peer(state); name != "" {
			return name, nil
		}
		return "", refuse(http.StatusForbidden, "the client has no certificate")
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !sameToken(token, s.deps.Token) {
		return "", refuse(http.StatusUnauthorized, "the token is missing or wrong")
	}
	return "the token", nil
}

// sameToken takes the same time for every token of the peer's.
func sameToken(got, want string) bool {
	g, w := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return want != "" && subtle.ConstantTimeCompare(g[:], w[:]) == 1
}

func userName(uid int) string {
	text := strconv.Itoa(uid)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return "uid " + text
}
