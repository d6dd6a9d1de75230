package auth

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// maxPassfileSize bounds a password file, in bytes.
const maxPassfileSize = 4 << 20

// Passfile holds the entries of a password file (libpq, "The Password File"):
// host:port:database:user:password, "*" for any, and a backslash before a colon
// or backslash that belongs to a field. It is immutable.
//
// Host is compared as text with the host of the backend's address, be it a
// name, an address, or the directory of a Unix socket.
type Passfile struct {
	name    string
	entries []passEntry
}

type passEntry struct {
	fields     [4]passField // host, port, database, user
	credential *Credential  // shared by all who log in with it, so that keys are derived once
}

type passField struct {
	any  bool
	text string
}

func (f passField) matches(s string) bool { return f.any || f.text == s }

// LoadPassfile reads a file. It refuses one that group or others can access,
// as libpq does: the file holds passwords.
func LoadPassfile(path string) (*Passfile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open password file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat password file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open password file %s: not a regular file", path)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("open password file %s: mode %04o lets others read it: use 0600 or less", path, mode)
	}
	return ParsePassfile(f, path)
}

// ParsePassfile reads entries; name stands in messages. The error names every
// fault, one a line, and quotes nothing of the file.
func ParsePassfile(r io.Reader, name string) (*Passfile, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxPassfileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read password file %s: %w", name, err)
	}
	if len(text) > maxPassfileSize {
		return nil, fmt.Errorf("read password file %s: longer than %d bytes", name, maxPassfileSize)
	}
	p, h := &Passfile{name: name}, newHasher(0)
	var faults []error
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimRight(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := parsePassEntry(line)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s:%d: %w", name, i+1, err))
			continue
		}
		e.credential.hasher = h
		p.entries = append(p.entries, e)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return p, nil
}

func parsePassEntry(line string) (passEntry, error) {
	var e passEntry
	if strings.IndexByte(line, 0) >= 0 {
		return e, errors.New("NUL byte")
	}
	rest := line
	for i := range e.fields {
		var raw string
		var found bool
		raw, rest, found = cutPassField(rest)
		if !found {
			return e, errors.New("five fields are needed: host:port:database:user:password")
		}
		e.fields[i] = passField{any: raw == "*", text: unescapePassField(raw)}
	}
	// The password ends at a colon too; what follows is ignored, as in libpq.
	raw, _, _ := cutPassField(rest)
	password := unescapePassField(raw)
	if password == "" {
		return e, errors.New("the password is empty")
	}
	e.credential = NewPasswordCredential(password)
	return e, nil
}

// cutPassField cuts at the first colon that no backslash escapes.
func cutPassField(s string) (field, rest string, found bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ':':
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// unescapePassField takes the backslashes off; one at the end stays.
func unescapePassField(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Lookup returns the password of the first entry that matches. For physical
// replication database is "replication", as in libpq. p may be nil.
func (p *Passfile) Lookup(host, port, database, user string) (password string, ok bool) {
	c := p.credential(host, port, database, user)
	if c == nil {
		return "", false
	}
	return c.password, true
}

func (p *Passfile) credential(host, port, database, user string) *Credential {
	if p == nil {
		return nil
	}
	for i := range p.entries {
		e := &p.entries[i]
		if e.fields[0].matches(host) && e.fields[1].matches(port) &&
			e.fields[2].matches(database) && e.fields[3].matches(user) {
			return e.credential
		}
	}
	return nil
}

// covers tells if some entry serves a rule on a backend: databases or users of
// nil stand for any.
func (p *Passfile) covers(host, port string, database, user *string) bool {
	if p == nil {
		return false
	}
	fits := func(f passField, s *string) bool { return s == nil || f.matches(*s) }
	for i := range p.entries {
		e := &p.entries[i]
		if e.fields[0].matches(host) && e.fields[1].matches(port) &&
			fits(e.fields[2], database) && fits(e.fields[3], user) {
			return true
		}
	}
	return false
}

// LackPasswords names each rule whose method gives no key (trust, cert, peer)
// and for which the password file has no entry on one of the backends, given as
// "host:port". p may be nil. A rule for all users, or for a pattern, is content
// with an entry for any user: who they are is not known from the file. It is
// advice, not an error: a backend may trust this host.
func (h *HBA) LackPasswords(p *Passfile, backends []string) []error {
	var out []error
	for _, e := range h.entries {
		if e.rule.Method.GivesKey() || e.rule.Method == MethodReject || e.transport == transportHostGSSEnc {
			continue
		}
		for _, address := range backends {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				out = append(out, fmt.Errorf("split backend address: %w", err))
				continue
			}
			for _, user := range e.users {
				if e.covered(p, host, port, user) {
					continue
				}
				who := "any user"
				if user.kind == nameExact {
					who = fmt.Sprintf("user %q", user.name)
				}
				out = append(out, fmt.Errorf("%s:%d: method %s gives no key for the servers, and the password file has no entry for %s on %s",
					e.rule.File, e.rule.Line, e.rule.Method, who, address))
			}
		}
	}
	return out
}

// covered tells if the password file serves the user in every database that the
// line names.
func (e *entry) covered(p *Passfile, host, port string, user nameMatch) bool {
	var name *string
	if user.kind == nameExact {
		name = &user.name
	}
	for _, d := range e.databases {
		var database *string
		switch d.kind {
		case nameExact:
			database = &d.name
		case nameReplication:
			word := "replication"
			database = &word
		case nameSameUser:
			database = name
		case nameAll, nameRegex, nameUnknown:
		}
		if !p.covers(host, port, database, name) {
			return false
		}
	}
	return true
}
