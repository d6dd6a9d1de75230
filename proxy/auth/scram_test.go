package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// verifierOf is what PostgreSQL stores for a password.
func verifierOf(t testing.TB, password string) SCRAMVerifier {
	t.Helper()
	keys, err := deriveKeys(password, []byte("0123456789abcdef"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	return SCRAMVerifier{
		Iterations: keys.Iterations,
		Salt:       keys.Salt,
		StoredKey:  sha256.Sum256(keys.ClientKey[:]),
		ServerKey:  keys.ServerKey,
	}
}

// rolpassword writes a verifier as pg_authid has it.
func (v SCRAMVerifier) rolpassword() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", v.Iterations, b64(v.Salt), b64(v.StoredKey[:]), b64(v.ServerKey[:]))
}

// The exchange of RFC 7677, section 3.
const (
	rfcBare        = "n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcServerFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcClientFinal = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func TestSCRAMServerFollowsRFC7677(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	keys, err := deriveKeys("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	v := SCRAMVerifier{Iterations: 4096, Salt: salt, StoredKey: sha256.Sum256(keys.ClientKey[:]), ServerKey: keys.ServerKey}
	s, err := NewSCRAMServer(v, false, mechSCRAM, nil, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.First([]byte("n,," + rfcBare)); err != nil {
		t.Fatal(err)
	}
	// The server's nonce is random; that of the RFC takes its place.
	s.serverFirst = rfcServerFirst
	s.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	got, gotKeys, err := s.Final([]byte(rfcClientFinal))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != rfcServerFinal {
		t.Errorf("server-final-message: got %s, want %s", got, rfcServerFinal)
	}
	if !gotKeys.equal(keys) {
		t.Error("the recovered keys are not those of the password")
	}
}

func TestSCRAMClientFollowsRFC7677(t *testing.T) {
	c, err := NewSCRAMClient(false, nil, NewPasswordCredential("pencil").keysFor, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.nonce = "rOprNGfwEbeRWgbNEkqO"
	c.bare = rfcBare // the RFC names the user, PostgreSQL's clients do not
	if got := string(c.First()); got != "n,,"+rfcBare {
		t.Fatalf("client-first-message: got %s", got)
	}
	got, err := c.Final([]byte(rfcServerFirst))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != rfcClientFinal {
		t.Errorf("client-final-message: got %s, want %s", got, rfcClientFinal)
	}
	if err := c.Verify([]byte(rfcServerFinal)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G8=", "v=", "v", "", "v=6rri", rfcServerFinal + ",x=y", "e=invalid-proof",
	} {
		if err := c.Verify([]byte(bad)); err == nil {
			t.Errorf("server-final-message %q: accepted", bad)
		}
	}
}

// exchange runs both sides against each other.
func exchange(c *SCRAMClient, s *SCRAMServer) (SCRAMKeys, error) {
	serverFirst, err := s.First(c.First())
	if err != nil {
		return SCRAMKeys{}, err
	}
	final, err := c.Final(serverFirst)
	if err != nil {
		return SCRAMKeys{}, err
	}
	serverFinal, keys, err := s.Final(final)
	if err != nil {
		return SCRAMKeys{}, err
	}
	return keys, c.Verify(serverFinal)
}

func TestSCRAMRoundTrip(t *testing.T) {
	v := verifierOf(t, "secret")
	binding := ChannelBinding("a certificate's hash")
	password := NewPasswordCredential("secret")
	for _, test := range []struct {
		name          string
		offered       ChannelBinding // by the server
		seen          ChannelBinding // by the client
		plus          bool           // -PLUS is in the list that the client got
		doomed        bool
		password      *Credential
		wantMechanism string
		wantErr       string
	}{
		{name: "plain", password: password, wantMechanism: mechSCRAM},
		{name: "plus", offered: binding, seen: binding, plus: true, password: password, wantMechanism: mechSCRAMPlus},
		{name: "client without binding", offered: binding, plus: true, password: password, wantMechanism: mechSCRAM},
		{name: "server without binding", seen: binding, password: password, wantMechanism: mechSCRAM},
		{
			name: "man in the middle shows another certificate", offered: binding, seen: ChannelBinding("another"), plus: true,
			password: password, wantMechanism: mechSCRAMPlus, wantErr: "SCRAM channel binding check failed (SQLSTATE 28000)",
		},
		{
			name: "man in the middle takes -PLUS off the list", offered: binding, seen: binding,
			password: password, wantMechanism: mechSCRAM, wantErr: "SCRAM channel binding negotiation error (SQLSTATE 28000)",
		},
		{name: "wrong password", password: NewPasswordCredential("Secret"), wantMechanism: mechSCRAM, wantErr: errInvalidProof.Error()},
		{name: "doomed", doomed: true, password: password, wantMechanism: mechSCRAM, wantErr: errInvalidProof.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := NewSCRAMClient(test.plus, test.seen, test.password.keysFor, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if c.Mechanism() != test.wantMechanism {
				t.Fatalf("mechanism: got %s, want %s", c.Mechanism(), test.wantMechanism)
			}
			s, err := NewSCRAMServer(v, test.doomed, c.Mechanism(), test.offered, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys, err := exchange(c, s)
			if test.wantErr != "" {
				if err == nil || err.Error() != test.wantErr {
					t.Fatalf("error: got %v, want %s", err, test.wantErr)
				}
				if !keys.equal(SCRAMKeys{}) {
					t.Fatal("keys without a proof")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// What the server side recovered logs in by itself.
			pass, err := NewSCRAMClient(false, nil, newSCRAMCredential(keys).keysFor, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			again, err := NewSCRAMServer(v, false, mechSCRAM, nil, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := exchange(pass, again); err != nil {
				t.Errorf("pass the keys on: %v", err)
			}
		})
	}
}

func TestKeysHoldForTheirVerifierOnly(t *testing.T) {
	keys, err := deriveKeys("secret", []byte("another salt"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewSCRAMClient(false, nil, newSCRAMCredential(keys).keysFor, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSCRAMServer(verifierOf(t, "secret"), false, mechSCRAM, nil, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exchange(c, s); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("got %v, want ErrKeyMismatch", err)
	}
}

func TestMockVerifierIsSteady(t *testing.T) {
	a := mockVerifier(MockSecret([]byte("cluster")), "alice")
	if len(a.Salt) != 16 || a.Iterations != 4096 {
		t.Errorf("unlike a new password of PostgreSQL: %d bytes of salt, %d iterations", len(a.Salt), a.Iterations)
	}
	if b := mockVerifier(MockSecret([]byte("cluster")), "alice"); !bytes.Equal(a.Salt, b.Salt) {
		t.Error("another member would answer otherwise")
	}
	if b := mockVerifier(MockSecret([]byte("cluster")), "bob"); bytes.Equal(a.Salt, b.Salt) {
		t.Error("two users with one salt")
	}
	if MockSecret(nil) != nil {
		t.Error("a secret that anybody knows")
	}
	if b := mockVerifier(MockSecret([]byte("other")), "alice"); bytes.Equal(a.Salt, b.Salt) {
		t.Error("two clusters with one salt")
	}
}

// scramFaults are messages of clients that PostgreSQL 15 refuses, with its
// answers. "<nonce>" stands for that of both sides.
var scramFaults = []struct {
	plus    bool // -PLUS was chosen
	tls     bool // -PLUS was offered
	first   string
	final   string // "": the first message is refused
	code    string
	message string
	detail  string
}{
	{first: "", code: "08P01", message: "malformed SCRAM message", detail: "The message is empty."},
	{first: "n,,n=,r=a\x00b", code: "08P01", message: "malformed SCRAM message", detail: "Message length does not match input length."},
	{first: "x,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "Unexpected channel-binding flag \"'x'\"."},
	{first: "\xff,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "Unexpected channel-binding flag \"0xff\"."},
	{first: "n", code: "08P01", message: "malformed SCRAM message", detail: "Comma expected, but found character \"0x00\"."},
	{first: "nn,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "Comma expected, but found character \"'n'\"."},
	{first: "n,", code: "08P01", message: "malformed SCRAM message", detail: "Unexpected attribute \"0x00\" in client-first-message."},
	{first: "n,b=x,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "Unexpected attribute \"'b'\" in client-first-message."},
	{first: "n,a=alice,n=,r=abc", code: "0A000", message: "client uses authorization identity, but it is not supported"},
	{first: "n,,m=x,n=,r=abc", code: "0A000", message: "client requires an unsupported SCRAM extension"},
	{first: "n,,", code: "08P01", message: "malformed SCRAM message", detail: "Expected attribute \"n\" but found \"0x00\"."},
	{first: "n,,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "Expected attribute \"n\" but found \"'r'\"."},
	{first: "n,,n", code: "08P01", message: "malformed SCRAM message", detail: "Expected character \"=\" for attribute \"n\"."},
	{first: "n,,n=", code: "08P01", message: "malformed SCRAM message", detail: "Expected attribute \"r\" but found \"0x00\"."},
	{first: "n,,n=,s=abc", code: "08P01", message: "malformed SCRAM message", detail: "Expected attribute \"r\" but found \"'s'\"."},
	{first: "n,,n=,r=a b", code: "08P01", message: "non-printable characters in SCRAM nonce"},
	{first: "n,,n=,r=a\xc3\xa9", code: "08P01", message: "non-printable characters in SCRAM nonce"},
	{first: "n,,n=,r=abc,1=x", code: "08P01", message: "malformed SCRAM message", detail: "Attribute expected, but found invalid character \"'1'\"."},
	{first: "n,,n=,r=abc,x", code: "08P01", message: "malformed SCRAM message", detail: "Expected character \"=\" for attribute \"x\"."},
	{first: "p=tls-server-end-point,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data."},
	{tls: true, first: "y,,n=,r=abc", code: "28000", message: "SCRAM channel binding negotiation error", detail: "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding."},
	{tls: true, plus: true, first: "n,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."},
	{tls: true, plus: true, first: "y,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."},
	{tls: true, plus: true, first: "p=tls-unique,,n=,r=abc", code: "08P01", message: "unsupported SCRAM channel-binding type \"tls-unique\""},
	{tls: true, plus: true, first: "p=\xff and a name that is much too long,,n=,r=abc", code: "08P01", message: "unsupported SCRAM channel-binding type \"??and?a?name?that?is?much?too?\""},
	{tls: true, plus: true, first: "p,,n=,r=abc", code: "08P01", message: "malformed SCRAM message", detail: "Expected character \"=\" for attribute \"p\"."},

	{first: "n,,n=,r=abc", final: "r=<nonce>", code: "08P01", message: "malformed SCRAM message", detail: "Expected attribute \"c\" but found \"'r'\"."},
	{first: "n,,n=,r=abc", final: "c=biws", code: "08P01", message: "malformed SCRAM message", detail: "Expected attribute \"r\" but found \"0x00\"."},
	{first: "n,,n=,r=abc", final: "c=eSws,r=<nonce>,p=x", code: "08P01", message: "unexpected SCRAM channel-binding attribute in client-final-message"},
	{first: "y,,n=,r=abc", final: "c=biws,r=<nonce>,p=x", code: "08P01", message: "unexpected SCRAM channel-binding attribute in client-final-message"},
	{first: "n,,n=,r=abc", final: "c=,r=<nonce>,p=x", code: "08P01", message: "unexpected SCRAM channel-binding attribute in client-final-message"},
	{tls: true, plus: true, first: "p=tls-server-end-point,,n=,r=abc", final: "c=biws,r=<nonce>,p=x", code: "28000", message: "SCRAM channel binding check failed"},
	{first: "n,,n=,r=abc", final: "c=biws,r=<nonce>", code: "08P01", message: "malformed SCRAM message", detail: "Attribute expected, but found end of string."},
	{first: "n,,n=,r=abc", final: "c=biws,r=<nonce>,x=y,2=z", code: "08P01", message: "malformed SCRAM message", detail: "Attribute expected, but found invalid character \"'2'\"."},
	{first: "n,,n=,r=abc", final: "c=biws,r=<nonce>,p=x", code: "08P01", message: "malformed SCRAM message", detail: "Malformed proof in client-final-message."},
	{first: "n,,n=,r=abc", final: "c=biws,r=<nonce>,p=AAAA", code: "08P01", message: "malformed SCRAM message", detail: "Malformed proof in client-final-message."},
	{first: "n,,n=,r=abc", final: "c=biws,r=<nonce>,p=" + "\n" + zeroProof, code: "08P01", message: "malformed SCRAM message", detail: "Malformed proof in client-final-message."},
	{first: "n,,n=,r=abc", final: "c=biws,r=<nonce>,p=" + zeroProof + ",x=y", code: "08P01", message: "malformed SCRAM message", detail: "Garbage found at the end of client-final-message."},
	{first: "n,,n=,r=abc", final: "c=biws,r=abc,p=" + zeroProof, code: "08P01", message: "invalid SCRAM response", detail: "Nonce does not match."},
	{first: "n,,n=,r=abc", final: "c=biws,r=x<nonce>,p=" + zeroProof, code: "08P01", message: "invalid SCRAM response", detail: "Nonce does not match."},
	// Well formed, with an extension in each message, and wrong.
	{first: "n,,n=alice,r=abc,x=y,", final: "c=biws,r=<nonce>,x=y,p=" + zeroProof, code: "28P01", message: "password authentication failed for user \"alice\""},
	{first: "n,,n=,r=", final: "c=biws,r=<nonce>,p=" + zeroProof, code: "28P01", message: "password authentication failed for user \"alice\""},
}

// zeroProof is a well-formed proof of nothing.
var zeroProof = base64.StdEncoding.EncodeToString(make([]byte, 32))

// finalWith puts the nonce of a server-first-message where "<nonce>" stands.
func finalWith(final string, serverFirst []byte) string {
	nonce, _, _ := strings.Cut(strings.TrimPrefix(string(serverFirst), "r="), ",")
	return strings.Replace(final, "<nonce>", nonce, 1)
}

func TestSCRAMServerRefusesAsPostgreSQL(t *testing.T) {
	v := verifierOf(t, "secret")
	for _, test := range scramFaults {
		mechanism, binding := mechSCRAM, ChannelBinding(nil)
		if test.plus {
			mechanism = mechSCRAMPlus
		}
		if test.tls {
			binding = ChannelBinding("hash")
		}
		s, err := NewSCRAMServer(v, false, mechanism, binding, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.First([]byte(test.first))
		if test.final != "" {
			if err != nil {
				t.Errorf("%q: the first message is refused: %v", test.first, err)
				continue
			}
			_, _, err = s.Final([]byte(finalWith(test.final, answer)))
		}
		if test.code == "28P01" {
			if !errors.Is(err, errInvalidProof) {
				t.Errorf("%q %q: got %v, want a wrong proof", test.first, test.final, err)
			}
			continue
		}
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%q %q: got %v", test.first, test.final, err)
			continue
		}
		if e.Code != test.code || e.Message != test.message || e.Detail != test.detail {
			t.Errorf("%q %q:\n got %s %q %q\nwant %s %q %q", test.first, test.final, e.Code, e.Message, e.Detail, test.code, test.message, test.detail)
		}
	}
}

func TestSCRAMServerKnowsItsMechanisms(t *testing.T) {
	for _, test := range []struct {
		mechanism string
		binding   ChannelBinding
	}{{"SCRAM-SHA-1", nil}, {"", nil}, {mechSCRAMPlus, nil}, {"SCRAM-SHA-512", ChannelBinding("x")}} {
		_, err := NewSCRAMServer(SCRAMVerifier{}, true, test.mechanism, test.binding, rand.Reader)
		if e, ok := errors.AsType[*Error](err); !ok || e.Message != "client selected an invalid SASL authentication mechanism" || e.Code != "08P01" {
			t.Errorf("%q: got %v", test.mechanism, err)
		}
	}
}

func TestSCRAMClientRefusesServers(t *testing.T) {
	salt := base64.StdEncoding.EncodeToString([]byte("salt"))
	for _, bad := range []string{
		"", "x=1", "r=<nonce>+", "r=<nonce>+,s=" + salt, "r=<nonce>+,s=" + salt + ",i=", "r=<nonce>+,s=" + salt + ",i=0", "r=<nonce>+,s=" + salt + ",i=-1",
		"r=<nonce>+,s=" + salt + ",i=16777217", "r=<nonce>+,s=" + salt + ",i=4096x", "r=<nonce>+,s=" + salt + ",i=4096,x=y",
		"r=<nonce>,s=" + salt + ",i=4096", "r=+<nonce>,s=" + salt + ",i=4096", "r=<nonce>\x7f,s=" + salt + ",i=4096", "r=<nonce>+,s=,i=4096", "r=<nonce>+,s=*,i=4096",
		"m=x,r=<nonce>+,s=" + salt + ",i=4096", "r=<nonce>+,s=" + salt + ",i=4096\x00", "e=other-error",
	} {
		c, err := NewSCRAMClient(false, nil, NewPasswordCredential("x").keysFor, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Final([]byte(strings.Replace(bad, "<nonce>", c.nonce, 1))); err == nil {
			t.Errorf("server-first-message %q: accepted", bad)
		}
	}
}

func TestSASLprep(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"ASCII", "pass word\x01", "pass word\x01"},
		{"soft hyphen goes", "pa\u00adss\u00e9", "pass\u00e9"},
		{"spaces", "a\u00a0b\u2003c\u200bd", "a b c d"},
		{"NFKC", "\ufb01\u2168e\u0301", "fiIX\u00e9"},
		{"nothing left", "\u00ad", "\u00ad"},
		{"invalid UTF-8", "a\xffb\u00ad", "a\xffb\u00ad"},
		{"control with others", "\u00ad\x01", "\u00ad\x01"},
		{"unassigned in Unicode 3.2", "\u00ad\U0001f600", "\u00ad\U0001f600"},
		{"private use", "\u00ad\ue000", "\u00ad\ue000"},
		{"right to left", "\u0627\u0661\u0628", "\u0627\u0661\u0628"},
		{"mixed directions", "\u00ad\u0627a\u0628", "\u00ad\u0627a\u0628"},
		{"right to left not at the end", "\u00ad\u06271", "\u00ad\u06271"},
	} {
		if got := prepPassword(test.in); got != test.want {
			t.Errorf("%s: %q becomes %q, want %q", test.name, test.in, got, test.want)
		}
	}
}

func TestParseVerifier(t *testing.T) {
	v := verifierOf(t, "secret")
	got, err := ParseVerifier(v.rolpassword())
	if err != nil || got.Kind != VerifierSCRAM || !got.SCRAM.equal(v) {
		t.Errorf("got %v, %v", got, err)
	}
	digits := md5Verifier("secret", "alice")
	if got, err := ParseVerifier("md5" + digits); err != nil || got.Kind != VerifierMD5 || got.MD5 != digits {
		t.Errorf("md5: got %v, %v", got, err)
	}
	if got, err := ParseVerifier(""); err != nil || got.Kind != VerifierNone {
		t.Errorf("none: got %v, %v", got, err)
	}
	good := v.rolpassword()
	for _, bad := range []string{
		"secret", "md5", "md5" + digits + "0", "md5" + strings.ToUpper(digits), "SCRAM-SHA-256$", "SCRAM-SHA-256$4096:c2FsdA==",
		strings.Replace(good, "4096", "0", 1), strings.Replace(good, "4096", "4096x", 1), strings.Replace(good, "4096", "99999999999", 1),
		strings.Replace(good, "4096:", "4096:!", 1), good + "A", good[:len(good)-4], strings.Replace(good, "$4096:MDEyMzQ1Njc4OWFiY2RlZg==", "$4096:", 1),
	} {
		if _, err := ParseVerifier(bad); err == nil {
			t.Errorf("%s: accepted", bad)
		} else if strings.Contains(err.Error(), "c2Fsd") || strings.Contains(err.Error(), digits) {
			t.Errorf("%s: the error tells a secret: %v", bad, err)
		}
	}
}

func FuzzScramServer(f *testing.F) {
	for _, test := range scramFaults {
		f.Add(test.plus, test.tls, []byte(test.first), []byte(test.final))
	}
	v := verifierOf(f, "secret")
	f.Fuzz(func(t *testing.T, plus, tls bool, first, final []byte) {
		mechanism, binding := mechSCRAM, ChannelBinding(nil)
		if tls {
			binding = ChannelBinding("hash")
		}
		if plus {
			mechanism = mechSCRAMPlus
		}
		s, err := NewSCRAMServer(v, false, mechanism, binding, zeros{})
		if err != nil {
			return
		}
		answer, err := s.First(first)
		if err == nil {
			if !bytes.HasPrefix(answer, []byte("r=")) || slices.Contains(answer, 0) {
				t.Fatalf("server-first-message %q", answer)
			}
			_, _, err = s.Final([]byte(finalWith(string(final), answer)))
			if err == nil {
				t.Fatal("logged in without the password")
			}
		}
		if _, ok := errors.AsType[*Error](err); !ok && !errors.Is(err, errInvalidProof) {
			t.Fatalf("an error that has no text for the client: %v", err)
		}
	})
}

func FuzzScramClient(f *testing.F) {
	f.Add([]byte("r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=1"), []byte("v="+zeroProof))
	f.Add([]byte("r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=4096"), []byte("e=invalid-proof"))
	f.Fuzz(func(t *testing.T, serverFirst, serverFinal []byte) {
		keys := func(salt []byte, iterations int) (SCRAMKeys, error) {
			return SCRAMKeys{Salt: salt, Iterations: iterations}, nil
		}
		c, err := NewSCRAMClient(false, nil, keys, zeros{})
		if err != nil {
			t.Fatal(err)
		}
		final, err := c.Final(serverFirst)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(final, []byte("c=biws,r="+c.nonce)) {
			t.Fatalf("client-final-message %q", final)
		}
		if err := c.Verify(serverFinal); err == nil {
			value := strings.TrimSuffix(strings.TrimPrefix(string(serverFinal), "v="), ",")
			if b, _ := base64.StdEncoding.DecodeString(value); !bytes.Equal(b, c.serverSignature[:]) {
				t.Fatalf("server signature %q is accepted", serverFinal)
			}
		}
	})
}

// zeros is a source of randomness without any.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
