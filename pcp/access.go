package pcp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
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

// peer is who is at the other end of a Unix socket.
type peer struct {
	uid   int
	known bool
}

// withPeer asks the kernel once for each connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	b, ok := conn.(*boundedConn)
	if !ok {
		return ctx // TLS: its handshake tells
	}
	uid, known := peerUID(b.Conn)
	return context.WithValue(ctx, peerKey{}, peer{uid, known})
}

// operator returns who asks, for the event log, or why he may not.
func (s *Server) operator(r *http.Request) (string, error) {
	if r.TLS == nil {
		p, _ := r.Context().Value(peerKey{}).(peer)
		switch {
		case !p.known:
			return "", refuse(http.StatusForbidden, "the operating system does not say who connects")
		case p.uid != 0 && p.uid != os.Geteuid():
			return "", refuse(http.StatusForbidden, "%s may not: only %s and root", userName(p.uid), userName(os.Geteuid()))
		}
		return userName(p.uid), nil
	}
	if r.TLS.NegotiatedProtocol == Protocol {
		if name := identity.Peer(*r.TLS); name != "" {
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
