package pgquerytest

import (
	"fmt"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// volatileFunctions are volatile in the test's catalog; all but the first group take
// an argument.
var (
	volatileFunctions = strings.Fields(`random clock_timestamp lastval gen_random_uuid`)
	volatileWithArgs  = strings.Fields(`nextval setval set_config pg_sleep volatile_f pg_advisory_lock lo_create`)
	doubtfulRelations = strings.Fields(`volatile_view some_seq remote_table`)
)

// truth is what the real parser says about a text.
type truth struct {
	statements int
	// reason says why the text is not a read; "" when the tree shows no reason.
	reason string
	// functions are the names of all functions that are called.
	functions []string
	// prepared is the reason of the statement inside a single PREPARE.
	prepared string
}

// parse asks PostgreSQL's parser.
func parse(sql string) (truth, error) {
	tree, err := pg_query.Parse(sql)
	if err != nil {
		return truth{}, err
	}
	out := truth{statements: len(tree.Stmts)}
	for _, raw := range tree.Stmts {
		w := walker{truth: &out}
		w.top(raw.Stmt)
		if out.reason == "" {
			out.reason = w.reason
		}
		if p := raw.Stmt.GetPrepareStmt(); p != nil {
			inner := walker{truth: &out}
			inner.top(p.Query)
			out.prepared = inner.reason
		}
	}
	return out, nil
}

// walker looks through one statement.
type walker struct {
	*truth
	reason string
}

func (w *walker) no(format string, args ...any) {
	if w.reason == "" {
		w.reason = fmt.Sprintf(format, args...)
	}
}

// top judges the kind of a statement and walks it.
func (w *walker) top(n *pg_query.Node) {
	switch {
	case n.GetSelectStmt() != nil:
	case n.GetCopyStmt() != nil:
		c := n.GetCopyStmt()
		if c.IsFrom || c.IsProgram || c.Filename != "" {
			w.no("COPY that is not TO STDOUT")
		}
		if c.Query != nil && c.Query.GetSelectStmt() == nil {
			w.no("COPY of a statement that writes")
		}
	default:
		w.no("%T", n.GetNode())
	}
	w.walk(n.ProtoReflect())
}

func (w *walker) walk(m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *pg_query.InsertStmt, *pg_query.UpdateStmt, *pg_query.DeleteStmt, *pg_query.MergeStmt:
		w.no("%T", v)
	case *pg_query.IntoClause:
		w.no("INTO")
	case *pg_query.LockingClause:
		w.no("a locking clause")
	case *pg_query.FuncCall:
		name := last(v.Funcname)
		w.functions = append(w.functions, name)
		if contains(volatileFunctions, name) || contains(volatileWithArgs, name) {
			w.no("function %s", name)
		}
	case *pg_query.ColumnRef:
		if name := last(v.Fields); len(v.Fields) > 1 && contains(volatileWithArgs, name) {
			w.no("attribute %s", name)
		}
	case *pg_query.A_Indirection:
		for _, i := range v.Indirection {
			if s := i.GetString_(); s != nil && contains(volatileWithArgs, s.Sval) {
				w.no("attribute %s", s.Sval)
			}
		}
	case *pg_query.RangeVar:
		if contains(doubtfulRelations, v.Relname) || strings.HasPrefix(v.Relname, "pg_") || v.Schemaname == "information_schema" {
			w.no("relation %s", v.Relname)
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				w.walk(v.List().Get(i).Message())
			}
		default:
			w.walk(v.Message())
		}
		return true
	})
}

// last returns the last string of a list of names.
func last(nodes []*pg_query.Node) string {
	if len(nodes) == 0 {
		return ""
	}
	return nodes[len(nodes)-1].GetString_().GetSval()
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
