package wirescript

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
)

// event is one thing that came from the server.
type event struct {
	line int // of the script
	conn string
	kind eventKind
	typ  byte // of a message
	body []byte
}

type eventKind uint8

const (
	eventUnknown eventKind = iota
	eventMessage
	eventBytes  // that are no message
	eventClosed // by the server
)

// Transcript is everything that came back in one run of a script.
type Transcript struct {
	// Problems are what the script itself would not have expected, such as an error
	// that it does not name. A good script has none against PostgreSQL.
	Problems []string

	script *Script
	events []event
	pids   map[uint32]string // who was told which process id
	line   int
}

func (t *Transcript) closed(c *conn) {
	t.events = append(t.events, event{line: t.line, conn: c.name, kind: eventClosed})
}

// longBody is where a body is printed by its beginning, length and hash.
const longBody = 2000

// quote prints bytes exactly, or a long body so that equal prints mean equal bytes.
func quote(body []byte) string {
	if len(body) <= longBody {
		return strconv.QuoteToASCII(string(body))
	}
	return fmt.Sprintf("%s... %d bytes, sha256 %x", strconv.QuoteToASCII(string(body[:200])), len(body), sha256.Sum256(body))
}

// bytesName stands for bytes that are no message in the command ignore.
const bytesName = "Bytes"

// name is what the command ignore calls the event; a closing cannot be ignored.
func (e event) name() string {
	switch e.kind {
	case eventMessage:
		return messageName(e.typ)
	case eventBytes:
		return bytesName
	case eventClosed, eventUnknown:
	}
	return ""
}

func (e event) String() string {
	switch e.kind {
	case eventClosed:
		return e.conn + " closed"
	case eventBytes:
		return e.conn + " bytes " + quote(e.body)
	case eventMessage:
		return e.conn + " " + messageName(e.typ) + " " + quote(e.body)
	case eventUnknown:
	}
	panic("BUG: event of no kind")
}

// String prints the transcript, one message per line.
func (t *Transcript) String() string {
	var b strings.Builder
	for _, e := range t.events {
		fmt.Fprintf(&b, "%4d %s\n", e.line, e)
	}
	return b.String()
}
