package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxHBASize bounds a pg_hba.conf and each file that it names, in bytes.
const maxHBASize = 4 << 20

// ParseHBA reads pg_hba.conf (PostgreSQL manual, "The pg_hba.conf File").
// Messages begin with name, and "@file" lists are looked for beside it. The
// error names every fault of the file, one a line.
//
// Not supported, and said so with the line: role membership (+role, samerole,
// samegroup), host names, maps of user names, include directives, and the
// methods that need another service.
func ParseHBA(r io.Reader, name string) (*HBA, error) {
	return parseHBA(r, name, readRegular)
}

func parseHBA(r io.Reader, name string, read func(path string) ([]byte, error)) (*HBA, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxHBASize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > maxHBASize {
		return nil, fmt.Errorf("read %s: longer than %d bytes", name, maxHBASize)
	}
	p := hbaParser{name: name, read: read}
	h := &HBA{interfaces: hostInterfaces}
	for _, l := range splitHBA(string(text)) {
		p.line = l.number
		fields, err := splitFields(l.text)
		if err != nil {
			p.fault("%v", err)
			continue
		}
		if len(fields) == 0 {
			continue
		}
		if e, ok := p.entry(fields); ok {
			h.entries = append(h.entries, e)
		}
	}
	if len(h.entries) == 0 && len(p.faults) == 0 {
		p.faults = append(p.faults, fmt.Errorf("%s: no entries: nobody could connect", name))
	}
	if len(p.faults) > 0 {
		return nil, errors.Join(p.faults...)
	}
	return h, nil
}

// readRegular reads a file that a list names with "@".
func readRegular(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxHBASize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxHBASize {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, maxHBASize)
	}
	return b, nil
}

// hbaLine is a line with its continuations; number is that of its first.
type hbaLine struct {
	number int
	text   string
}

// splitHBA joins lines that end in a backslash. A backslash before an empty
// line ends there (tokenize_auth_file does so: the backslash must be new).
func splitHBA(text string) []hbaLine {
	var out []hbaLine
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		number := i + 1
		var text []byte
		joined := 0 // length of text after the last backslash was taken off
		for {
			text = bytes.TrimRight(append(text, lines[i]...), "\r")
			if len(text) <= joined || text[len(text)-1] != '\\' {
				break
			}
			text = text[:len(text)-1]
			joined = len(text)
			if i+1 == len(lines) {
				break
			}
			i++
		}
		out = append(out, hbaLine{number: number, text: string(text)})
	}
	return out
}

// token is a word of a line. A quoted one has lost its special meaning.
type token struct {
	text   string
	quoted bool
}

// is tells if the token is the keyword.
func (t token) is(keyword string) bool { return !t.quoted && t.text == keyword }

// splitFields cuts a line into fields, each a list of tokens. A field goes on
// after a comma that ends a token, also over blanks; a comma that follows a
// blank does not join (PostgreSQL, next_field_expand).
func splitFields(line string) ([][]token, error) {
	var fields [][]token
	comma := false
	for rest := line; ; {
		tok, tail, endsInComma, err := nextToken(rest)
		if err != nil {
			return nil, err
		}
		if tok == nil {
			return fields, nil
		}
		if comma {
			fields[len(fields)-1] = append(fields[len(fields)-1], *tok)
		} else {
			fields = append(fields, []token{*tok})
		}
		rest, comma = tail, endsInComma
	}
}

// nextToken takes one token from the front of s; nil: there is none. A double
// quote may stand anywhere in a token; two of them inside quotes are one.
func nextToken(s string) (tok *token, rest string, comma bool, err error) {
	i := 0
	for i < len(s) && (isBlank(s[i]) || s[i] == ',') {
		i++
	}
	var text strings.Builder
	var quoted, inQuote, wasQuote, sawQuote bool
	start := i
	for ; i < len(s); i++ {
		c := s[i]
		if !inQuote {
			if isBlank(c) {
				break
			}
			if c == '#' {
				i = len(s) - 1
				continue
			}
			if c == ',' {
				comma = true
				i++
				break
			}
		}
		if c != '"' || wasQuote {
			text.WriteByte(c)
		}
		if inQuote && c == '"' {
			wasQuote = !wasQuote
		} else {
			wasQuote = false
		}
		if c == '"' {
			inQuote = !inQuote
			sawQuote = true
			if i == start {
				quoted = true
			}
		}
	}
	if inQuote {
		return nil, "", false, errors.New("unterminated quoted string")
	}
	if !sawQuote && text.Len() == 0 {
		return nil, "", false, nil
	}
	return &token{text: text.String(), quoted: quoted}, s[i:], comma, nil
}

