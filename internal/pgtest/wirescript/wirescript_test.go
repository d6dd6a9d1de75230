package wirescript

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func TestParseRefusesWhatIsNoScript(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"nonsense", `line 1: unknown command "nonsense"`},
		{"startup\n\nsend\n\n", "line 3: send needs a block"},
		{"send Query", "line 1: send needs a block and nothing on its own line"},
		{"until", "line 1: until needs an argument"},
		{"until Reply", `line 1: unknown message "Reply"`},
		{"until ReadyForQuery*x", "line 1: read the number of repetitions"},
		{"query", "line 1: query needs SQL"},
		{"query-error 22012", "line 1: query-error needs two arguments"},
		{"bytes many", "line 1: bytes needs a number"},
		{"# fine\n\nclose now", "line 3: close takes no argument"},
		{"ignore BackendKeyData", "line 1: ignore needs two arguments"},
		{"ignore Keys because", `line 1: unknown message "Keys"`},
	} {
		if _, err := Parse("s", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got error %v, want %q", c.text, err, c.want)
		}
	}
}

func TestEncodeMessage(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`Sync`, "S\x00\x00\x00\x04"},
		{`Query {"String":"SELECT 1"}`, "Q\x00\x00\x00\x0dSELECT 1\x00"},
		{`Raw 51 00000004`, "Q\x00\x00\x00\x04"},
		{`CopyData {"Data":{"hex":"00 ff"}}`, "d\x00\x00\x00\x06\x00\xff"},
		{
			`Bind {"DestinationPortal":"p","PreparedStatement":"s","Parameters":[null,"",{"hex":""}],"ResultFormatCodes":[1]}`,
			"B\x00\x00\x00\x1cp\x00s\x00\x00\x00\x00\x03\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01",
		},
		{`Describe {"ObjectType":"S","Name":"s"}`, "D\x00\x00\x00\x07Ss\x00"},
	} {
		got, err := encodeMessage(c.line)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.line, got, err, c.want)
		}
	}
	for _, line := range []string{`Ask`, `Query {"Text":"x"}`, `Describe {"Name":"s"}`, `Raw 5`, `Query {} {}`} {
		if got, err := encodeMessage(line); err == nil {
			t.Errorf("%s: encoded as %q", line, got)
		}
	}
}

func TestExpand(t *testing.T) {
	pid := func(name string) (uint32, error) {
		if name != "a" {
			return 0, errors.New("unknown connection")
		}
		return 4711, nil
	}
	got, err := expand("${i} ${repeat 3 ab} ${pid a} $1", 7, pid)
	if want := "7 ababab 4711 $1"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, s := range []string{"${pid b}", "${repeat x y}", "${what}", "${i"} {
		if got, err := expand(s, 0, pid); err == nil {
			t.Errorf("%s: expanded to %q", s, got)
		}
	}
}

func TestStartupPacketKeepsOrder(t *testing.T) {
	o, err := parseStartup(`z=1 database= options="-c a=\"b\"" protocol=3.2`, func(user string) string { return user + "!" })
	if err != nil {
		t.Fatal(err)
	}
	want := "\x00\x03\x00\x02user\x00app\x00z\x001\x00options\x00-c a=\"b\"\x00\x00"
	if got := string(o.packet()[4:]); got != want || o.password != "app!" {
		t.Errorf("got %q and password %q, want %q", got, o.password, want)
	}
}

// backendMessage frames a message of the server.
func backendMessage(typ byte, body string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{typ}, uint32(4+len(body)))
	return append(b, body...)
}

// noCluster is an environment for scripts that need none.
type noCluster struct{}

func (noCluster) Exec(context.Context, string) error  { return nil }
func (noCluster) Await(context.Context, string) error { return nil }
func (noCluster) Catchup(context.Context) error       { return nil }

