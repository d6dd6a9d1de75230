package auth

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

const passfileText = `# host:port:database:user:password
10.0.0.1:5432:app:alice:first
10.0.0.1:*:*:alice:second:ignored
/var/run/postgresql:5432:replication:repl:re:pl
*:*:a\:b:we\\ird:pass\:word\\
fd00\:\:1:5432:*:bob:six
\*:*:*:star:literal
*:*:*:mallory:öäü
`

func TestPassfileLookup(t *testing.T) {
	p, err := ParsePassfile(strings.NewReader(strings.ReplaceAll(passfileText, "\n", "\r\n")), "pass")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host, port, database, user string
		want                       string // "": none
	}{
		{"10.0.0.1", "5432", "app", "alice", "first"},
		{"10.0.0.1", "5433", "app", "alice", "second"},
		{"10.0.0.1", "5432", "other", "alice", "second"},
		{"10.0.0.2", "5432", "app", "alice", ""},
		{"/var/run/postgresql", "5432", "replication", "repl", "re"},
		{"x", "1", "a:b", `we\ird`, `pass:word\`},
		{"fd00::1", "5432", "any", "bob", "six"},
		{"x", "1", "any", "star", ""},
		{"*", "1", "any", "star", "literal"},
		{"x", "1", "any", "mallory", "öäü"},
	} {
		got, ok := p.Lookup(test.host, test.port, test.database, test.user)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%+v: got %q, %v", test, got, ok)
		}
	}
	var none *Passfile
	if _, ok := none.Lookup("h", "1", "d", "u"); ok {
		t.Error("no file has an entry")
	}
}

func TestPassfileNamesEveryFault(t *testing.T) {
	_, err := ParsePassfile(strings.NewReader("a:b:c\n\n# fine: here\nh:1:d:u:\nh:1:d:u\\:p\nh:1:d:u:p\x00\nh:1:d:u:ok\n"), "pass")
	want := `pass:1: five fields are needed: host:port:database:user:password
pass:4: the password is empty
pass:5: five fields are needed: host:port:database:user:password
pass:6: NUL byte`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestPassfileMustBePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(path, []byte("*:*:*:u:p\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPassfile(path); err != nil {
		t.Errorf("0600: %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPassfile(path); err == nil || !strings.Contains(err.Error(), "use 0600 or less") {
			t.Errorf("%04o: got %v", mode, err)
		}
	}
	if _, err := LoadPassfile(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: got %v", err)
	}
	if _, err := LoadPassfile(path + ".missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
}

func TestLackPasswords(t *testing.T) {
	p, err := ParsePassfile(strings.NewReader("10.0.0.1:5432:*:alice:x\n*:*:app:bob:x\n*:*:replication:repl:x\n"), "pass")
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHBA(strings.NewReader(`local all alice,bob peer
hostssl app bob all cert
host all all all scram-sha-256
host replication repl all trust
host all all 10.0.0.0/8 trust
host other /^b 10.0.0.0/8 trust
host sameuser carol all trust
host all mallory all reject
`), "hba")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, err := range h.LackPasswords(p, []string{"10.0.0.1:5432", "10.0.0.2:5432"}) {
		got = append(got, err.Error())
	}
	const tail = " gives no key for the servers, and the password file has no entry for "
	want := []string{
		"hba:1: method peer" + tail + `user "alice" on 10.0.0.2:5432`,
		"hba:6: method trust" + tail + "any user on 10.0.0.2:5432",
		"hba:7: method trust" + tail + `user "carol" on 10.0.0.1:5432`,
		"hba:7: method trust" + tail + `user "carol" on 10.0.0.2:5432`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := len(h.LackPasswords(nil, []string{"10.0.0.1:5432"})); n != 7 {
		t.Errorf("without a file: %d complaints, want 7", n)
	}
}

func FuzzPassfile(f *testing.F) {
	f.Add(passfileText, "10.0.0.1", "alice")
	f.Add("\\:\\\\:*:a:b", "h", "u")
	f.Fuzz(func(t *testing.T, text, host, user string) {
		p, err := ParsePassfile(strings.NewReader(text), "f")
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "f:") {
					t.Fatalf("a fault without its line: %q", line)
				}
			}
			return
		}
		password, ok := p.Lookup(host, "5432", "app", user)
		if ok != (password != "") || strings.ContainsAny(password, "\n\x00") {
			t.Fatalf("password %q, %v", password, ok)
		}
	})
}

// Logins with entries of the password file derive keys one after the other where one core
// is to spare, and each only once, whatever the number of users.
func TestPassfileDerivesOnce(t *testing.T) {
	p, err := ParsePassfile(strings.NewReader("*:*:*:*:secret\n"), "f")
	if err != nil {
		t.Fatal(err)
	}
	c := p.credential("h", "5432", "app", "alice")
	synctest.Test(t, func(t *testing.T) {
		c.hasher.slots = make(chan struct{}, 1)
		c.hasher.slots <- struct{}{}
		salts := []string{"salt of alice", "salt of bob"}
		var derived sync.WaitGroup
		for range 10 {
			for _, salt := range salts {
				derived.Go(func() {
					if _, err := c.keysFor([]byte(salt), 2); err != nil {
						t.Error(err)
					}
				})
			}
		}
		synctest.Wait()
		if n := len(c.keys.known); n != 0 {
			t.Errorf("%d keys are derived without a slot", n)
		}
		<-c.hasher.slots
		derived.Wait()
		if n := len(c.keys.known); n != len(salts) {
			t.Errorf("%d keys are derived, want %d", n, len(salts))
		}
	})
	c.hasher = newHasher(1)
	for i := range 2 * maxKeys {
		if _, err := c.keysFor([]byte{byte(i)}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.keys.known); n != maxKeys {
		t.Errorf("%d keys are remembered, want %d", n, maxKeys)
	}
}
