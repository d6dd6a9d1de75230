package session

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// Statements knows the prepared statements of all sessions whose server connections
// are shared: the same text, prepared under the same settings, has one name on the
// servers, so that it is parsed once for each connection and not for each session. It
// is safe for concurrent use.
type Statements struct {
	last atomic.Uint64 // version given out last
	// sequences: somebody asks for currval or lastval. From then on the values of one
	// session are discarded before the next one writes (Core.ownSequences).
	sequences atomic.Bool

	mu struct {
		sync.Mutex
		byText map[[sha256.Size]byte]*shared
		bytes  int
	}
}

// shared is a prepared statement under its name on the servers. It is immutable.
type shared struct {
	name    string
	version uint64
	parse   []byte // the Parse message
	// settings is the key of those under which it is made.
	settings string
	size     int // that it counts for in Statements
}

// sizeOf is what a statement and its settings take, in bytes.
func sizeOf(parse []byte, settings string) int { return len(parse) + len(settings) + sharedOverhead }

// sharedPrefix begins the names on the servers. Clients that use such names
// themselves are in their own way.
const sharedPrefix = "pgproxy_"

// maxShared bounds what Statements remembers, in bytes. What it forgets gets another
// name when it is prepared again.
const maxShared = 64 << 20

// sharedOverhead is what an entry takes beside its text, in bytes.
const sharedOverhead = 256

// NewStatements returns an empty set.
func NewStatements() *Statements {
	t := &Statements{}
	t.mu.byText = make(map[[sha256.Size]byte]*shared)
	return t
}

// block is how many versions a session takes at once.
const block = 1024

// take returns the first of a block of versions that nobody else uses.
func (t *Statements) take() uint64 { return t.last.Add(block) - block + 1 }

// of returns the statement of a whole Parse message, made under those settings: they
// decide what a constant in the text means.
func (t *Statements) of(parse []byte, settings string) *shared {
	body := parse[pgwire.HeaderLen:]
	name, rest, ok := pgwire.CString(body)
	if !ok {
		return nil
	}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(settings))))
	h.Write([]byte(settings))
	h.Write(rest)
	key := [sha256.Size]byte(h.Sum(nil))
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.mu.byText[key]; s != nil {
		return s
	}
	size := sizeOf(parse, settings)
	for old, s := range t.mu.byText {
		if t.mu.bytes+size <= maxShared {
			break
		}
		delete(t.mu.byText, old)
		t.mu.bytes -= s.size
	}
	s := &shared{version: t.last.Add(1), settings: settings, size: size}
	s.name = sharedPrefix + strconv.FormatUint(s.version, 36)
	s.parse = renamed(parse, len(parse), len(name)+1, s.name)
	s.parse = append(s.parse, rest...)
	t.mu.byText[key] = s
	t.mu.bytes += size
	return s
}

// renamed returns the start of a message of n bytes in which the name that fills the
// first old bytes of the body, with its zero, is another one.
func renamed(b []byte, n, old int, name string) []byte {
	out := make([]byte, 0, pgwire.HeaderLen+len(name)+1+n-pgwire.HeaderLen-old)
	out = append(out, b[0])
	out = binary.BigEndian.AppendUint32(out, uint32(n-1-old+len(name)+1))
	out = append(out, name...)
	return append(out, 0)
}

// parseAs returns the Parse message of a statement under another name.
func parseAs(parse []byte, name string) []byte {
	old, rest, ok := pgwire.CString(parse[pgwire.HeaderLen:])
	if !ok {
		panic("BUG: a Parse message was kept that has no name")
	}
	return append(renamed(parse, len(parse), len(old)+1, name), rest...)
}

// bindTo appends to dst what replaces the first cut bytes of a Bind message, or of the
// start of a large one, so that it names another statement. n is the size of the message.
func bindTo(dst, b []byte, n int, name string) (text []byte, cut int) {
	portal, rest, _ := pgwire.CString(b[pgwire.HeaderLen:])
	old, _, _ := pgwire.CString(rest)
	cut = pgwire.HeaderLen + len(portal) + 1 + len(old) + 1
	text = append(dst, b[0])
	text = binary.BigEndian.AppendUint32(text, uint32(n-1-len(old)+len(name)))
	text = append(append(text, portal...), 0)
	return append(append(text, name...), 0), cut
}

// isShared reports a name on the servers that is no session's own.
func isShared(name string) bool { return strings.HasPrefix(name, sharedPrefix) }
