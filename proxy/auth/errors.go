package auth

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// SQLSTATEs of authentication (PostgreSQL manual, "PostgreSQL Error Codes").
const (
	codeInvalidAuthorization = "28000"
	codeInvalidPassword      = "28P01"
	codeProtocolViolation    = "08P01"
	codeCannotConnectNow     = "57P03"
)

// Error ends an authentication. The client is told Code, Message and Detail,
// with severity FATAL; the connection is closed after it.
type Error struct {
	Code    string // SQLSTATE
	Message string
	Detail  string
	Log     string // why, for the log only: the client must not learn it
	Err     error  // the cause where there is one, for the log only
}

// Error returns the text for the log.
func (e *Error) Error() string {
	s := e.Message + " (SQLSTATE " + e.Code + ")"
	if e.Log != "" {
		s += ": " + e.Log
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Encode returns the ErrorResponse message for the client.
func (e *Error) Encode() []byte {
	msg := pgproto3.ErrorResponse{
		Severity:            "FATAL",
		SeverityUnlocalized: "FATAL",
		Code:                e.Code,
		Message:             e.Message,
		Detail:              e.Detail,
	}
	b, err := msg.Encode(nil)
	if err != nil {
		panic(fmt.Sprintf("BUG: an authentication error of bounded length does not encode: %v", err))
	}
	return b
}
