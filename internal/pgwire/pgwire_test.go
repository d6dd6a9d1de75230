package pgwire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

func TestHeader(t *testing.T) {
	for _, tc := range []struct {
		in     []byte
		typ    byte
		n      int
		ok     bool
		broken bool
	}{
		{in: nil},
		{in: []byte{'Q', 0, 0, 0}},
		{in: []byte{'S', 0, 0, 0, 4}, typ: 'S', n: 5, ok: true},
		{in: []byte{'Q', 0, 0, 1, 0, 'x'}, typ: 'Q', n: 257, ok: true},
		{in: []byte{'d', 0x40, 0, 0, 2}, typ: 'd', n: 0x40000003, ok: true},
		{in: []byte{'d', 0x40, 0, 0, 3}, typ: 'd', ok: true, broken: true},
		{in: []byte{'Q', 0, 0, 0, 3}, typ: 'Q', ok: true, broken: true},
		{in: []byte{'Q', 0xff, 0xff, 0xff, 0xff}, typ: 'Q', ok: true, broken: true},
	} {
		typ, n, ok, err := Header(tc.in)
		if typ != tc.typ || n != tc.n || ok != tc.ok || (err != nil) != tc.broken {
			t.Errorf("Header(%v) = %q, %d, %v, %v", tc.in, typ, n, ok, err)
		}
		var length *LengthError
		if err != nil && !errors.As(err, &length) {
			t.Errorf("Header(%v): error is %T", tc.in, err)
		}
	}
}

// decode checks a message against pgx's decoder, an independent reading of the
// same chapter.
func decode[M pgproto3.Message](t *testing.T, b []byte, msg M) M {
	t.Helper()
	_, n, ok, err := Header(b)
	if !ok || err != nil || n != len(b) {
		t.Fatalf("Header(%q) = n %d, ok %v, %v; message has %d bytes", b, n, ok, err, len(b))
	}
	if err := msg.Decode(b[HeaderLen:]); err != nil {
		t.Fatalf("decode %q: %v", b, err)
	}
	again, err := any(msg).(interface{ Encode([]byte) ([]byte, error) }).Encode(nil)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("%T: appended %q, pgx makes %q (%v)", msg, b, again, err)
	}
	return msg
}

func TestAppendAgreesWithPgx(t *testing.T) {
	decode(t, AppendReadyForQuery(nil, TxIdle), &pgproto3.ReadyForQuery{})
	decode(t, AppendParameterStatus(nil, "TimeZone", "UTC"), &pgproto3.ParameterStatus{})
	decode(t, AppendBackendKeyData(nil, 7, bytes.Repeat([]byte{9}, 32)), &pgproto3.BackendKeyData{})
	decode(t, AppendNegotiateProtocolVersion(nil, 2, []string{"_pq_.a", "_pq_.b"}), &pgproto3.NegotiateProtocolVersion{})
	decode(t, AppendQuery(nil, "SELECT 1"), &pgproto3.Query{})
	decode(t, AppendSync(nil), &pgproto3.Sync{})
	decode(t, AppendParse(nil, "s", "SELECT $1", []uint32{23}), &pgproto3.Parse{})
	decode(t, AppendClose(nil, 'S', "s"), &pgproto3.Close{})
	decode(t, AppendDescribe(nil, 'P', "p"), &pgproto3.Describe{})
	decode(t, AppendPassword(nil, "pw"), &pgproto3.PasswordMessage{})
	decode(t, AppendSASLInitialResponse(nil, "SCRAM-SHA-256", []byte("n,,")), &pgproto3.SASLInitialResponse{})
	decode(t, AppendCommandComplete(nil, "SHOW"), &pgproto3.CommandComplete{})

	e := &pgproto3.ErrorResponse{}
	b := AppendError(nil, SeverityFatal, "53300", "m", "d", "h")
	if err := e.Decode(b[HeaderLen:]); err != nil {
		t.Fatal(err)
	}
	if e.Severity != "FATAL" || e.SeverityUnlocalized != "FATAL" || e.Code != "53300" ||
		e.Message != "m" || e.Detail != "d" || e.Hint != "h" {
		t.Errorf("AppendError: %+v", e)
	}
	if got := ErrorField(b[HeaderLen:], 'C'); string(got) != "53300" {
		t.Errorf("ErrorField C = %q", got)
	}
	if got := ErrorField(b[HeaderLen:], 'W'); got != nil {
		t.Errorf("ErrorField W = %q", got)
	}
}

