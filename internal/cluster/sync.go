package cluster

import (
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

// SyncNames is a value of synchronous_standby_names (PostgreSQL manual,
// "Replication", Primary Server).
type SyncNames struct {
	Method SyncMethod
	Num    int      // of standbys that a commit waits for; 0 with SyncNone
	Names  []string // application names; "*" stands for every standby
}

// ParseSyncNames reads the setting: "", "a, b", "2 (a, b)", "FIRST 2 (a, b)" or
// "ANY 2 (a, b)", with names that may be quoted.
func ParseSyncNames(s string) (SyncNames, error) {
	rest := strings.TrimSpace(s)
	if rest == "" {
		return SyncNames{}, nil
	}
	n := SyncNames{Method: SyncFirst, Num: 1}
	head, list, ok := strings.Cut(rest, "(")
	if quoted := strings.IndexByte(rest, '"'); ok && (quoted < 0 || quoted > len(head)) {
		words := strings.Fields(head)
		if len(words) == 2 {
			switch strings.ToUpper(words[0]) {
			case "FIRST":
			case "ANY":
				n.Method = SyncAny
			default:
				return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: method %q", s, words[0])
			}
			words = words[1:]
		}
		if len(words) != 1 {
			return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: no number", s)
		}
		num, err := strconv.Atoi(words[0])
		if err != nil || num < 1 {
			return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: number %q", s, words[0])
		}
		n.Num = num
		if rest, ok = strings.CutSuffix(list, ")"); !ok {
			return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: no closing parenthesis", s)
		}
	}
	for rest != "" {
		name, after, err := syncName(rest)
		if err != nil {
			return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: %w", s, err)
		}
		n.Names, rest = append(n.Names, name), after
	}
	if len(n.Names) == 0 {
		return SyncNames{}, fmt.Errorf("parse synchronous_standby_names %q: no name", s)
	}
	return n, nil
}

// syncName takes the first name of a list and the comma behind it.
func syncName(s string) (name, rest string, err error) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, `"`) {
		end := 1
		for ; ; end++ {
			if end >= len(s) {
				return "", "", fmt.Errorf("quote is not closed")
			}
			if s[end] == '"' {
				if end+1 < len(s) && s[end+1] == '"' {
					end++
					continue
				}
				break
			}
		}
		name, rest = strings.ReplaceAll(s[1:end], `""`, `"`), strings.TrimSpace(s[end+1:])
		if rest != "" && !strings.HasPrefix(rest, ",") {
			return "", "", fmt.Errorf("%q follows a name", rest)
		}
		rest = strings.TrimPrefix(rest, ",")
	} else {
		name, rest, _ = strings.Cut(s, ",")
		name = strings.TrimSpace(name)
	}
	if name == "" || strings.ContainsAny(name, " \t") && !strings.Contains(s, `"`) {
		return "", "", fmt.Errorf("name %q", name)
	}
	return name, rest, nil
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
