package lb

import "bytes"

// The shape of a statement list is its text by PostgreSQL's lexical rules (scan.l)
// without what a verdict cannot depend on: white space, comments, the values of
// literals and the length of lists of literals. Verdicts are computed from the
// shape alone, never from the text, so that one shape has one verdict by
// construction.
//
// The strings of DO are part of its shape: the verdict depends on what they say.
//
// Encoding: tagWord and the folded bytes of an unquoted identifier or keyword;
// tagQuoted, the bytes of a quoted identifier and a NUL; tagLiteral for a constant
// or a parameter; tagText, the value of a string that is kept and a NUL; every other
// character as itself. A byte of flags ends it.
const (
	tagWord    = 0x01
	tagQuoted  = 0x02
	tagLiteral = 0x03
	tagText    = 0x04
)

// The flags that end a shape.
const (
	flagHintPrimary byte = 1 << iota
	flagHintStandby
	flagBroken // PostgreSQL's lexer does not accept the text
	// flagDoubtful: where a string ends depends on standard_conforming_strings.
	flagDoubtful
	// flagEncoding: bytes above 127 under an encoding that hides ASCII in them.
	flagEncoding
	flagUnsafe // client_encoding is one that hides ASCII
	flagNames  // a name is not what the bytes say: U&"..."
)

// LexSettings are the session's settings that decide how its text is read.
type LexSettings struct {
	// StandardConformingStrings is the server parameter of that name.
	StandardConformingStrings bool
	// SafeEncoding tells that client_encoding never uses a byte below 128 as part of
	// a longer character (false: SJIS, BIG5, GBK, GB18030, UHC, JOHAB,
	// SHIFT_JIS_2004). Without it nothing is a read.
	SafeEncoding bool
}

// The classes of a byte, by scan.l.
const (
	classSpace byte = 1 << iota
	classIdentStart
	classIdentCont
	classDigit
	classSelf // one-character tokens and operator characters
)

var class = func() (t [256]byte) {
	for c := range t {
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			t[c] = classSpace
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80:
			t[c] = classIdentStart | classIdentCont
		case c >= '0' && c <= '9':
			t[c] = classDigit | classIdentCont
		case c == '$':
			t[c] = classIdentCont
		}
	}
	for _, c := range []byte(",()[].;:+-*/%^<>=~!@#&|`?") {
		t[c] = classSelf
	}
	return t
}()

// fold is downcase_identifier for ASCII. PostgreSQL folds bytes above 127 too in
// databases of a single-byte encoding; names with such bytes are never trusted.
var fold = func() (t [256]byte) {
	for c := range t {
		t[c] = byte(c)
		if c >= 'A' && c <= 'Z' {
			t[c] = byte(c) + 'a' - 'A'
		}
	}
	return t
}()

// lexer reads one text into a shape.
type lexer struct {
	s     []byte
	out   []byte
	flags byte
	scs   bool // standard_conforming_strings
	// keep: the values of strings are kept, true, false and null are words, and no
	// list is shortened. Inside DO it is so anyway.
	keep, keepAll bool
}

// appendShape appends the shape of sql to dst, which must be empty.
func appendShape(dst []byte, settings LexSettings, sql []byte) []byte {
	l := lexer{s: sql, out: dst, scs: settings.StandardConformingStrings}
	l.run()
	if !settings.SafeEncoding {
		l.flags |= flagUnsafe
		for _, c := range sql {
			if c >= 0x80 {
				l.flags |= flagEncoding
				break
			}
		}
	}
	return append(l.out, l.flags)
}

func (l *lexer) run() {
	s := l.s
	for i := 0; i < len(s); {
		c := s[i]
		switch k := class[c]; {
		case k&classSpace != 0:
			i++
		case k&classIdentStart != 0:
			i = l.word(i)
		case k&classDigit != 0:
			i = l.number(i)
		case k&classSelf != 0:
			i = l.self(i)
		case c == '\'':
			i = l.plainString(i + 1)
		case c == '"':
			i = l.quotedIdent(i + 1)
		case c == '$':
			i = l.dollar(i)
		default: // no token of SQL starts with it
			l.flags |= flagBroken
			i++
		}
	}
}

