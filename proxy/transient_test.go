package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
)

// A server that dies while it is logged in on may answer in many ways. None of them is
// for the client: the next primary will do.
func TestTransientErrorsOfALogin(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{&ServerError{Code: "57P01", Message: "terminating connection due to unexpected postmaster exit"}, true},
		{&ServerError{Code: "57P02"}, true},
		{&ServerError{Code: "57P03"}, true},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), true},
		{fmt.Errorf("read: %w", io.EOF), true},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		{errNoPrimary, true},
		{&ServerError{Code: "3D000"}, false},
		{&ServerError{Code: "28P01"}, false},
		{&Refusal{Code: "53300"}, false},
		{errors.New("a message that is none"), false},
	} {
		if got := isTransient(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}