// isBlank is PostgreSQL's pg_isblank.
func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// hbaParser collects the faults of a file.
type hbaParser struct {
	name   string
	line   int
	faults []error
	read   func(path string) ([]byte, error)
}

func (p *hbaParser) fault(format string, args ...any) {
	p.faults = append(p.faults, fmt.Errorf("%s:%d: %s", p.name, p.line, fmt.Sprintf(format, args...)))
}

// entry parses one line. It reports all faults of the line.
func (p *hbaParser) entry(fields [][]token) (entry, bool) {
	before := len(p.faults)
	e := entry{rule: Rule{File: p.name, Line: p.line}}
	e.transport = p.transport(fields[0])
	if e.transport == transportUnknown {
		return e, false
	}
	fields = fields[1:]
	for _, what := range []string{"database", "user"} {
		if len(fields) == 0 {
			p.fault("end of line before the %s field", what)
			return e, false
		}
		list := p.names(fields[0], what)
		if what == "database" {
			e.databases = list
		} else {
			e.users = list
		}
		fields = fields[1:]
	}
	if e.transport != transportLocal {
		var ok bool
		if e.address, fields, ok = p.address(fields); !ok {
			return e, false
		}
	}
	if len(fields) == 0 {
		p.fault("end of line before the authentication method")
		return e, false
	}
	e.rule.Method = p.method(fields[0], e.transport)
	for _, f := range fields[1:] {
		for _, t := range f {
			p.option(&e, t)
		}
	}
	if e.rule.Method == MethodCert {
		e.rule.ClientCert = ClientCertVerifyFull
	}
	return e, len(p.faults) == before
}

func (p *hbaParser) transport(field []token) transport {
	if len(field) > 1 {
		p.fault("one connection type is needed, not a list")
		return transportUnknown
	}
	switch t := field[0].text; t {
	case "local":
		return transportLocal
	case "host", "hostnogssenc":
		return transportHost
	case "hostssl":
		return transportHostSSL
	case "hostnossl":
		return transportHostNoSSL
	case "hostgssenc":
		return transportHostGSSEnc
	case "include", "include_if_exists", "include_dir":
		p.fault("%s is not supported: write the lines into this file", t)
	default:
		p.fault("invalid connection type %q", t)
	}
	return transportUnknown
}

// names parses a database or user list.
func (p *hbaParser) names(field []token, what string) []nameMatch {
	var list []nameMatch
	for _, t := range p.expand(field) {
		switch {
		case t.is("all"):
			list = append(list, nameMatch{kind: nameAll})
		case strings.HasPrefix(t.text, "/"):
			// A quoted token is a regular expression too, so that one can hold a comma.
			re, err := regexp.Compile(t.text[1:])
			if err != nil {
				p.fault("invalid regular expression %q: %v", t.text[1:], err)
				continue
			}
			list = append(list, nameMatch{kind: nameRegex, name: t.text, regex: re})
		case what == "database" && t.is("sameuser"):
			list = append(list, nameMatch{kind: nameSameUser})
		case what == "database" && t.is("replication"):
			list = append(list, nameMatch{kind: nameReplication})
		case what == "database" && (t.is("samerole") || t.is("samegroup")):
			p.fault("%s is not supported: name the users", t.text)
		case what == "user" && !t.quoted && strings.HasPrefix(t.text, "+"):
			p.fault("%s is not supported: name the users instead of a role that they are members of", t.text)
		default:
			list = append(list, nameMatch{kind: nameExact, name: t.text})
		}
	}
	return list
}

// expand replaces each "@file" by the tokens of that file.
func (p *hbaParser) expand(field []token) []token {
	isFile := func(t token) bool { return !t.quoted && len(t.text) > 1 && t.text[0] == '@' }
	if !slices.ContainsFunc(field, isFile) {
		return field
	}
	var out []token
	for _, t := range field {
		if !isFile(t) {
			out = append(out, t)
			continue
		}
		path := t.text[1:]
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(p.name), path)
		}
		text, err := p.read(path)
		if err != nil {
			p.fault("read list %s: %v", t.text, err)
			continue
		}
		for _, l := range splitHBA(string(text)) {
			fields, err := splitFields(l.text)
			if err != nil {
				p.fault("read list %s: line %d: %v", t.text, l.number, err)
				continue
			}
			for _, inner := range slices.Concat(fields...) {
				if isFile(inner) {
					p.fault("read list %s: line %d: a list inside a list is not supported", t.text, l.number)
					continue
				}
				out = append(out, inner)
			}
		}
	}
	return out
}

