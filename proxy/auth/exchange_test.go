package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5/pgproto3"
)

// transcript runs exchanges against a table of roles and writes down what both
// sides say.
type transcript struct {
	roles   map[string]Role
	down    error // what lookups fail with
	lookups int
	auth    *Authenticator
	x       *Exchange
	step    Step
	out     strings.Builder
}

func newTranscript(t *testing.T) *transcript {
	tr := &transcript{roles: map[string]Role{}}
	store := NewStore(StoreConfig{TTL: time.Minute, Lookup: func(_ context.Context, user string) (Role, error) {
		tr.lookups++
		if tr.down != nil {
			return Role{}, tr.down
		}
		if r, ok := tr.roles[user]; ok {
			return r, nil
		}
		return Role{Name: user}, nil
	}})
	var err error
	tr.auth, err = NewAuthenticator(AuthenticatorConfig{Store: store, MockSecret: MockSecret([]byte("test")), Rand: zeros{}})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// show writes one step down.
func (tr *transcript) show(s Step) {
	tr.step = s
	for rest := s.Send; len(rest) > 0; {
		n := 1 + int(uint32(rest[1])<<24|uint32(rest[2])<<16|uint32(rest[3])<<8|uint32(rest[4]))
		fmt.Fprintf(&tr.out, "< %s\n", describeAuth(rest[5:n]))
		rest = rest[n:]
	}
	switch {
	case s.Wait:
	case s.Done != nil:
		fmt.Fprintf(&tr.out, "done: %v\n", s.Done)
	case s.Fail != nil:
		var msg pgproto3.ErrorResponse
		if err := msg.Decode(s.Fail.Encode()[5:]); err != nil {
			fmt.Fprintf(&tr.out, "error does not decode: %v\n", err)
		}
		fmt.Fprintf(&tr.out, "< %s %s %s\n", msg.Severity, msg.Code, msg.Message)
		if msg.Detail != "" {
			fmt.Fprintf(&tr.out, "  detail: %s\n", msg.Detail)
		}
		if s.Fail.Log != "" {
			fmt.Fprintf(&tr.out, "  log: %s\n", s.Fail.Log)
		}
		if s.Fail.Err != nil {
			fmt.Fprintf(&tr.out, "  log: %v\n", s.Fail.Err)
		}
	default:
		tr.out.WriteString("step without a meaning\n")
	}
}

// describeAuth names an authentication message; nonces and proofs are left out.
func describeAuth(body []byte) string {
	switch body[3] {
	case 0:
		return "AuthenticationOk"
	case 3:
		return "AuthenticationCleartextPassword"
	case 5:
		return fmt.Sprintf("AuthenticationMD5Password %x", body[4:])
	case 10:
		return "AuthenticationSASL " + strings.Join(strings.Split(strings.TrimRight(string(body[4:]), "\x00"), "\x00"), ", ")
	case 11:
		text := string(body[4:])
		if i := strings.Index(text, ",s="); i > 0 {
			text = text[i+1:]
		}
		return strings.TrimRight("AuthenticationSASLContinue "+text, " ")
	case 12:
		return "AuthenticationSASLFinal"
	}
	return fmt.Sprintf("request %x", body)
}

// run drives the exchange with a credential as the client.
func (tr *transcript) run(ctx context.Context, cred *Credential, binding ChannelBinding) {
	login := cred.Login(tr.x.conn.User, binding)
	for tr.step.Wait {
		var answer []byte
		for rest := tr.step.Send; len(rest) > 0; {
			n := 1 + int(uint32(rest[1])<<24|uint32(rest[2])<<16|uint32(rest[3])<<8|uint32(rest[4]))
			send, _, err := login.Next(rest[5:n])
			if err != nil {
				fmt.Fprintf(&tr.out, "client: %v\n", err)
				return
			}
			answer, rest = append(answer, send...), rest[n:]
		}
		tr.show(tr.x.Next(ctx, answer[0], answer[5:]))
	}
}

// certFor makes a certificate with common names.
func certFor(names ...string) *x509.Certificate {
	c := &x509.Certificate{}
	for _, n := range names {
		c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: n})
	}
	return c
}

