package lb

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
)

// FunctionRow is one row of FunctionsQuery: what holds for any of the functions of
// that name, in whatever schema.
type FunctionRow struct {
	Name     string
	Volatile bool // pg_proc.provolatile = 'v', or an aggregate made of such
	// Argument tells that a volatile one takes an argument, so that t.f may call it.
	Argument bool
	// ChangesState tells that one may change settings or other state of the session.
	ChangesState bool
}

// RelationRow is one row of RelationsQuery: one reason why reading a relation may
// need the primary.
type RelationRow struct {
	Name string
	Kind string // one of the Relation constants
	Ref  string
}

// The kinds of a RelationRow.
const (
	RelationPrimary  = "primary"  // Ref says why: it is a sequence, a foreign or an unlogged table, reads system catalogs
	RelationFunction = "function" // its rule or policy calls the function Ref
	RelationRelation = "relation" // its rule or policy reads the relation Ref
)

// Catalog is what one database says about its functions and relations. It is
// immutable. Names are compared without their schemas, so that search_path does not
// matter: a name that is doubtful in one schema is doubtful in all.
type Catalog struct {
	id        [16]byte // of the contents: equal catalogs share the cache's verdicts
	functions map[string]function
	relations map[string]relation
	foreign   bool // a doubtful name has bytes above 127
}

type function struct {
	volatile, argument, state bool
}

// relation is a relation that may have to be read on the primary.
type relation struct {
	primary   string   // why it must be; "" see functions
	functions []string // what reading it calls, directly or through others
}

// NewCatalog builds a catalog from the rows of the two queries, in any order.
func NewCatalog(functions []FunctionRow, relations []RelationRow) *Catalog {
	c := &Catalog{
		functions: make(map[string]function, len(functions)),
		relations: make(map[string]relation),
	}
	for _, r := range functions {
		f := c.functions[r.Name]
		f.volatile = f.volatile || r.Volatile
		f.argument = f.argument || r.Argument
		f.state = f.state || r.ChangesState
		c.functions[r.Name] = f
		if (f.volatile || f.state) && !ascii(r.Name) {
			c.foreign = true
		}
	}
	reads := make(map[string][]string)
	direct := make(map[string]relation)
	for _, r := range relations {
		d := direct[r.Name]
		switch r.Kind {
		case RelationPrimary:
			d.primary = r.Ref
		case RelationFunction:
			d.functions = append(d.functions, r.Ref)
		case RelationRelation:
			reads[r.Name] = append(reads[r.Name], r.Ref)
		default:
			d.primary = r.Kind
		}
		direct[r.Name] = d
	}
	for name := range direct {
		if rel := closure(name, direct, reads); rel.primary != "" || len(rel.functions) > 0 {
			c.relations[name] = rel
			c.foreign = c.foreign || !ascii(name)
		}
	}
	c.id = identity(functions, relations)
	return c
}

// closure follows the relations that name reads.
func closure(name string, direct map[string]relation, reads map[string][]string) relation {
	var out relation
	seen := map[string]bool{name: true}
	for todo := []string{name}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		d := direct[n]
		if out.primary == "" {
			out.primary = d.primary
		}
		out.functions = append(out.functions, d.functions...)
		for _, r := range reads[n] {
			if !seen[r] {
				seen[r] = true
				todo = append(todo, r)
			}
		}
	}
	slices.Sort(out.functions)
	out.functions = slices.Compact(out.functions)
	return out
}

// identity is a digest of the rows in any order.
func identity(functions []FunctionRow, relations []RelationRow) (id [16]byte) {
	lines := make([]string, 0, len(functions)+len(relations))
	for _, r := range functions {
		lines = append(lines, fmt.Sprintf("f%q%t%t%t\n", r.Name, r.Volatile, r.Argument, r.ChangesState))
	}
	for _, r := range relations {
		lines = append(lines, fmt.Sprintf("r%q%q%q\n", r.Name, r.Kind, r.Ref))
	}
	slices.Sort(lines)
	h := sha256.New()
	for _, l := range slices.Compact(lines) {
		_, _ = io.WriteString(h, l) // a hash never fails
	}
	copy(id[:], h.Sum(nil))
	return id
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}
