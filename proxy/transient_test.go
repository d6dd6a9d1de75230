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
		{fmt.Errorf("request TLS: %w", errNoLogin), true},
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

// What a server answers to the request for TLS, before anything is authenticated.
func TestAnswersToTheRequestForTLS(t *testing.T) {
	for _, tt := range []struct {
		answer          string
		mode            SSLMode
		good, transient bool
	}{
		{answer: "N", mode: SSLPrefer, good: true},
		{answer: "N", mode: SSLRequire},
		{answer: "E\x00\x00\x00\x08SFATAL\x00", mode: SSLPrefer, transient: true},
		{answer: "E\x00\x00\x00\x08SFATAL\x00", mode: SSLRequire, transient: true},
		{answer: "NE\x00\x00\x00\x08SFATAL\x00", mode: SSLPrefer, transient: true},
		{answer: "Sx", mode: SSLPrefer}, // a man in the middle
		{answer: "?", mode: SSLPrefer},
		{answer: "", mode: SSLPrefer, transient: true},
	} {
		server, conn := net.Pipe()
		go func() {
			defer server.Close()
			_, _ = io.ReadFull(server, make([]byte, 8)) // the request
			_, _ = server.Write([]byte(tt.answer))
		}()
		_, err := (&backTLS{mode: tt.mode}).secure(t.Context(), conn, "", "h1")
		conn.Close()
		if (err == nil) != tt.good || err != nil && isTransient(err) != tt.transient {
			t.Errorf("%q, mode %s: %v", tt.answer, tt.mode, err)
		}
	}
}
