package auth

import (
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
)

// nonASCIISpaces is table C.1.2 of RFC 3454, mapped to a space by RFC 4013.
var nonASCIISpaces = func() stringprep.Mapping {
	m := stringprep.Mapping{}
	for _, set := range stringprep.TableC1_2 {
		for r := set[0]; r <= set[1]; r++ {
			m[r] = []rune{' '}
		}
	}
	return m
}()

// saslprep is SASLprep (RFC 4013) with PostgreSQL's order of the mappings:
// U+200B, which stands in both tables, becomes a space.
var saslprep = stringprep.Profile{
	Mappings:  []stringprep.Mapping{nonASCIISpaces, stringprep.TableB1},
	Normalize: true,
	Prohibits: stringprep.SASLprep.Prohibits,
	CheckBiDi: true,
}

// prepPassword prepares a password for SCRAM as PostgreSQL and libpq do
// (pg_saslprep): ASCII is taken as it is, and so is what is not UTF-8 or holds
// prohibited characters.
func prepPassword(password string) string {
	if isASCII(password) || !utf8.ValidString(password) {
		return password
	}
	if prepared, err := saslprep.Prepare(password); err == nil && prepared != "" {
		return prepared
	}
	return password
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
