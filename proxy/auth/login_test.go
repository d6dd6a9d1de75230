package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// body returns the body of a message.
func body(m pgproto3.BackendMessage) []byte { return mustEncode(m)[5:] }

func offer(mechanisms ...string) []byte {
	return body(&pgproto3.AuthenticationSASL{AuthMechanisms: mechanisms})
}

func credentials(t *testing.T) map[string]*Credential {
	keys, err := deriveKeys("secret", []byte("salt"), 1)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*Credential{
		"none":     {Kind: CredentialNone},
		"md5":      newMD5Credential(md5Verifier("secret", "alice")),
		"scram":    newSCRAMCredential(keys),
		"password": NewPasswordCredential("secret"),
	}
}

func TestLoginAnswersWhatItsCredentialCan(t *testing.T) {
	requests := map[string][]byte{
		"ok":       body(&pgproto3.AuthenticationOk{}),
		"password": body(&pgproto3.AuthenticationCleartextPassword{}),
		"md5":      body(&pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}}),
		"scram":    offer(mechSCRAMPlus, mechSCRAM),
		"plus":     offer(mechSCRAMPlus), // without TLS
		"other":    offer("OAUTHBEARER"),
		"gss":      body(&pgproto3.AuthenticationGSS{}),
	}
	can := map[string]string{
		"none":     "ok",
		"md5":      "ok md5",
		"scram":    "ok scram",
		"password": "ok password md5 scram",
	}
	for name, cred := range credentials(t) {
		for request, message := range requests {
			_, done, err := cred.Login("alice", nil).Next(message)
			switch allowed := strings.Contains(" "+can[name]+" ", " "+request+" "); {
			case allowed && err != nil:
				t.Errorf("%s to %s: %v", request, name, err)
			case !allowed && !errors.Is(err, ErrNoCredential):
				t.Errorf("%s to %s: got %v, want ErrNoCredential", request, name, err)
			case done != (request == "ok"):
				t.Errorf("%s to %s: done %v", request, name, done)
			}
		}
	}
}

func TestLoginRefusesServersThatBreakTheOrder(t *testing.T) {
	ok := body(&pgproto3.AuthenticationOk{})
	clear := body(&pgproto3.AuthenticationCleartextPassword{})
	md5 := body(&pgproto3.AuthenticationMD5Password{})
	final := body(&pgproto3.AuthenticationSASLFinal{Data: []byte("v=")})
	next := body(&pgproto3.AuthenticationSASLContinue{Data: []byte("r=x,s=eA==,i=1")})
	for name, messages := range map[string][][]byte{
		"ok before the server has proved itself": {offer(mechSCRAM), ok},
		"a password after SCRAM has begun":       {offer(mechSCRAM), clear},
		"two requests":                           {md5, clear},
		"the same request twice":                 {clear, clear},
		"SCRAM twice":                            {offer(mechSCRAM), offer(mechSCRAM)},
		"final at once":                          {final},
		"final before continue":                  {offer(mechSCRAM), final},
		"continue at once":                       {next},
		"a foreign nonce":                        {offer(mechSCRAM), next},
		"ok twice":                               {ok, ok},
		"too short":                              {{0, 0, 0}},
		"empty":                                  {nil},
		"md5 without salt":                       {{0, 0, 0, 5, 1, 2}},
		"mechanisms without end":                 {{0, 0, 0, 10, 'x'}},
	} {
		l := NewPasswordCredential("secret").Login("alice", nil)
		for i, m := range messages {
			_, _, err := l.Next(m)
			if last := i == len(messages)-1; last != (err != nil) {
				t.Errorf("%s: message %d: got %v", name, i, err)
			} else if errors.Is(err, ErrNoCredential) {
				t.Errorf("%s: %v blames the credential", name, err)
			}
		}
	}
}

