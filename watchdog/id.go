package watchdog

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/hashicorp/raft"
)

// A server's id is the member's name and a random incarnation that is born with its
// raft.db: "h1/3f9c...". A member that lost its disk is another server, which has
// promised nothing. A server's address in raft is its id and where to connect,
// "h1/3f9c...@10.77.0.11:9000": so two incarnations never have the same one, and
// the one who dials knows whom it wants.

// newID returns the id of a new incarnation.
func newID(name string) string { return name + "/" + newNonce() }

// newNonce returns 16 random hexadecimal digits.
func newNonce() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// nameOf returns the member of a server's id.
func nameOf[T ~string](id T) string {
	name, _, _ := strings.Cut(string(id), "/")
	return name
}

func serverAddress(id, hostport string) raft.ServerAddress {
	return raft.ServerAddress(id + "@" + hostport)
}

// splitAddress takes serverAddress apart.
func splitAddress(a raft.ServerAddress) (id, hostport string) {
	id, hostport, _ = strings.Cut(string(a), "@")
	return id, hostport
}

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a member has no name")
	case strings.ContainsAny(name, "/@ \t\r\n\x00"):
		return fmt.Errorf("member name %q has a space, %q or %q", name, "/", "@")
	case len(name) > 64:
		return fmt.Errorf("member name of %d bytes is longer than 64", len(name))
	}
	return nil
}
