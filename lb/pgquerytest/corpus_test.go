package pgquerytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/pgproxy/pgproxy/lb"
)

// minStatements is how many statements the corpus must have at least.
const minStatements = 500

// corpus reads the statements of ../testdata/corpus. They are separated by a
// semicolon at the end of a line and a line of two dashes.
func corpus(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../testdata/corpus/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Split(string(text), ";\n--\n") {
			if s = strings.TrimSuffix(strings.TrimSpace(s), ";"); s != "" {
				out = append(out, s)
			}
		}
	}
	if len(out) < minStatements {
		t.Fatalf("%d statements in the corpus, want at least %d", len(out), minStatements)
	}
	return out
}

// checker holds the classifier against the parser.
type checker struct {
	t          *testing.T
	classifier *lb.Classifier
	catalog    *lb.Catalog
	scratch    lb.Scratch
	texts      int
}

func newChecker(t *testing.T, statements []string) *checker {
	t.Helper()
	classifier, err := lb.NewClassifier(lb.Default())
	if err != nil {
		t.Fatal(err)
	}
	return &checker{t: t, classifier: classifier, catalog: newCatalog(t, statements)}
}

// newCatalog makes a catalog that knows every function that the corpus calls, so
// that a statement is never kept from being a read by an unknown name alone.
func newCatalog(t testing.TB, statements []string) *lb.Catalog {
	t.Helper()
	var rows []lb.FunctionRow
	for _, s := range statements {
		truth, err := parse(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		for _, name := range truth.functions {
			rows = append(rows, lb.FunctionRow{Name: name})
		}
	}
	for _, name := range volatileFunctions {
		rows = append(rows, lb.FunctionRow{Name: name, Volatile: true})
	}
	for _, name := range volatileWithArgs {
		rows = append(rows, lb.FunctionRow{Name: name, Volatile: true, Argument: true})
	}
	var relations []lb.RelationRow
	for _, name := range doubtfulRelations {
		relations = append(relations, lb.RelationRow{Name: name, Kind: lb.RelationPrimary, Ref: "doubtful"})
	}
	return lb.NewCatalog(rows, relations)
}

// check compares verdict and truth of a text. It returns the verdict and whether
// the parser took the text at all.
func (c *checker) check(sql string) (lb.Verdict, truth, bool) {
	c.t.Helper()
	want, err := parse(sql)
	if err != nil {
		return lb.Verdict{}, truth{}, false
	}
	c.texts++
	v := *c.classifier.Classify(c.catalog, lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true}, []byte(sql), &c.scratch)
	if v.Statements != want.statements {
		c.t.Errorf("%s\n%d statements, the parser has %d", sql, v.Statements, want.statements)
	}
	if v.Read && want.reason != "" {
		c.t.Errorf("%s\nread, but the parser says: %s", sql, want.reason)
	}
	if v.Inner && v.Effects&lb.EffectPrepare != 0 && want.prepared != "" {
		c.t.Errorf("%s\nprepares a read, but the parser says: %s", sql, want.prepared)
	}
	c.checkState(sql, &v, want.functions)
	return v, want, true
}

func TestCorpus(t *testing.T) {
	statements := corpus(t)
	c := newChecker(t, statements)
	reads, found := 0, 0
	for _, s := range statements {
		v, want, ok := c.check(s)
		if !ok {
			t.Errorf("%s\nis not accepted by the parser", s)
		}
		if want.reason == "" {
			reads++
			if v.Read {
				found++
			} else {
				t.Logf("not balanced (%s): %s", v.Why, s)
			}
		}
	}
	t.Logf("%d statements, the parser sees no reason against %d, of which %d are balanced", len(statements), reads, found)
	if found*100 < reads*85 {
		t.Errorf("only %d of %d reads are balanced", found, reads)
	}
}

// TestSpelling changes white space, comments and the case of words, which must not
// change a verdict.
func TestSpelling(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, seed))
	statements := corpus(t)
	c := newChecker(t, statements)
	for _, s := range statements {
		before, _, _ := c.check(s)
		for range 8 {
			mutant := respell(t, rnd, s)
			after, _, ok := c.check(mutant)
			if !ok {
				t.Errorf("%s\nbecame\n%s\nwhich the parser does not take", s, mutant)
				continue
			}
			if !reflect.DeepEqual(after, before) {
				t.Errorf("%s\nis %+v, but\n%s\nis %+v", s, before, mutant, after)
			}
		}
	}
	t.Logf("seed %d, %d texts", seed, c.texts)
}

