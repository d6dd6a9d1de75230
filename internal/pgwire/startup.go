package pgwire

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Protocol versions: major in the upper, minor in the lower 16 bits.
const (
	Version30     uint32 = 3 << 16
	Version32     uint32 = 3<<16 | 2
	VersionLatest        = Version32
)

// Request codes in the place of a version.
const (
	CancelRequestCode uint32 = 1234<<16 | 5678
	SSLRequestCode    uint32 = 1234<<16 | 5679
	GSSENCRequestCode uint32 = 1234<<16 | 5680
)

// Limits of packets before the startup is over, in bytes.
const (
	MaxStartup = 10000 // of a startup packet without its length (MAX_STARTUP_PACKET_LENGTH)
	MaxSecret  = 256   // of a cancel key (protocol 3.2)
	MaxName    = 63    // of a user or database name (NAMEDATALEN - 1)
)

// Parameter is one name and value of a startup packet.
type Parameter struct{ Name, Value string }

// Replication is the kind of session that the startup parameter `replication`
// asks for.
type Replication uint8

// The kinds.
const (
	ReplicationNone     Replication = iota
	ReplicationPhysical             // any true value: no database
	ReplicationDatabase             // "database"
)

// Startup is a StartupMessage.
type Startup struct {
	Version     uint32 // as the client asked for
	User        string // "" not given
	Database    string // "" not given
	Replication Replication
	// Params are all others in the order of the packet, with repetitions: the server
	// applies them in turn.
	Params       []Parameter
	Unrecognized []string // names of the _pq_. options, none of which is known
}

// StartupError is a fault of a startup packet, with PostgreSQL's code and text.
type StartupError struct {
	Code, Message, Hint string
}

// Error returns the text that the client gets.
func (e *StartupError) Error() string { return e.Message }

// RequestCode returns the version or request code at the start of a startup
// packet's body, 0 when it is shorter than that.
func RequestCode(body []byte) uint32 {
	if len(body) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(body)
}

// ParseStartup reads the body (what follows the length) of a StartupMessage as
// PostgreSQL's ProcessStartupPacket does. Of user, database, replication and
// options the last one counts. The error is a *StartupError.
func ParseStartup(body []byte) (Startup, error) {
	s := Startup{Version: RequestCode(body)}
	if len(body) > MaxStartup {
		return s, &StartupError{Code: "08P01", Message: "invalid length of startup packet"}
	}
	if s.Version>>16 != VersionLatest>>16 {
		return s, &StartupError{Code: "0A000", Message: fmt.Sprintf(
			"unsupported frontend protocol %d.%d: server supports %d.0 to %d.%d",
			s.Version>>16, s.Version&0xffff, Version30>>16, VersionLatest>>16, VersionLatest&0xffff)}
	}
	rest := body[4:]
	for len(rest) > 0 && rest[0] != 0 {
		name, after, ok := CString(rest)
		if !ok {
			return s, errLayout
		}
		value, after, ok := CString(after)
		if !ok {
			return s, errLayout
		}
		if err := s.set(string(name), string(value)); err != nil {
			return s, err
		}
		rest = after
	}
	if len(rest) != 1 {
		return s, errLayout
	}
	return s, nil
}

var errLayout = &StartupError{
	Code:    "08P01",
	Message: "invalid startup packet layout: expected terminator as last byte",
}

func (s *Startup) set(name, value string) error {
	switch {
	case name == "user":
		s.User = value
	case name == "database":
		s.Database = value
	case name == "replication":
		if value == "database" {
			s.Replication = ReplicationDatabase
			break
		}
		on, ok := parseBool(value)
		if !ok {
			return &StartupError{
				Code:    "22023",
				Message: fmt.Sprintf("invalid value for parameter \"replication\": \"%s\"", value),
				Hint:    `Valid values are: "false", 0, "true", 1, "database".`,
			}
		}
		s.Replication = ReplicationNone
		if on {
			s.Replication = ReplicationPhysical
		}
	case strings.HasPrefix(name, "_pq_."):
		s.Unrecognized = append(s.Unrecognized, name)
	default:
		s.Params = append(s.Params, Parameter{name, value})
	}
	return nil
}

// parseBool reads a boolean as PostgreSQL's parse_bool: any unique prefix of the
// words in any case, and 0 and 1.
func parseBool(s string) (value, ok bool) {
	s = strings.ToLower(s)
	switch {
	case s == "":
		return false, false
	case s == "1", s == "on", strings.HasPrefix("true", s), strings.HasPrefix("yes", s):
		return true, true
	case s == "0", s == "of", s == "off", strings.HasPrefix("false", s), strings.HasPrefix("no", s):
		return false, true
	}
	return false, false
}

// Negotiated returns the version that a session has whose client asked for v (of
// major 3), as PostgreSQL 18 decides.
func Negotiated(v uint32) uint32 { return min(v, VersionLatest) }

// AppendStartup appends a StartupMessage. The strings hold no NUL, and no name is
// empty.
func AppendStartup(dst []byte, version uint32, params []Parameter) []byte {
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(append(dst, 0, 0, 0, 0), version)
	for _, p := range params {
		dst = appendString(appendString(dst, p.Name), p.Value)
	}
	return end(append(dst, 0), at)
}

// AppendSSLRequest appends SSLRequest.
func AppendSSLRequest(dst []byte) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0, 0, 0, 8), SSLRequestCode)
}

// AppendCancelRequest appends CancelRequest.
func AppendCancelRequest(dst []byte, pid uint32, secret []byte) []byte {
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(append(dst, 0, 0, 0, 0), CancelRequestCode)
	dst = binary.BigEndian.AppendUint32(dst, pid)
	return end(append(dst, secret...), at)
}

// ReadCancelRequest returns process id and secret of a CancelRequest's body.
func ReadCancelRequest(body []byte) (pid uint32, secret []byte, ok bool) {
	if RequestCode(body) != CancelRequestCode {
		return 0, nil, false
	}
	return ReadBackendKeyData(body[4:])
}