// TestExchange runs testdata/exchange. Commands:
//
//	hba        sets the rules
//	role       name=, one of scram=PASSWORD, md5=PASSWORD, none; nologin, expired, gone
//	servers    up | down | broken: whether lookups work
//	wait       sleeps for a duration
//	lookups    prints and clears the number of lookups
//	connect    starts an exchange (words as in TestHBA; cn=NAME, binding=TEXT)
//	login      password= and binding= of a client that goes through with it
//	send       type= and a Go string as input: one message of a client
//	oversized  ends an exchange whose client sends too long a message
func TestExchange(t *testing.T) {
	datadriven.Walk(t, "testdata/exchange", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			tr := newTranscript(t)
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				tr.out.Reset()
				tr.command(t, d)
				return tr.out.String()
			})
		})
	})
}

func (tr *transcript) command(t *testing.T, d *datadriven.TestData) {
	ctx := t.Context()
	arg := func(name string) (value string, ok bool) {
		for _, a := range d.CmdArgs {
			if a.Key == name {
				return strings.Join(a.Vals, ","), true
			}
		}
		return "", false
	}
	switch d.Cmd {
	case "hba":
		h, err := ParseHBA(strings.NewReader(d.Input), "pg_hba.conf")
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		tr.auth.SetHBA(h)
	case "role":
		name, _ := arg("name")
		r := Role{Name: name, Exists: true, CanLogin: true}
		if p, ok := arg("scram"); ok {
			r.Verifier = Verifier{Kind: VerifierSCRAM, SCRAM: verifierOf(t, p)}
		}
		if p, ok := arg("md5"); ok {
			r.Verifier = Verifier{Kind: VerifierMD5, MD5: md5Verifier(p, name)}
		}
		if _, ok := arg("nologin"); ok {
			r.CanLogin = false
		}
		if _, ok := arg("expires"); ok {
			r.ValidUntil = time.Now().Add(time.Second)
		}
		tr.roles[name] = r
		if _, ok := arg("gone"); ok {
			delete(tr.roles, name)
		}
	case "servers":
		tr.down = nil
		if _, ok := arg("down"); ok {
			tr.down = fmt.Errorf("pick a server: %w", ErrNoServer)
		}
		if _, ok := arg("broken"); ok {
			tr.down = errors.New("function pgproxy.user_lookup(unknown) does not exist")
		}
	case "wait":
		for _, a := range d.CmdArgs {
			dur, err := time.ParseDuration(a.Key)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			time.Sleep(dur)
		}
	case "lookups":
		fmt.Fprintln(&tr.out, tr.lookups)
		tr.lookups = 0
	case "connect":
		var words []string
		var c ConnInfo
		for _, a := range d.CmdArgs {
			switch value := strings.Join(a.Vals, ","); a.Key {
			case "cn":
				c.ClientCert = certFor(a.Vals...)
			case "binding":
				c.Binding = ChannelBinding(value)
			default:
				words = append(words, a.Key+"="+value)
			}
		}
		parsed := parseConn(t, strings.Join(words, " "))
		parsed.ClientCert, parsed.Binding = c.ClientCert, c.Binding
		var step Step
		tr.x, step = tr.auth.Start(ctx, parsed)
		tr.show(step)
	case "login":
		password, _ := arg("password")
		binding, ok := arg("binding")
		var b ChannelBinding
		if ok {
			b = ChannelBinding(binding)
		}
		tr.run(ctx, NewPasswordCredential(password), b)
	case "send":
		typ, _ := arg("type")
		body, err := strconv.Unquote(strings.TrimSpace(d.Input))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		tr.show(tr.x.Next(ctx, typ[0], []byte(body)))
	case "oversized":
		if e := tr.x.Oversized(); e != nil {
			tr.show(Step{Fail: e})
		} else {
			tr.out.WriteString("closed without a word\n")
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
}

// A step that is called prompt asks nobody, although the role may have become too old since
// it was called so.
func TestPrompt(t *testing.T) {
	h, err := ParseHBA(strings.NewReader(`
local trust  all trust
local scram  all scram-sha-256
local md5    all md5
local plain  all password
local peer   all peer
local reject all reject
`), "test")
	if err != nil {
		t.Fatal(err)
	}
	scram := Role{Exists: true, CanLogin: true, Verifier: Verifier{Kind: VerifierSCRAM, SCRAM: verifierOf(t, "secret")}}
	noLogin := scram
	noLogin.CanLogin = false
	roles := map[string]Role{"alice": scram, "group": noLogin}
	const no, yes = false, true
	for _, test := range []struct {
		user, database string
		new, known     []bool // for each step, until one that is not prompt
	}{
		{"alice", "trust", []bool{no}, []bool{yes}},
		{"group", "trust", []bool{no}, []bool{no}},
		{"nobody", "trust", []bool{no}, []bool{no}},
		{"alice", "scram", []bool{no}, []bool{yes, yes, yes}},
		{"group", "scram", []bool{no}, []bool{yes, yes, no}},
		{"nobody", "scram", []bool{no}, []bool{yes, yes, no}},
		{"alice", "md5", []bool{no}, []bool{yes, yes, yes}},
		{"alice", "plain", []bool{yes, no}, []bool{yes, no}},
		{"alice", "peer", []bool{no}, []bool{no}},
		{"alice", "reject", []bool{yes}, []bool{yes}},
	} {
		synctest.Test(t, func(t *testing.T) {
			lookups := 0
			store := NewStore(StoreConfig{TTL: time.Minute, Lookup: func(_ context.Context, user string) (Role, error) {
				lookups++
				return roles[user], nil
			}})
			a, err := NewAuthenticator(AuthenticatorConfig{HBA: h, Store: store})
			if err != nil {
				t.Fatal(err)
			}
			run := func(what string, want []bool) {
				t.Helper()
				x := a.Prepare(ConnInfo{Local: true, User: test.user, Database: test.database, PeerUser: func() string { return "alice" }})
				login := NewPasswordCredential("secret").Login(test.user, nil)
				var step Step
				for i, prompt := range want {
					if got := x.Prompt(); got != prompt {
						t.Fatalf("%s to %s, %s: prompt %v in step %d, want %v", test.user, test.database, what, got, i, prompt)
					}
					if !prompt {
						return
					}
					<-time.After(2 * time.Minute)
					before := lookups
					if i == 0 {
						step = x.Start(t.Context())
					} else {
						answer, _, err := login.Next(step.Send[pgHeader:])
						if err != nil {
							t.Fatal(err)
						}
						step = x.Next(t.Context(), answer[0], answer[pgHeader:])
					}
					if lookups != before {
						t.Errorf("%s to %s, %s: step %d asked", test.user, test.database, what, i)
					}
				}
				if step.Wait {
					t.Errorf("%s to %s, %s: not at its end", test.user, test.database, what)
				}
			}
			run("new", test.new)
			if _, err := store.Role(t.Context(), test.user); err != nil {
				t.Fatal(err)
			}
			run("known", test.known)
		})
	}
}

// pgHeader is the length of a message's type and length.
const pgHeader = 5

func TestExchangeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		defer close(block)
		store := NewStore(StoreConfig{TTL: time.Minute, Lookup: func(ctx context.Context, user string) (Role, error) {
			select {
			case <-block:
			case <-ctx.Done():
			}
			return Role{}, errors.New("too late")
		}})
		a, err := NewAuthenticator(AuthenticatorConfig{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, step := a.Start(ctx, ConnInfo{Local: true, User: "alice", Database: "app"})
		if step.Fail == nil || step.Fail.Code != "57014" || step.Fail.Message != "canceling authentication due to timeout" {
			t.Errorf("timeout: got %+v", step)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		_, step = a.Start(ctx, ConnInfo{Local: true, User: "bob", Database: "app"})
		if step.Fail == nil || step.Fail.Code != "57P01" {
			t.Errorf("stop: got %+v", step)
		}
	})
}

// A flood of password checks takes its slots, not the CPU.
func TestHashingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(1)
		v := Verifier{Kind: VerifierSCRAM, SCRAM: verifierOf(t, "secret")}
		h.slots <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.check(ctx, v, "alice", "secret"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a slot: got %v", err)
		}
		<-h.slots
		for password, want := range map[string]bool{"secret": true, "wrong": false} {
			cred, err := h.check(t.Context(), v, "alice", password)
			if err != nil || (cred != nil) != want {
				t.Errorf("%s: got %v, %v", password, cred, err)
			}
		}
		if len(h.slots) != 0 {
			t.Error("a slot is not given back")
		}
	})
}

