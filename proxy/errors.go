package proxy

import (
	"fmt"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// SQLSTATEs that the startup and the pools raise (PostgreSQL manual, "PostgreSQL
// Error Codes").
const (
	codeProtocolViolation    = "08P01"
	codeInvalidAuthorization = "28000"
	codeInvalidPassword      = "28P01"
	codeNotInState           = "55000"
	codeIdleInTransaction    = "25P03"
	codeTransactionTimeout   = "25P04"
	codeTooManyConnections   = "53300"
	codeQueryCanceled        = "57014"
	codeAdminShutdown        = "57P01"
	codeCrashShutdown        = "57P02"
	codeCannotConnectNow     = "57P03"
	codeIdleSession          = "57P05"
)

// Refusal is an error that pgproxy raises itself, as the client is told it.
type Refusal struct {
	Code, Message, Detail, Hint string
}

// Error returns the text for the log.
func (e *Refusal) Error() string { return fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code) }

// encode returns the ErrorResponse of that severity.
func (e *Refusal) encode(severity string) []byte {
	return pgwire.AppendError(nil, severity, e.Code, e.Message, e.Detail, e.Hint)
}

// ServerError is an ErrorResponse with which a backend refused a login.
type ServerError struct {
	Backend string
	Raw     []byte // the whole message, to be forwarded unchanged
	Code    string
	Message string
}

// Error returns the text for the log.
func (e *ServerError) Error() string {
	return fmt.Sprintf("log in on backend %q: %s (SQLSTATE %s)", e.Backend, e.Message, e.Code)
}