// address parses the address and, if it stands alone, the mask field.
func (p *hbaParser) address(fields [][]token) (m addressMatch, rest [][]token, ok bool) {
	if len(fields) == 0 {
		p.fault("end of line before the address field")
		return m, nil, false
	}
	if len(fields[0]) > 1 {
		p.fault("one address is needed, not a list: write one line for each")
		return m, nil, false
	}
	t, rest := fields[0][0], fields[1:]
	switch {
	case t.is("all"):
		return addressMatch{kind: addressAll}, rest, true
	case t.is("samehost"):
		return addressMatch{kind: addressSameHost}, rest, true
	case t.is("samenet"):
		return addressMatch{kind: addressSameNet}, rest, true
	}
	if strings.Contains(t.text, "/") {
		prefix, err := netip.ParsePrefix(t.text)
		if err != nil {
			host, _, _ := strings.Cut(t.text, "/")
			if _, err := netip.ParseAddr(host); err != nil && host != "" {
				p.hostName(host)
			} else {
				p.fault("invalid CIDR mask in address %q", t.text)
			}
			return m, nil, false
		}
		return addressMatch{kind: addressRange, base: prefix.Addr(), mask: maskOf(prefix)}, rest, true
	}
	base, err := netip.ParseAddr(t.text)
	if err != nil || base.Zone() != "" {
		p.hostName(t.text)
		return m, nil, false
	}
	if len(rest) == 0 {
		p.fault("end of line before the netmask field: give the address in CIDR notation or a mask after it")
		return m, nil, false
	}
	if len(rest[0]) > 1 {
		p.fault("one netmask is needed, not a list")
		return m, nil, false
	}
	mask, err := netip.ParseAddr(rest[0][0].text)
	if err != nil || mask.Zone() != "" {
		p.fault("invalid netmask %q", rest[0][0].text)
		return m, nil, false
	}
	if mask.BitLen() != base.BitLen() {
		p.fault("the address %s and the netmask %s are not of one family", base, mask)
		return m, nil, false
	}
	return addressMatch{kind: addressRange, base: base, mask: mask}, rest[1:], true
}

func (p *hbaParser) hostName(s string) {
	p.fault("invalid address %q: host names are not supported: use an address", s)
}

// maskOf returns the mask of a prefix as an address.
func maskOf(p netip.Prefix) netip.Addr {
	b := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	mask, _ := netip.AddrFromSlice(b)
	return mask
}

func (p *hbaParser) method(field []token, t transport) Method {
	if len(field) > 1 {
		p.fault("one authentication method is needed, not a list")
		return MethodUnknown
	}
	switch name := field[0].text; name {
	case "trust":
		return MethodTrust
	case "reject":
		return MethodReject
	case "md5":
		return MethodMD5
	case "scram-sha-256":
		return MethodSCRAM
	case "password":
		return MethodPassword
	case "cert":
		if t != transportHostSSL {
			p.fault("method cert needs a hostssl line")
			return MethodUnknown
		}
		return MethodCert
	case "peer":
		if t != transportLocal {
			p.fault("method peer needs a local line")
			return MethodUnknown
		}
		return MethodPeer
	case "gss", "sspi", "ident", "ldap", "radius", "pam", "bsd", "oauth":
		p.fault("method not supported: %s", name)
	default:
		p.fault("invalid authentication method %q", name)
	}
	return MethodUnknown
}

func (p *hbaParser) option(e *entry, t token) {
	name, value, ok := strings.Cut(t.text, "=")
	if !ok {
		p.fault("authentication option %q is not in the form name=value", t.text)
		return
	}
	switch name {
	case "clientcert":
		p.clientCert(e, value)
	case "clientname":
		if e.transport != transportHostSSL {
			p.fault("clientname needs a hostssl line")
		} else if value != "CN" {
			p.fault("clientname=%s is not supported: the common name (CN) is compared", value)
		}
	case "map":
		p.fault("authentication option map is not supported: the name must be equal to the user's")
	default:
		p.fault("authentication option %q is not supported", name)
	}
}

func (p *hbaParser) clientCert(e *entry, value string) {
	if e.transport != transportHostSSL {
		p.fault("clientcert needs a hostssl line")
		return
	}
	switch value {
	case "verify-full":
		e.rule.ClientCert = ClientCertVerifyFull
	case "verify-ca":
		if e.rule.Method == MethodCert {
			p.fault("clientcert can only be verify-full with method cert")
			return
		}
		e.rule.ClientCert = ClientCertVerifyCA
	default:
		p.fault("invalid value for clientcert: %q: verify-ca or verify-full", value)
	}
}