// respell writes the tokens of s again with other space between them.
func respell(t *testing.T, rnd *rand.Rand, s string) string {
	t.Helper()
	scan, err := pg_query.Scan(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	spaces := []string{" ", "\n", "\t", "\r\n", "\f", "/**/", "/* ; ' \" $$ */", "/* a /* b */ c */", " -- ' ; $$\n"}
	const blank = 5 // as many of them have no comment
	var b strings.Builder
	previous := ""
	for _, token := range scan.Tokens {
		text := s[token.Start:token.End]
		switch {
		case token.Token == pg_query.Token_SQL_COMMENT || token.Token == pg_query.Token_C_COMMENT:
			text += "\n"
		case token.KeywordKind != pg_query.KeywordKind_NO_KEYWORD,
			token.Token == pg_query.Token_IDENT && text[0] != '"' && text[0] != 'U' && text[0] != 'u':
			text = respellWord(rnd, text)
		}
		choices := spaces
		switch strings.ToLower(previous) {
		// pg_query's lexer, unlike the server's, does not look past a comment for the
		// word that follows these.
		case "not", "nulls", "with", "without", "format":
			choices = spaces[:blank]
		}
		if strings.HasPrefix(strings.ToLower(previous), "u&") {
			choices = spaces[:blank]
		}
		b.WriteString(choices[rnd.IntN(len(choices))])
		b.WriteString(text)
		previous = text
	}
	b.WriteString(spaces[rnd.IntN(len(spaces))])
	return b.String()
}

// respellWord changes the case of the ASCII letters of a word.
func respellWord(rnd *rand.Rand, word string) string {
	out := []byte(word)
	for i, c := range out {
		if (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') && rnd.IntN(2) == 0 {
			out[i] ^= 0x20
		}
	}
	return string(out)
}

// TestInside puts every statement inside others.
func TestInside(t *testing.T) {
	statements := corpus(t)
	c := newChecker(t, statements)
	wrapped := 0
	for _, s := range statements {
		for _, form := range []string{
			"(%s)",
			"((%s)) LIMIT 1",
			"SELECT * FROM (%s) AS x",
			"SELECT 1 WHERE EXISTS (%s)",
			"SELECT ARRAY(%s)",
			"WITH x AS (%s) SELECT * FROM x",
			"WITH x (a) AS NOT MATERIALIZED (%s) TABLE x",
			"WITH RECURSIVE a AS (SELECT 1), x AS (%s) SELECT 2",
			"SELECT 1 UNION ALL %s",
			"SELECT coalesce((%s), 1)",
			"COPY (%s) TO STDOUT",
			"COPY (%s) TO '/tmp/file'",
			"EXPLAIN %s",
			"EXPLAIN (ANALYZE) %s",
			"PREPARE p (int) AS %s",
			"DECLARE c CURSOR FOR %s",
			"CREATE TABLE made AS %s",
			"CREATE TEMP TABLE made AS %s",
			"CREATE VIEW made AS %s",
			"INSERT INTO made %s",
			"CREATE RULE r AS ON INSERT TO made DO ALSO (%s; DELETE FROM made)",
		} {
			if v, _, ok := c.check(fmt.Sprintf(form, s)); ok {
				wrapped++
				if v.Read && !strings.HasPrefix(form, "SELECT") && !strings.HasPrefix(form, "(") &&
					!strings.HasPrefix(form, "WITH") && form != "COPY (%s) TO STDOUT" {
					t.Errorf("%s of %s is a read", form, s)
				}
			}
		}
	}
	t.Logf("%d statements inside others", wrapped)
}

// TestConcatenations joins statements to simple queries of several.
func TestConcatenations(t *testing.T) {
	const seed = 2
	rnd := rand.New(rand.NewPCG(seed, seed))
	statements := corpus(t)
	c := newChecker(t, statements)
	for range 3000 {
		var parts []string
		read := true
		for range 2 + rnd.IntN(3) {
			s := statements[rnd.IntN(len(statements))]
			v, _, _ := c.check(s)
			read = read && v.Read
			parts = append(parts, s)
		}
		text := strings.Join(parts, "\n;") + []string{"", ";", ";;", " ; -- end"}[rnd.IntN(4)]
		v, _, ok := c.check(text)
		if !ok {
			t.Errorf("%s\nis not accepted by the parser", text)
		}
		if v.Read != read {
			t.Errorf("%s\nread = %t, its parts say %t", text, v.Read, read)
		}
	}
	t.Logf("seed %d, %d texts", seed, c.texts)
}