func TestCommonName(t *testing.T) {
	for _, test := range []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"alice"}, "alice"},
		{[]string{"alice", "root"}, "alice"},
		{[]string{"alice\x00.example.org"}, ""},
	} {
		if got := commonName(certFor(test.names...)); got != test.want {
			t.Errorf("%q: got %q, want %q", test.names, got, test.want)
		}
	}
}

// FuzzExchange gives a client's messages to an exchange of each method: it must
// not panic, and nobody gets in but by the password.
func FuzzExchange(f *testing.F) {
	f.Add(byte('p'), []byte("SCRAM-SHA-256\x00\x00\x00\x00\x0bn,,n=,r=abc"), []byte("c=biws,r=abcAAAAAAAAAAAAAAAAAAAAAAAA,p="+zeroProof))
	f.Add(byte('p'), []byte("SCRAM-SHA-256\x00\xff\xff\xff\xff"), []byte("n,,n=,r=abc"))
	f.Add(byte('p'), []byte("password\x00"), []byte{})
	f.Add(byte('Q'), []byte("select 1\x00"), []byte{})
	h, err := ParseHBA(strings.NewReader("local md5 all md5\nlocal plain all password\nlocal all all scram-sha-256\n"), "hba")
	if err != nil {
		f.Fatal(err)
	}
	role := Role{Exists: true, CanLogin: true, Verifier: Verifier{Kind: VerifierMD5, MD5: md5Verifier("secret", "alice")}}
	scram := Role{Exists: true, CanLogin: true, Verifier: Verifier{Kind: VerifierSCRAM, SCRAM: verifierOf(f, "secret")}}
	f.Fuzz(func(t *testing.T, typ byte, first, second []byte) {
		store := NewStore(StoreConfig{TTL: time.Hour, Lookup: func(_ context.Context, user string) (Role, error) {
			if user == "alice" {
				return role, nil
			}
			return scram, nil
		}})
		a, err := NewAuthenticator(AuthenticatorConfig{HBA: h, Store: store, Rand: zeros{}})
		if err != nil {
			t.Fatal(err)
		}
		for _, database := range []string{"md5", "plain", "app"} {
			for _, user := range []string{"alice", "bob"} {
				x, step := a.Start(t.Context(), ConnInfo{Local: true, User: user, Database: database})
				for _, body := range [][]byte{first, second, second} {
					if step.Wait {
						step = x.Next(t.Context(), typ, body)
					}
				}
				if step.Done != nil && !bytes.Contains(first, []byte("secret")) && !bytes.Contains(first, []byte("md5")) {
					t.Fatalf("%s got into %s by %q %q", user, database, first, second)
				}
			}
		}
	})
}
