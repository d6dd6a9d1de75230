package pgquerytest

import (
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/lb"
)

// FuzzAgainstParser looks for texts that the parser takes and the classifier
// misjudges.
func FuzzAgainstParser(f *testing.F) {
	statements := corpus(f)
	for _, s := range statements {
		f.Add(s)
		f.Add(s + ";" + s)
	}
	catalog := newCatalog(f, statements)
	classifier, err := lb.NewClassifier(lb.Default())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if strings.ContainsRune(sql, 0) || len(sql) > 1000 {
			return // NUL ends the text; pg_query overflows the stack on deep nesting
		}
		c := checker{t: t, classifier: classifier, catalog: catalog}
		c.check(sql)
	})
}
