package wirescript

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// backendMessages are the names of the messages that a server sends, by their
// type byte (PostgreSQL manual, "Message Formats").
var backendMessages = map[byte]string{
	'R': "Authentication",
	'K': "BackendKeyData",
	'2': "BindComplete",
	'3': "CloseComplete",
	'C': "CommandComplete",
	'd': "CopyData",
	'c': "CopyDone",
	'G': "CopyInResponse",
	'H': "CopyOutResponse",
	'W': "CopyBothResponse",
	'D': "DataRow",
	'I': "EmptyQueryResponse",
	'E': "ErrorResponse",
	'V': "FunctionCallResponse",
	'v': "NegotiateProtocolVersion",
	'n': "NoData",
	'N': "NoticeResponse",
	'A': "NotificationResponse",
	't': "ParameterDescription",
	'S': "ParameterStatus",
	'1': "ParseComplete",
	's': "PortalSuspended",
	'Z': "ReadyForQuery",
	'T': "RowDescription",
}

func backendNames() []string {
	var names []string
	for _, n := range backendMessages {
		names = append(names, n)
	}
	return names
}

// messageName returns the name of a backend message; unknown ones keep their byte.
func messageName(typ byte) string {
	if n, ok := backendMessages[typ]; ok {
		return n
	}
	return "Unknown" + strconv.QuoteRune(rune(typ))
}

// value is a field of bytes: a string, null, or {"hex": "..."}.
type value []byte

// UnmarshalJSON reads one of the three forms.
func (v *value) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*v = nil
		return nil
	}
	if b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*v = []byte(s)
		return nil
	}
	var h struct{ Hex string }
	if err := strictJSON(b, &h); err != nil {
		return err
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(h.Hex, " ", ""))
	if err != nil {
		return fmt.Errorf("read hex: %w", err)
	}
	*v = raw
	if raw == nil {
		*v = value{}
	}
	return nil
}

func raws(vs []value) [][]byte {
	var out [][]byte
	for _, v := range vs {
		out = append(out, v)
	}
	return out
}

// fields has those of all messages; each message takes its own.
type fields struct {
	String               *string
	Name                 *string
	Query                *string
	ParameterOIDs        []uint32
	DestinationPortal    *string
	PreparedStatement    *string
	ParameterFormatCodes []int16
	Parameters           []value
	ResultFormatCodes    []int16
	ObjectType           *string
	Portal               *string
	MaxRows              *uint32
	Data                 *value
	Message              *string
	Function             *uint32
	ArgFormatCodes       []uint16
	Arguments            []value
	ResultFormatCode     *uint16
	Password             *string
}

func (f *fields) objectType() (byte, error) {
	if f.ObjectType == nil || *f.ObjectType != "S" && *f.ObjectType != "P" {
		return 0, fmt.Errorf(`ObjectType must be "S" or "P"`)
	}
	return (*f.ObjectType)[0], nil
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// encodeMessage turns one line of a send block into bytes.
func encodeMessage(line string) ([]byte, error) {
	name, body, _ := strings.Cut(strings.TrimSpace(line), " ")
	body = strings.TrimSpace(body)
	if name == "Raw" {
		raw, err := hex.DecodeString(strings.ReplaceAll(body, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("read hex: %w", err)
		}
		return raw, nil
	}
	var f fields
	if body != "" {
		if err := strictJSON([]byte(body), &f); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	msg, err := f.message(name)
	if err != nil {
		return nil, err
	}
	out, err := msg.Encode(nil)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	return out, nil
}

func (f *fields) message(name string) (pgproto3.FrontendMessage, error) {
	switch name {
	case "Query":
		return &pgproto3.Query{String: or(f.String, "")}, nil
	case "Parse":
		return &pgproto3.Parse{Name: or(f.Name, ""), Query: or(f.Query, ""), ParameterOIDs: f.ParameterOIDs}, nil
	case "Bind":
		return &pgproto3.Bind{
			DestinationPortal: or(f.DestinationPortal, ""), PreparedStatement: or(f.PreparedStatement, ""),
			ParameterFormatCodes: f.ParameterFormatCodes, Parameters: raws(f.Parameters), ResultFormatCodes: f.ResultFormatCodes,
		}, nil
	case "Describe":
		typ, err := f.objectType()
		return &pgproto3.Describe{ObjectType: typ, Name: or(f.Name, "")}, err
	case "Execute":
		return &pgproto3.Execute{Portal: or(f.Portal, ""), MaxRows: or(f.MaxRows, 0)}, nil
	case "Close":
		typ, err := f.objectType()
		return &pgproto3.Close{ObjectType: typ, Name: or(f.Name, "")}, err
	case "Sync":
		return &pgproto3.Sync{}, nil
	case "Flush":
		return &pgproto3.Flush{}, nil
	case "CopyData":
		return &pgproto3.CopyData{Data: or(f.Data, nil)}, nil
	case "CopyDone":
		return &pgproto3.CopyDone{}, nil
	case "CopyFail":
		return &pgproto3.CopyFail{Message: or(f.Message, "")}, nil
	case "FunctionCall":
		return &pgproto3.FunctionCall{
			Function: or(f.Function, 0), ArgFormatCodes: f.ArgFormatCodes,
			Arguments: raws(f.Arguments), ResultFormatCode: or(f.ResultFormatCode, 0),
		}, nil
	case "PasswordMessage":
		return &pgproto3.PasswordMessage{Password: or(f.Password, "")}, nil
	case "SSLRequest":
		return &pgproto3.SSLRequest{}, nil
	case "GSSEncRequest":
		return &pgproto3.GSSEncRequest{}, nil
	case "Terminate":
		return &pgproto3.Terminate{}, nil
	default:
		return nil, fmt.Errorf("unknown message %q", name)
	}
}

// strictJSON decodes one value and refuses fields that are not known.
func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("something follows the JSON value")
	}
	return nil
}

// expand replaces ${i}, ${pid NAME} and ${repeat N TEXT} in s.
func expand(s string, i int, pid func(conn string) (uint32, error)) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		expr, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf("expand %q: no closing brace", s)
		}
		s = after
		switch word, arg, _ := strings.Cut(expr, " "); word {
		case "i":
			out.WriteString(strconv.Itoa(i))
		case "pid":
			p, err := pid(arg)
			if err != nil {
				return "", err
			}
			out.WriteString(strconv.FormatUint(uint64(p), 10))
		case "repeat":
			times, text, _ := strings.Cut(arg, " ")
			n, err := strconv.Atoi(times)
			if err != nil {
				return "", fmt.Errorf("expand %q: %w", expr, err)
			}
			out.WriteString(strings.Repeat(text, n))
		default:
			return "", fmt.Errorf("expand: unknown word in ${%s}", expr)
		}
	}
}
