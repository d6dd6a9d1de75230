package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestHBA runs testdata/hba. Commands:
//
//	file name=X   a file that "@X" lists
//	parse         prints the rules, or every fault
//	match         prints what becomes of each connection, one a line
//	              (local, host=ADDR, tls, replication, user=, db=)
func TestHBA(t *testing.T) {
	datadriven.Walk(t, "testdata/hba", func(t *testing.T, path string) {
		files := map[string]string{}
		var h *HBA
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "file":
				var name string
				d.ScanArgs(t, "name", &name)
				files[name] = d.Input
				return ""
			case "parse":
				var err error
				h, err = parseHBA(strings.NewReader(d.Input), "conf/pg_hba.conf", func(path string) ([]byte, error) {
					name, err := filepath.Rel("conf", path)
					if err != nil {
						return nil, err
					}
					text, ok := files[name]
					if !ok {
						return nil, errors.New("no such file")
					}
					return []byte(text), nil
				})
				if err != nil {
					return err.Error()
				}
				h.interfaces = func() ([]netip.Prefix, error) {
					return []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParsePrefix("fd00::5/64")}, nil
				}
				return h.describe()
			case "match":
				var out strings.Builder
				for line := range strings.Lines(d.Input) {
					line = strings.TrimSpace(line)
					c := parseConn(t, line)
					r := h.Match(c)
					if r.Method == MethodReject {
						e := r.reject(c)
						fmt.Fprintf(&out, "%s -> %s %s\n", line, e.Code, e.Message)
					} else {
						fmt.Fprintf(&out, "%s -> line %d %s\n", line, r.Line, r.Method)
					}
				}
				return out.String()
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// parseConn reads a connection from words.
func parseConn(t *testing.T, line string) ConnInfo {
	var c ConnInfo
	for _, word := range strings.Fields(line) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "local":
			c.Local = true
		case "host":
			c.Remote = netip.MustParseAddr(value)
		case "tls":
			c.TLS = true
		case "replication":
			c.Replication = true
		case "user":
			c.User = value
		case "db":
			c.Database = value
		case "peer":
			c.PeerUser = func() string { return value }
		default:
			t.Fatalf("unknown word %q", word)
		}
	}
	return c
}

// describe prints the rules.
func (h *HBA) describe() string {
	names := func(list []nameMatch) string {
		var out []string
		for _, m := range list {
			switch m.kind {
			case nameAll:
				out = append(out, "<all>")
			case nameSameUser:
				out = append(out, "<sameuser>")
			case nameReplication:
				out = append(out, "<replication>")
			case nameRegex:
				out = append(out, "regex:"+m.regex.String())
			case nameExact:
				out = append(out, m.name)
			case nameUnknown:
				out = append(out, "?")
			}
		}
		return strings.Join(out, "|")
	}
	var b strings.Builder
	for _, e := range h.entries {
		fmt.Fprintf(&b, "%d: %s db=%s user=%s", e.rule.Line,
			[]string{"?", "local", "host", "hostssl", "hostnossl", "hostgssenc"}[e.transport], names(e.databases), names(e.users))
		switch e.address.kind {
		case addressAll:
			b.WriteString(" <all>")
		case addressRange:
			fmt.Fprintf(&b, " %s mask %s", e.address.base, e.address.mask)
		case addressSameHost:
			b.WriteString(" <samehost>")
		case addressSameNet:
			b.WriteString(" <samenet>")
		case addressNone:
		}
		fmt.Fprintf(&b, " %s", e.rule.Method)
		switch e.rule.ClientCert {
		case ClientCertVerifyCA:
			b.WriteString(" clientcert=verify-ca")
		case ClientCertVerifyFull:
			b.WriteString(" clientcert=verify-full")
		case ClientCertNone:
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestHBAReadsListsBesideTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte("alice\nbob, carol # three\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := ParseHBA(strings.NewReader("host all @users all md5\n"), filepath.Join(dir, "pg_hba.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := h.describe(), "1: host db=<all> user=alice|bob|carol <all> md5\n"; got != want {
		t.Errorf("rules: got %q, want %q", got, want)
	}
	if _, err := ParseHBA(strings.NewReader("host all @. all md5\n"), filepath.Join(dir, "pg_hba.conf")); err == nil ||
		!strings.Contains(err.Error(), "pg_hba.conf:1: read list @.: ") || !strings.HasSuffix(err.Error(), "not a regular file") {
		t.Errorf("a directory as list: got error %v", err)
	}
}

func TestDefaultHBAAsksEveryoneForSCRAM(t *testing.T) {
	h := DefaultHBA()
	for _, c := range []ConnInfo{
		{Local: true, User: "a", Database: "b"},
		{Local: true, User: "a", Replication: true},
		{Remote: netip.MustParseAddr("192.0.2.1"), User: "a", Database: "b"},
		{Remote: netip.MustParseAddr("2001:db8::1"), TLS: true, User: "a", Replication: true},
	} {
		if r := h.Match(c); r.Method != MethodSCRAM {
			t.Errorf("%+v: got %v, want scram-sha-256", c, r.Method)
		}
	}
	if h.UsesClientCert() {
		t.Error("the default rules need a client certificate")
	}
}

func TestSameNetKnowsThisHost(t *testing.T) {
	h, err := ParseHBA(strings.NewReader("host all all samehost trust\n"), "x")
	if err != nil {
		t.Fatal(err)
	}
	if r := h.Match(ConnInfo{Remote: netip.MustParseAddr("127.0.0.1"), User: "a", Database: "b"}); r.Method != MethodTrust {
		t.Errorf("loopback is not samehost: %+v", r)
	}
	if r := h.Match(ConnInfo{Remote: netip.MustParseAddr("192.0.2.1"), User: "a", Database: "b"}); r.Method != MethodReject {
		t.Errorf("a foreign address is samehost: %+v", r)
	}
}

func TestUsesClientCert(t *testing.T) {
	for text, want := range map[string]bool{
		"hostssl all all all cert":                               true,
		"hostssl all all all scram-sha-256 clientcert=verify-ca": true,
		"hostssl all all all scram-sha-256":                      false,
	} {
		h, err := ParseHBA(strings.NewReader(text), "x")
		if err != nil {
			t.Fatal(err)
		}
		if got := h.UsesClientCert(); got != want {
			t.Errorf("%s: got %v", text, got)
		}
	}
}

func FuzzHBA(f *testing.F) {
	f.Add("local all all trust\nhost \"a b\",/^x$ @list 10.0.0.0/8 md5 clientcert=verify-ca\n", "alice", "app")
	f.Add("hostssl replication,sameuser all 10.0.0.1 255.0.255.0 cert # c\n\\\nhost all\\\n all samenet reject", "a", "a")
	f.Fuzz(func(t *testing.T, text, user, database string) {
		list := func(string) ([]byte, error) { return []byte("one, \"two\"\n# three\n"), nil }
		h, err := parseHBA(strings.NewReader(text), "f", list)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "f:") {
					t.Fatalf("a fault without its place: %q", line)
				}
			}
			return
		}
		h.interfaces = func() ([]netip.Prefix, error) { return nil, errors.New("none") }
		for _, c := range []ConnInfo{
			{Local: true, User: user, Database: database},
			{Remote: netip.MustParseAddr("10.0.0.1"), TLS: true, User: user, Replication: true},
		} {
			r := h.Match(c)
			if r.Method == MethodUnknown {
				t.Fatalf("a rule without a method: %+v", r)
			}
			if r.Method == MethodPeer && !c.Local || r.Method == MethodCert && !c.TLS {
				t.Fatalf("%v for %+v", r.Method, c)
			}
		}
	})
}