func TestReaders(t *testing.T) {
	if tag := CommandTag(AppendCommandComplete(nil, "INSERT 0 1")[HeaderLen:]); string(tag) != "INSERT 0 1" {
		t.Errorf("CommandTag = %q", tag)
	}
	if name, value, ok := ReadParameterStatus([]byte("a\x00b\x00")); string(name) != "a" || string(value) != "b" || !ok {
		t.Errorf("ReadParameterStatus = %q, %q, %v", name, value, ok)
	}
	for _, body := range []string{"", "a", "a\x00b", "a\x00b\x00c"} {
		if _, _, ok := ReadParameterStatus([]byte(body)); ok {
			t.Errorf("ReadParameterStatus(%q) accepted", body)
		}
	}
	mech, data, ok := ReadSASLInitialResponse(AppendSASLInitialResponse(nil, "M", []byte("d"))[HeaderLen:])
	if mech != "M" || string(data) != "d" || !ok {
		t.Errorf("ReadSASLInitialResponse = %q, %q, %v", mech, data, ok)
	}
	for _, body := range []string{"M", "M\x00\x00\x00\x00", "M\x00\x00\x00\x00\x02a", "M\x00\xff\xff\xff\xfe"} {
		if _, _, ok := ReadSASLInitialResponse([]byte(body)); ok {
			t.Errorf("ReadSASLInitialResponse(%q) accepted", body)
		}
	}
	pid, secret, ok := ReadCancelRequest(AppendCancelRequest(nil, 42, []byte("abcd"))[4:])
	if pid != 42 || string(secret) != "abcd" || !ok {
		t.Errorf("ReadCancelRequest = %d, %q, %v", pid, secret, ok)
	}
}

func startupBody(version uint32, words ...string) []byte {
	var params []Parameter
	for i := 0; i < len(words); i += 2 {
		params = append(params, Parameter{words[i], words[i+1]})
	}
	return AppendStartup(nil, version, params)[4:]
}

func TestParseStartup(t *testing.T) {
	s, err := ParseStartup(startupBody(Version32,
		"user", "a", "DateStyle", "ISO", "database", "d", "user", "b", "_pq_.x", "1",
		"options", "-c a=b", "DateStyle", "SQL", "replication", "ye"))
	if err != nil {
		t.Fatal(err)
	}
	if s.User != "b" || s.Database != "d" || s.Replication != ReplicationPhysical ||
		len(s.Unrecognized) != 1 || s.Version != Version32 {
		t.Errorf("startup = %+v", s)
	}
	want := []Parameter{{"DateStyle", "ISO"}, {"options", "-c a=b"}, {"DateStyle", "SQL"}}
	if len(s.Params) != len(want) {
		t.Fatalf("params = %v", s.Params)
	}
	for i := range want {
		if s.Params[i] != want[i] {
			t.Errorf("param %d = %v, want %v", i, s.Params[i], want[i])
		}
	}
}

func TestParseStartupFaults(t *testing.T) {
	good := startupBody(Version30, "user", "a")
	for name, tc := range map[string]struct {
		body          []byte
		code, message string
	}{
		"old version":    {startupBody(2<<16, "user", "a"), "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"},
		"second SSL":     {AppendSSLRequest(nil)[4:], "0A000", "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2"},
		"no terminator":  {good[:len(good)-1], "08P01", errLayout.Message},
		"no value":       {append(good[:len(good)-1:len(good)-1], "x\x00"...), "08P01", errLayout.Message},
		"bytes after it": {append(good[:len(good):len(good)], 'x'), "08P01", errLayout.Message},
		"only a version": {good[:4], "08P01", errLayout.Message},
		"empty":          {nil, "0A000", "unsupported frontend protocol 0.0: server supports 3.0 to 3.2"},
		"replication":    {startupBody(Version30, "replication", "o"), "22023", `invalid value for parameter "replication": "o"`},
	} {
		_, err := ParseStartup(tc.body)
		var fault *StartupError
		if !errors.As(err, &fault) || fault.Code != tc.code || fault.Message != tc.message {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{'Q', 0, 0, 0, 4})
	f.Add([]byte{'Q', 0xff, 0xff, 0xff, 0xff})
	f.Add(AppendError(nil, SeverityError, "XX000", "m", "", ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, n, ok, err := Header(b)
		if ok != (len(b) >= HeaderLen) {
			t.Fatalf("ok = %v for %d bytes", ok, len(b))
		}
		if ok && err == nil && (n < HeaderLen || n > HeaderLen+MaxBody) {
			t.Fatalf("size %d", n)
		}
		if ok && err == nil && n <= len(b) {
			body := b[HeaderLen:n]
			ErrorField(body, 'C')
			CommandTag(body)
			ReadParameterStatus(body)
			ReadBackendKeyData(body)
			ReadAuthentication(body)
			ReadSASLInitialResponse(body)
		}
	})
}

func FuzzParseStartup(f *testing.F) {
	f.Add(startupBody(Version30, "user", "a", "replication", "database"))
	f.Add(AppendCancelRequest(nil, 1, []byte("abcd"))[4:])
	f.Add(AppendSSLRequest(nil)[4:])
	f.Fuzz(func(t *testing.T, body []byte) {
		ReadCancelRequest(body)
		s, err := ParseStartup(body)
		var fault *StartupError
		if err != nil && !errors.As(err, &fault) {
			t.Fatalf("error is %T: %v", err, err)
		}
		if err != nil {
			return
		}
		// What was accepted is accepted again when it is sent on.
		params := append([]Parameter{{"user", s.User}, {"database", s.Database}}, s.Params...)
		again, err := ParseStartup(AppendStartup(nil, s.Version, params)[4:])
		if err != nil && len(body)+len("user..database..") <= MaxStartup {
			t.Fatalf("read again: %v", err)
		}
		if err == nil && (again.User != s.User || again.Database != s.Database || len(again.Params) != len(s.Params)) {
			t.Fatalf("read again: %+v, want %+v", again, s)
		}
	})
}