// transcriptOf runs a script against a server that sends an answer to whatever
// comes, and then closes.
func transcriptOf(t *testing.T, script string, answer ...[]byte) *Transcript {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return // the test has failed already
		}
		defer c.Close()
		_, _ = c.Write(bytes.Join(answer, nil))
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c) // so that nothing is lost by a reset
	}()
	s, err := Parse("s", []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	r := Runner{Address: l.Addr().String(), Password: func(string) string { return "" }, Environment: noCluster{}}
	transcript, err := r.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return transcript
}

func TestCompare(t *testing.T) {
	const script = "open\nsend\nSync\n\nexpect-close"
	key := func(pid, secret string) []byte { return backendMessage('K', pid+secret) }
	failure := func(fields ...string) []byte { return backendMessage('E', strings.Join(fields, "\x00")+"\x00\x00") }
	own := Differences{Own: map[string]bool{"26000": true}}
	for _, c := range []struct {
		name      string
		want, got []byte
		equal     bool
	}{
		{"same", backendMessage('Z', "I"), backendMessage('Z', "I"), true},
		{"other status", backendMessage('Z', "I"), backendMessage('Z', "T"), false},
		{"other type", backendMessage('1', ""), backendMessage('2', ""), false},
		{"one more", backendMessage('Z', "I"), append(backendMessage('Z', "I"), backendMessage('Z', "I")...), false},
		{"one less", backendMessage('Z', "I"), nil, false},
		{"other key", key("0001", "abcd"), key("0002", "efgh"), true},
		{"longer key", key("0001", "abcd"), key("0002", "efghi"), false},
		{
			"unknown process notifies", append(key("0001", "abcd"), backendMessage('A', "0001c\x00p\x00")...),
			append(key("0002", "abcd"), backendMessage('A', "0001c\x00p\x00")...), false,
		},
		{
			"own process notifies", append(key("0001", "abcd"), backendMessage('A', "0001c\x00p\x00")...),
			append(key("0002", "abcd"), backendMessage('A', "0002c\x00p\x00")...), true,
		},
		{"nonce", backendMessage('R', "\x00\x00\x00\x0br=abc,s=salt,i=4096"), backendMessage('R', "\x00\x00\x00\x0br=defg,s=salt,i=4096"), true},
		{"salt", backendMessage('R', "\x00\x00\x00\x0br=abc,s=salt,i=4096"), backendMessage('R', "\x00\x00\x00\x0br=abc,s=tlas,i=4096"), false},
		{"own error without source", failure("C26000", "Mtext", "Ff.c", "L1", "Rf"), failure("C26000", "Mtext"), true},
		{"own error of other text", failure("C26000", "Mtext", "Ff.c", "L1", "Rf"), failure("C26000", "Mother"), false},
		{"own error of other source", failure("C26000", "Mtext", "Ff.c", "L1", "Rf"), failure("C26000", "Mtext", "Fg.c", "L1", "Rf"), false},
		{"another error without source", failure("C22012", "Mtext", "Ff.c", "L1", "Rf"), failure("C22012", "Mtext"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			diff := Compare(transcriptOf(t, script, c.want), transcriptOf(t, script, c.got), own)
			if (diff == "") != c.equal {
				t.Errorf("got difference %q, want equal %t", diff, c.equal)
			}
		})
	}
}

func TestUnexpectedErrorIsAProblem(t *testing.T) {
	failure := backendMessage('E', "SERROR\x00C22012\x00\x00")
	ready := backendMessage('Z', "I")
	for _, c := range []struct {
		until string
		want  int
	}{
		{"ReadyForQuery", 1},
		{"ErrorResponse ReadyForQuery", 0},
		{"ErrorResponse/22012 ReadyForQuery", 0},
		{"ErrorResponse/42601 ReadyForQuery", 1},
	} {
		got := transcriptOf(t, "open\nuntil "+c.until+"\nexpect-close", failure, ready)
		if len(got.Problems) != c.want {
			t.Errorf("until %s: got problems %q, want %d", c.until, got.Problems, c.want)
		}
	}
}
