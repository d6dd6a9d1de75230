package auth

import (
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"
)

// SQLSTATEs of authentication (PostgreSQL manual, "PostgreSQL Error Codes").
const (
	codeInvalidAuthorization = "28000"
	codeInvalidPassword      = "28P01"
	codeProtocolViolation    = "08P01"
	codeCannotConnectNow     = "57P03"
	codeFeatureNotSupported  = "0A000"
	codeQueryCanceled        = "57014"
	codeAdminShutdown        = "57P01"
	codeInternalError        = "XX000"
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
	return mustEncode(&msg)
}

// violation is an error for a message that breaks the protocol.
func violation(message string) *Error {
	return &Error{Code: codeProtocolViolation, Message: message}
}

// internal is an error that is nobody's fault outside.
func internal(message string, err error) *Error {
	return &Error{Code: codeInternalError, Message: message, Err: err}
}

// asError takes an error of the SCRAM exchange to the client: its own texts, or
// that random bytes could not be had.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return internal("could not generate random nonce", err)
}