// word reads an identifier, a keyword, or a constant with a letter before its quote.
func (l *lexer) word(i int) int {
	s := l.s
	if i+1 < len(s) {
		switch next := s[i+1]; {
		case next == '\'':
			switch s[i] {
			case 'e', 'E':
				return l.quoted(i+2, true)
			case 'n', 'N':
				return l.plainString(i + 2)
			case 'b', 'B', 'x', 'X':
				return l.bitString(i + 2)
			}
		case next == '&' && (s[i] == 'u' || s[i] == 'U') && i+2 < len(s):
			switch s[i+2] {
			case '\'':
				return l.quoted(i+3, false)
			case '"': // its name is not what the bytes say
				l.flags |= flagNames
				return l.quotedIdent(i + 3)
			}
		}
	}
	start := len(l.out)
	out := append(l.out, tagWord)
	for ; i < len(s) && class[s[i]]&classIdentCont != 0; i++ {
		out = append(out, fold[s[i]])
	}
	l.out = out
	switch n := len(out) - start; {
	case n == 3 && out[start+1] == 'd' && out[start+2] == 'o':
		l.keep = l.keep || start == 0 || out[start-1] == ';'
	case (n == 5 || n == 6) && !l.keep:
		switch string(out[start+1:]) {
		case "null", "true", "false": // reserved, hence constants unless they name a field
			if start == 0 || out[start-1] != '.' {
				l.out = out[:start]
				l.literal()
			}
		}
	}
	return i
}

// number reads a numeric constant. What follows it without a space is left for the
// next token, as PostgreSQL did before version 15; later versions raise an error.
func (l *lexer) number(i int) int {
	s := l.s
	if s[i] == '0' && i+2 < len(s) {
		isDigit := func(byte) bool { return false }
		switch s[i+1] {
		case 'x', 'X':
			isDigit = func(c byte) bool {
				return class[c]&classDigit != 0 || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
			}
		case 'o', 'O':
			isDigit = func(c byte) bool { return c >= '0' && c <= '7' }
		case 'b', 'B':
			isDigit = func(c byte) bool { return c == '0' || c == '1' }
		}
		if end := digits(s, i+2, isDigit); end > i+2 {
			l.literal()
			return end
		}
	}
	isDigit := func(c byte) bool { return class[c]&classDigit != 0 }
	i = digits(s, i, isDigit)
	if i < len(s) && s[i] == '.' {
		i = digits(s, i+1, isDigit)
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			j++
		}
		if end := digits(s, j, isDigit); end > j {
			i = end
		}
	}
	l.literal()
	return i
}

// digits returns the end of the digits that start at i; an underscore may stand
// between two of them.
func digits(s []byte, i int, isDigit func(byte) bool) int {
	for i < len(s) {
		switch {
		case isDigit(s[i]):
			i++
		case s[i] == '_' && i+1 < len(s) && isDigit(s[i+1]):
			i += 2
		default:
			return i
		}
	}
	return i
}

// self reads a comment, a number that starts with its point, or one character.
func (l *lexer) self(i int) int {
	s := l.s
	c := s[i]
	if i+1 < len(s) {
		switch next := s[i+1]; {
		case c == '-' && next == '-':
			end := lineEnd(s, i+2)
			l.hint(s[i+2 : end])
			return end
		case c == '/' && next == '*':
			return l.comment(i + 2)
		case c == '.' && class[next]&classDigit != 0:
			return l.number(i)
		}
	}
	if l.keep {
		l.keep = l.keepAll || c != ';'
	} else if c == ')' {
		// (?),(?) is (?): the rows of VALUES count as one.
		if b := l.out; bytes.HasSuffix(b, []byte{'(', tagLiteral, ')', ',', '(', tagLiteral}) {
			l.out = b[:len(b)-4]
		}
	}
	l.out = append(l.out, c)
	return i + 1
}

// literal writes a constant; the constants of a list, with their signs, count as one.
func (l *lexer) literal() {
	b := l.out
	n := len(b)
	if l.keep {
		l.out = append(b, tagLiteral)
		return
	}
	if n >= 2 && (b[n-1] == '-' || b[n-1] == '+') && (b[n-2] == '(' || b[n-2] == ',') {
		n--
	}
	if n >= 2 && b[n-1] == ',' && b[n-2] == tagLiteral {
		l.out = b[:n-1]
		return
	}
	l.out = append(b[:n], tagLiteral)
}

// text replaces the literal that ends the shape by its value, where it is kept.
func (l *lexer) text(value []byte) {
	if !l.keep || l.flags&flagBroken != 0 {
		return
	}
	l.out = append(l.out[:len(l.out)-1], tagText)
	l.out = append(l.out, value...)
	l.out = append(l.out, 0)
}

// comment skips a comment, which nests, from behind its start.
func (l *lexer) comment(i int) int {
	s := l.s
	start := i
	for depth := 1; i+1 < len(s); {
		switch {
		case s[i] == '*' && s[i+1] == '/':
			i += 2
			if depth--; depth == 0 {
				l.hint(s[start : i-2])
				return i
			}
		case s[i] == '/' && s[i+1] == '*':
			i += 2
			depth++
		default:
			i++
		}
	}
	l.flags |= flagBroken
	return len(s)
}

// hint looks for a hint in the text of a comment.
func (l *lexer) hint(text []byte) {
	const prefix = "pgproxy:"
	text = bytes.TrimSpace(text)
	if len(text) < len(prefix) || !bytes.EqualFold(text[:len(prefix)], []byte(prefix)) {
		return
	}
	switch target := bytes.TrimSpace(text[len(prefix):]); {
	case bytes.EqualFold(target, []byte("primary")):
		l.flags |= flagHintPrimary
	case bytes.EqualFold(target, []byte("standby")):
		l.flags |= flagHintStandby
	}
}

