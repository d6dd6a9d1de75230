package lb

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
)

// FunctionRow is one row of FunctionsQuery: what holds for any of the functions of
// that name and kind, in whatever schema.
type FunctionRow struct {
	Name     string
	Kind     string // one of the Kind constants; "" is KindFunction
	Volatile bool   // pg_proc.provolatile = 'v', or an aggregate made of such
	// Argument tells that a volatile one takes an argument, so that t.f may call it.
	Argument bool
	// Opaque tells that what one does to the session cannot be read.
	Opaque bool
	// Bodies are the sources of those that can be read.
	Bodies []string
}

// The kinds of a FunctionRow.
const (
	KindFunction  = "function"
	KindProcedure = "procedure"
	KindTrigger   = "trigger" // a function that only triggers call
)

func (r *FunctionRow) kind() string {
	if r.Kind == "" {
		return KindFunction
	}
	return r.Kind
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
	RelationWrite    = "write"    // writing it calls the function Ref: a trigger, a default, a rule, a policy
)

// Catalog is what one database says about its functions and relations. It is
// immutable. Names are compared without their schemas, so that search_path does not
// matter: a name that is doubtful in one schema is doubtful in all.
type Catalog struct {
	id         [16]byte // of the contents: equal catalogs share the cache's verdicts
	functions  map[string]function
	procedures map[string]bool
	doings     map[routine]*doing
	relations  map[string]relation
	foreign    bool // a doubtful name has bytes above 127
}

type function struct {
	volatile, argument bool
}

// relation is a relation that may have to be read on the primary.
type relation struct {
	primary   string    // why it must be; "" see functions
	functions []string  // what reading it calls, directly or through others
	writes    []routine // what writing it calls and may change the session
}

// NewCatalog builds a catalog from the rows of the two queries, in any order.
func NewCatalog(functions []FunctionRow, relations []RelationRow) *Catalog {
	c := &Catalog{
		functions:  make(map[string]function, len(functions)),
		procedures: make(map[string]bool),
		doings:     doings(functions),
		relations:  make(map[string]relation),
	}
	for i := range functions {
		r := &functions[i]
		switch r.kind() {
		case KindProcedure:
			c.procedures[r.Name] = true
			continue
		case KindTrigger:
			continue
		}
		f := c.functions[r.Name]
		f.volatile = f.volatile || r.Volatile
		f.argument = f.argument || r.Argument
		c.functions[r.Name] = f
		if f.volatile && !ascii(r.Name) {
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
		case RelationWrite:
			for _, kind := range []string{KindFunction, KindTrigger} {
				if k := (routine{kind, r.Ref}); c.doings[k] != nil {
					d.writes = append(d.writes, k)
				}
			}
		default:
			d.primary = r.Kind
		}
		direct[r.Name] = d
	}
	for name := range direct {
		if rel := closure(name, direct, reads); rel.primary != "" || len(rel.functions) > 0 || len(rel.writes) > 0 {
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
		out.writes = append(out.writes, d.writes...)
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
	for i := range functions {
		r := &functions[i]
		lines = append(lines, fmt.Sprintf("f%q%q%t%t%t%x\n", r.Name, r.kind(), r.Volatile, r.Argument, r.Opaque, digest(r.Bodies)))
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

// digest is one of all sources in their order.
func digest(sources []string) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range sources {
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s) // a hash never fails
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}