func TestCredentialEqual(t *testing.T) {
	a, b := credentials(t), credentials(t)
	for x := range a {
		for y := range b {
			if got := a[x].Equal(b[y]); got != (x == y) {
				t.Errorf("%s and %s: %v", x, y, got)
			}
		}
	}
	if NewPasswordCredential("x").Equal(NewPasswordCredential("y")) || a["md5"].Equal(newMD5Credential(md5Verifier("secret", "bob"))) {
		t.Error("other secrets are equal")
	}
	if a["md5"].Equal(nil) {
		t.Error("equal to nothing")
	}
}

func TestWithPassfile(t *testing.T) {
	p, err := ParsePassfile(strings.NewReader("h:1:*:alice:secret\n"), "pass")
	if err != nil {
		t.Fatal(err)
	}
	c := credentials(t)
	if got := c["none"].WithPassfile(p, "h", "1", "app", "alice"); !got.Equal(c["password"]) {
		t.Errorf("got %v", got)
	}
	if got := c["none"].WithPassfile(p, "h", "2", "app", "alice"); got != c["none"] {
		t.Errorf("without an entry: got %v", got)
	}
	if got := c["none"].WithPassfile(nil, "h", "1", "app", "alice"); got != c["none"] {
		t.Errorf("without a file: got %v", got)
	}
	if got := c["scram"].WithPassfile(p, "h", "1", "app", "alice"); got != c["scram"] {
		t.Errorf("the client's own key gives way: got %v", got)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	v := verifierOf(t, "secret")
	md5 := md5Verifier("secret", "alice")
	keys, err := deriveKeys("secret", v.Salt, v.Iterations)
	if err != nil {
		t.Fatal(err)
	}
	var secrets []string
	for _, raw := range [][]byte{v.StoredKey[:], v.ServerKey[:], keys.ClientKey[:]} {
		secrets = append(secrets, string(raw), fmt.Sprint(raw)[1:20], fmt.Sprintf("%x", raw), fmt.Sprintf("%#v", raw)[10:30])
	}
	secrets = append(secrets, "secret", md5)
	values := []any{
		newSCRAMCredential(keys), newMD5Credential(md5), NewPasswordCredential("secret"), keys, v,
		Verifier{Kind: VerifierSCRAM, SCRAM: v},
		Verifier{Kind: VerifierMD5, MD5: md5},
		Role{Name: "alice", Verifier: Verifier{Kind: VerifierMD5, MD5: md5}},
		&Role{Name: "alice", Verifier: Verifier{Kind: VerifierSCRAM, SCRAM: v}},
		struct{ C *Credential }{NewPasswordCredential("secret")},
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for _, value := range values {
		log.Reset()
		logger.Info("x", "value", value)
		out := fmt.Sprintf("%v %+v %#v %s ", value, value, value, value) + log.String()
		for _, secret := range secrets {
			if strings.Contains(out, secret) {
				t.Errorf("%T prints %q: %s", value, secret, out)
			}
		}
	}
}

func TestEndpointBinding(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum256 := func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	sum384 := func(b []byte) []byte { s := sha512.Sum384(b); return s[:] }
	sum512 := func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }
	for _, test := range []struct {
		key  crypto.Signer
		alg  x509.SignatureAlgorithm
		want func([]byte) []byte
	}{
		{p256, x509.ECDSAWithSHA256, sum256},
		{p256, x509.ECDSAWithSHA384, sum384},
		{p256, x509.ECDSAWithSHA512, sum512},
		{ed, x509.PureEd25519, func([]byte) []byte { return nil }},
	} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: test.alg}
		der, err := x509.CreateCertificate(rand.Reader, template, template, test.key.Public(), test.key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if got := EndpointBinding(leaf); !bytes.Equal(got, test.want(der)) {
			t.Errorf("%v: got %x", test.alg, []byte(got))
		}
	}
	// SHA-1 and MD5 give way to SHA-256.
	for _, alg := range []x509.SignatureAlgorithm{x509.SHA1WithRSA, x509.MD5WithRSA, x509.ECDSAWithSHA1} {
		if got := EndpointBinding(&x509.Certificate{Raw: []byte("x"), SignatureAlgorithm: alg}); !bytes.Equal(got, sum256([]byte("x"))) {
			t.Errorf("%v: got %x", alg, []byte(got))
		}
	}
}