// lineEnd returns the index of the next line break, or the length of s.
func lineEnd(s []byte, i int) int {
	if n := bytes.IndexAny(s[i:], "\r\n"); n >= 0 {
		return i + n
	}
	return len(s)
}

// plainString reads a constant without a letter, from behind its quote. One with a
// backslash that would escape its closing quote is doubtful whatever the setting
// says: the server may have changed the setting since it told us.
func (l *lexer) plainString(i int) int {
	end := l.quoted(i, !l.scs)
	escaped := false
	for _, c := range l.s[i:end] {
		if c == '\'' && escaped {
			l.flags |= flagDoubtful
			break
		}
		escaped = c == '\\' && !escaped
	}
	if l.keep && end > i {
		if value := l.s[i : end-1]; plain(value) {
			l.text(bytes.ReplaceAll(value, []byte("''"), []byte("'")))
		}
	}
	return end
}

// plain tells whether the inside of a string has nothing but its value and doubled
// quotes: no backslash, and no segments.
func plain(inside []byte) bool {
	for i := 0; i < len(inside); i++ {
		switch inside[i] {
		case 0, '\\':
			return false
		case '\'':
			i++
			if i == len(inside) || inside[i] != '\'' {
				return false
			}
		}
	}
	return true
}

// quoted reads a string constant from behind its quote, with all the segments that
// line breaks separate (manual, 4.1.2.1).
func (l *lexer) quoted(i int, backslash bool) int {
	s := l.s
	for i < len(s) {
		switch c := s[i]; {
		case c == '\\' && backslash:
			i += 2
		case c != '\'':
			i++
		case i+1 < len(s) && s[i+1] == '\'':
			i += 2
		default:
			next := l.continuation(i + 1)
			if next < 0 {
				l.literal()
				return i + 1
			}
			i = next
		}
	}
	l.flags |= flagBroken
	return len(s)
}

// bitString reads B'..' or X'..' from behind its quote; a quote in it ends it.
func (l *lexer) bitString(i int) int {
	s := l.s
	for ; i < len(s); i++ {
		if s[i] != '\'' {
			continue
		}
		next := l.continuation(i + 1)
		if next < 0 {
			l.literal()
			return i + 1
		}
		i = next - 1
	}
	l.flags |= flagBroken
	return len(s)
}

// continuation returns the index behind the quote that continues the string that
// ended before i, or -1: white space with at least one line break and line comments
// may stand between (whitespace_with_newline in scan.l).
func (l *lexer) continuation(i int) int {
	s := l.s
	newline := false
	for i < len(s) {
		switch c := s[i]; {
		case c == '\'':
			if newline {
				return i + 1
			}
			return -1
		case c == '\n' || c == '\r':
			newline = true
			i++
		case class[c]&classSpace != 0:
			i++
		case c == '-' && i+1 < len(s) && s[i+1] == '-':
			// A hint in it counts, and is met a second time when nothing continues.
			end := lineEnd(s, i+2)
			l.hint(s[i+2 : end])
			i = end
		default:
			return -1
		}
	}
	return -1
}

// quotedIdent reads a quoted identifier from behind its quote.
func (l *lexer) quotedIdent(i int) int {
	s := l.s
	out := append(l.out, tagQuoted)
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == 0:
			l.flags |= flagBroken
		case c != '"':
			out = append(out, c)
		case i+1 < len(s) && s[i+1] == '"':
			out = append(out, '"')
			i++
		default:
			l.out = append(out, 0)
			return i + 1
		}
	}
	l.out = append(out, 0)
	l.flags |= flagBroken
	return len(s)
}

// dollar reads a parameter or a dollar-quoted constant.
func (l *lexer) dollar(i int) int {
	s := l.s
	j := i + 1
	if j < len(s) && class[s[j]]&classDigit != 0 {
		for j < len(s) && class[s[j]]&classDigit != 0 {
			j++
		}
		l.literal()
		return j
	}
	if j < len(s) && class[s[j]]&classIdentStart != 0 {
		for j < len(s) && class[s[j]]&classIdentCont != 0 && s[j] != '$' {
			j++
		}
	}
	if j >= len(s) || s[j] != '$' {
		l.flags |= flagBroken
		return i + 1
	}
	tag := s[i : j+1]
	end := bytes.Index(s[j+1:], tag)
	if end < 0 {
		l.flags |= flagBroken
		return len(s)
	}
	l.literal()
	if value := s[j+1 : j+1+end]; l.keep && bytes.IndexByte(value, 0) < 0 {
		l.text(value)
	}
	return j + 1 + end + len(tag)
}
