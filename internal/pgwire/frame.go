package pgwire

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the size in bytes of a message's type and length.
const HeaderLen = 5

// Limits on the body of a message, in bytes (PostgreSQL's PQ_LARGE_MESSAGE_LIMIT,
// PQ_SMALL_MESSAGE_LIMIT and PG_MAX_AUTH_TOKEN_LENGTH).
const (
	MaxBody      = 0x3fffffff - 1
	MaxSmallBody = 10000
	MaxAuthBody  = 65535
)

// Types of the messages that a client sends.
const (
	Bind         byte = 'B'
	Close        byte = 'C'
	CopyData     byte = 'd' // both directions
	CopyDone     byte = 'c' // both directions
	CopyFail     byte = 'f'
	Describe     byte = 'D'
	Execute      byte = 'E'
	Flush        byte = 'H'
	FunctionCall byte = 'F'
	Parse        byte = 'P'
	Password     byte = 'p' // and SASLInitialResponse, SASLResponse
	Query        byte = 'Q'
	Sync         byte = 'S'
	Terminate    byte = 'X'
)

// Types of the messages that a server sends.
const (
	Authentication           byte = 'R'
	BackendKeyData           byte = 'K'
	BindComplete             byte = '2'
	CloseComplete            byte = '3'
	CommandComplete          byte = 'C'
	CopyInResponse           byte = 'G'
	CopyOutResponse          byte = 'H'
	CopyBothResponse         byte = 'W'
	DataRow                  byte = 'D'
	EmptyQueryResponse       byte = 'I'
	ErrorResponse            byte = 'E'
	FunctionCallResponse     byte = 'V'
	NegotiateProtocolVersion byte = 'v'
	NoData                   byte = 'n'
	NoticeResponse           byte = 'N'
	NotificationResponse     byte = 'A'
	ParameterDescription     byte = 't'
	ParameterStatus          byte = 'S'
	ParseComplete            byte = '1'
	PortalSuspended          byte = 's'
	ReadyForQuery            byte = 'Z'
	RowDescription           byte = 'T'
)

// Transaction statuses of ReadyForQuery.
const (
	TxIdle          byte = 'I'
	TxInTransaction byte = 'T'
	TxFailed        byte = 'E'
)

// LengthError is a message length that no peer may send.
type LengthError struct {
	Type   byte
	Length int32 // as on the wire: without the type byte, with itself
}

// Error says which message it was.
func (e *LengthError) Error() string {
	return fmt.Sprintf("read message %q: invalid length %d", e.Type, e.Length)
}

// Header reads type and length of the message that starts at b[0]. ok is false
// when b has fewer than 5 bytes. n is the size of the whole message with its type
// byte. The error is a *LengthError: a length below 4 or a body above MaxBody.
func Header(b []byte) (typ byte, n int, ok bool, err error) {
	if len(b) < HeaderLen {
		return 0, 0, false, nil
	}
	typ = b[0]
	length := int32(binary.BigEndian.Uint32(b[1:]))
	if length < 4 || length-4 > MaxBody {
		return typ, 0, true, &LengthError{Type: typ, Length: length}
	}
	return typ, 1 + int(length), true, nil
}

// ClientLimit returns how many bytes the body of a client's message of that type
// may have after the startup; ok is false for a type that no client sends then
// (SocketBackend in PostgreSQL's postgres.c).
func ClientLimit(typ byte) (limit int, ok bool) {
	switch typ {
	case Query, FunctionCall, Bind, Parse, CopyData:
		return MaxBody, true
	case Terminate, Close, Describe, Execute, Flush, Sync, CopyDone, CopyFail:
		return MaxSmallBody, true
	}
	return 0, false
}
