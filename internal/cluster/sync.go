package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SyncMethod is how a primary waits for its synchronous standbys.
type SyncMethod uint8

// The methods of synchronous_standby_names.
const (
	SyncNone  SyncMethod = iota // commits wait for nobody
	SyncFirst                   // for the first Num of the list that are connected
	SyncAny                     // for any Num of the list
)

// String returns the word that operators see.
func (m SyncMethod) String() string {
	switch m {
	case SyncFirst:
		return "first"
	case SyncAny:
		return "any"
	case SyncNone:
	}
	return "none"
}

// MarshalText writes the word of String.
func (m SyncMethod) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the word of String.
func (m *SyncMethod) UnmarshalText(text []byte) error {
	for c := SyncNone; c <= SyncAny; c++ {
		if c.String() == string(text) {
			*m = c
			return nil
		}
	}
	return fmt.Errorf("parse synchronous method %q: %w", text, ErrUnknown)
}

// SyncNames is a value of synchronous_standby_names (PostgreSQL manual,
// "Replication", Primary Server).
type SyncNames struct {
	Method SyncMethod
	Num    int      // of standbys that a commit waits for; 0 with SyncNone
	Names  []string // application names; "*" stands for every standby
}

// ParseSyncNames reads the setting by PostgreSQL's grammar (syncrep_gram.y,
// syncrep_scanner.l): "", "a, b", "2 (a, b)", "FIRST 2 (a, b)" or "ANY 2 (a, b)".
// A name is an identifier, a number, * or anything in double quotes; FIRST and
// ANY are names in quotes only.
func ParseSyncNames(s string) (SyncNames, error) {
	if s == "" {
		return SyncNames{}, nil
	}
	tokens, err := scanSyncNames(s)
	if err != nil {
		return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: %w", s, err)
	}
	n, err := syncConfig(tokens)
	if err != nil {
		return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: %w", s, err)
	}
	return n, nil
}

// syncConfig reads a list, or a method and a number before one in parentheses.
func syncConfig(tokens []syncToken) (SyncNames, error) {
	n := SyncNames{Method: SyncFirst, Num: 1}
	switch {
	case tokens[0].kind == syncFirstWord:
		tokens = tokens[1:]
	case tokens[0].kind == syncAnyWord:
		n.Method, tokens = SyncAny, tokens[1:]
	case tokens[0].kind == syncNumber && tokens[1].kind == '(':
	default:
		return n, n.list(tokens, syncEnd)
	}
	if tokens[0].kind != syncNumber {
		return SyncNames{}, fmt.Errorf("%q where a number is expected", tokens[0].text)
	}
	num, err := strconv.ParseInt(tokens[0].text, 10, 32)
	if err != nil || num < 1 {
		return SyncNames{}, fmt.Errorf("number %q", tokens[0].text)
	}
	n.Num = int(num)
	if tokens[1].kind != '(' {
		return SyncNames{}, fmt.Errorf("%q where a parenthesis is expected", tokens[1].text)
	}
	return n, n.list(tokens[2:], ')')
}

// list reads names up to a token of the kind end and the end of the text.
func (n *SyncNames) list(tokens []syncToken, end syncKind) error {
	for {
		if k := tokens[0].kind; k != syncName && k != syncNumber {
			return fmt.Errorf("%q where a name is expected", tokens[0].text)
		}
		n.Names = append(n.Names, tokens[0].text)
		next := tokens[1].kind
		tokens = tokens[2:]
		switch {
		case next == ',':
		case next == end && (end == syncEnd || tokens[0].kind == syncEnd):
			return nil
		default:
			return errors.New("something follows the names, or a parenthesis is missing")
		}
	}
}

// syncKind is the kind of a token: a constant below, or the character itself.
type syncKind byte

const (
	syncEnd       syncKind = iota // every text ends with two, so that one may look ahead
	syncName                      // text without its quotes
	syncNumber                    // which is a name too, where a name may stand
	syncFirstWord                 // FIRST
	syncAnyWord                   // ANY
)

type syncToken struct {
	kind syncKind
	text string
}

func scanSyncNames(s string) ([]syncToken, error) {
	var tokens []syncToken
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			i++
		case c == ',' || c == '(' || c == ')':
			tokens = append(tokens, syncToken{syncKind(c), s[i : i+1]})
			i++
		case c == '*':
			tokens = append(tokens, syncToken{syncName, "*"})
			i++
		case c == '"':
			name, n, ok := cutQuoted(s[i:])
			if !ok {
				return nil, errors.New("quote is not closed")
			}
			tokens = append(tokens, syncToken{syncName, name})
			i += n
		case c >= '0' && c <= '9':
			n := prefixLen(s[i:], func(c byte) bool { return c >= '0' && c <= '9' })
			tokens = append(tokens, syncToken{syncNumber, s[i : i+n]})
			i += n
		case isIdentStart(c):
			n := prefixLen(s[i:], func(c byte) bool { return isIdentStart(c) || c >= '0' && c <= '9' || c == '$' })
			tokens = append(tokens, syncWord(s[i:i+n]))
			i += n
		default:
			return nil, fmt.Errorf("character %q outside of quotes", c)
		}
	}
	return append(tokens, syncToken{}, syncToken{}), nil
}

func syncWord(word string) syncToken {
	switch {
	case len(word) == 5 && strings.EqualFold(word, "FIRST"):
		return syncToken{syncFirstWord, word}
	case len(word) == 3 && strings.EqualFold(word, "ANY"):
		return syncToken{syncAnyWord, word}
	}
	return syncToken{syncName, word}
}

// cutQuoted returns the name that s begins with, and how many bytes it takes with
// its quotes. Two quotes within stand for one.
func cutQuoted(s string) (name string, n int, ok bool) {
	for n = 1; n < len(s); n++ {
		if s[n] != '"' {
			continue
		}
		if n+1 < len(s) && s[n+1] == '"' {
			n++
			continue
		}
		return strings.ReplaceAll(s[1:n], `""`, `"`), n + 1, true
	}
	return "", 0, false
}

func isIdentStart(c byte) bool {
	return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
}

func prefixLen(s string, is func(byte) bool) int {
	n := 0
	for n < len(s) && is(s[n]) {
		n++
	}
	return n
}

// Sync is what is recorded of synchronous replication: who may be promoted
// without the loss of an acknowledged commit (S5).
type Sync struct {
	Method SyncMethod `json:"method,omitempty"`
	Num    int        `json:"num,omitempty"`
	// Standbys are backends: with SyncFirst those that PostgreSQL reported as
	// synchronous, with SyncAny all that it reported as members of the quorum.
	Standbys []string `json:"standbys,omitempty"`
	// Listed is how many standbys the primary chooses from (SyncAny), the ones that
	// are not backends of this cluster too.
	Listed int `json:"listed,omitempty"`
}

// String returns it for logs: "none", "first 1 of [b]", "any 1 of 2 [b c]".
func (s Sync) String() string {
	switch s.Method {
	case SyncFirst:
		return fmt.Sprintf("first %d of %v", s.Num, s.Standbys)
	case SyncAny:
		return fmt.Sprintf("any %d of %d %v", s.Num, s.Listed, s.Standbys)
	case SyncNone:
	}
	return "none"
}

// Equal tells whether two records say the same.
func (s Sync) Equal(o Sync) bool {
	return s.Method == o.Method && s.Num == o.Num && s.Listed == o.Listed && slices.Equal(s.Standbys, o.Standbys)
}
