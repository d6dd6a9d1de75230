package configs

import (
	"fmt"
	"slices"
	"strings"
)

// unknownKey is the message about a key that its section does not have.
func unknownKey(key string, fields map[string]int) string {
	// Whoever writes a secret here must not be led to a key that would take it as text.
	for _, secret := range []string{"password", "secret"} {
		if _, ok := fields[secret+"_file"]; ok && strings.EqualFold(key, secret) {
			return fmt.Sprintf("secrets are files: use %s_file", secret)
		}
	}
	if strings.EqualFold(key, "password") || strings.EqualFold(key, "secret") {
		return "unknown key; secrets are files, and none belongs here"
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	best, bestDistance := "", 3
	for _, name := range names {
		a, b := fold(key), fold(name)
		// Of two short words nearly every pair is two edits apart.
		if dist := distance(a, b); dist < bestDistance && dist*3 <= max(len(a), len(b)) {
			best, bestDistance = name, dist
		}
	}
	if best == "" {
		return "unknown key"
	}
	return fmt.Sprintf("unknown key; did you mean %s?", best)
}

// fold makes maxClients, max-clients and max_clients equal.
func fold(key string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key))
}

// distance is the number of single bytes to insert, delete or replace, or of
// neighbours to swap, that make b of a (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b)) // no key of ours is that long
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
