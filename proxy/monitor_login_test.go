package proxy

import (
	"crypto/rand"
	"errors"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/proxy/auth"
)

// challenge plays a server without TLS whose roles have the password pencil and answers
// the proof with what then returns of the server-final-message.
func challenge(t *testing.T, then func(final []byte) []byte) *fakeServer {
	v, err := auth.ParseVerifier(pencil)
	if err != nil {
		t.Fatal(err)
	}
	return newFakeServer(t, func(conn net.Conn) {
		readStartup(conn)
		_, _ = conn.Write([]byte{'N'})
		readStartup(conn)
		scram, err := auth.NewSCRAMServer(v.SCRAM, false, "SCRAM-SHA-256", nil, rand.Reader)
		if err != nil {
			return
		}
		_, _ = conn.Write(pgwire.AppendAuthentication(nil, 10, []byte("SCRAM-SHA-256\x00\x00")))
		var buf []byte
		_, body, err := readMessage(conn, &buf, 1<<16)
		if err != nil {
			return
		}
		first, err := scram.First(body[len("SCRAM-SHA-256\x00...."):len(body):len(body)])
		if err != nil {
			return
		}
		_, _ = conn.Write(pgwire.AppendAuthentication(nil, 11, first))
		if _, body, err = readMessage(conn, &buf, 1<<16); err != nil {
			return
		}
		final, _, err := scram.Final(body)
		if err != nil {
			final = nil
		}
		_, _ = conn.Write(then(final))
		_, _, _ = readMessage(conn, &buf, 1<<16)
	})
}

func TestMonitorLogsIn(t *testing.T) {
	f := challenge(t, func(final []byte) []byte {
		return append(pgwire.AppendAuthentication(nil, 12, final), greeting()...)
	})
	s := newTest(t, testConfig(t), newFakeCluster(testState("h:1")), Deps{MonitorPassword: "pencil"})
	for range 2 { // the second time with the keys of the first one
		config, err := s.MonitorConfig(f.address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgconn.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		if conn.PID() != 42 || conn.ParameterStatus("TimeZone") != "UTC" {
			t.Errorf("process %d, TimeZone %q", conn.PID(), conn.ParameterStatus("TimeZone"))
		}
		_ = conn.Conn().Close()
	}
}

func TestMonitorIsRefused(t *testing.T) {
	f := challenge(t, func([]byte) []byte {
		return pgwire.AppendError(nil, pgwire.SeverityFatal, "28P01", "password authentication failed", "", "")
	})
	s := newTest(t, testConfig(t), newFakeCluster(testState("h:1")), Deps{MonitorPassword: "wrong"})
	config, err := s.MonitorConfig(f.address)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pgconn.ConnectConfig(t.Context(), config)
	if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "28P01" {
		t.Errorf("error %v", err)
	}
}

func TestMonitorNoticesAForgedServer(t *testing.T) {
	for name, answer := range map[string][]byte{
		"wrong signature": append(pgwire.AppendAuthentication(nil, 12, []byte("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")), greeting()...),
		"no signature":    greeting(),
	} {
		t.Run(name, func(t *testing.T) {
			f := challenge(t, func([]byte) []byte { return answer })
			s := newTest(t, testConfig(t), newFakeCluster(testState("h:1")), Deps{MonitorPassword: "pencil"})
			config, err := s.MonitorConfig(f.address)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = pgconn.ConnectConfig(t.Context(), config); err == nil {
				t.Error("the monitor logged in")
			}
		})
	}
}
