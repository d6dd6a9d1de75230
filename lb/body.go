package lb

import "strings"

// call is the name of something that a body calls.
type call struct {
	routine
	certain bool // it has an argument list; without one it may be a column of something
}

// routine names the functions, or the procedures, of one name in whatever schema.
type routine struct {
	kind string // one of the Kind constants
	name string
}

// readBody reads the source of a function in SQL or PL/pgSQL, or of DO: what it may do
// to its session by itself, and what it names. Only what it does beyond its transaction
// counts. What is in strings does not, since nothing runs them but EXECUTE and the
// functions that differs knows.
func readBody(source string) (effects Effect, calls []call) {
	shape := appendShape(nil, LexSettings{StandardConformingStrings: true, SafeEncoding: true}, []byte(source))
	if shape[len(shape)-1]&unsure != 0 {
		return EffectMayChangeState | EffectLeftover, nil
	}
	ts := paired(tokens(string(shape[:len(shape)-1])))
	if ts.at(0).is("create") { // pg_get_functiondef, of a body in standard SQL
		ts = ts.standardBody()
	}
	b := body{ts: ts, called: -1}
	for i, t := range ts {
		if t.kind == kindWord && !ts.at(i-1).self('.') {
			b.keyword(i)
		}
		if t.ident() {
			b.name(i)
		}
	}
	return b.effects, b.calls
}

// standardBody cuts off the head of CREATE FUNCTION. Its SET clauses end with the call.
func (s statement) standardBody() statement {
	for i := range s {
		if s.words(i, "begin", "atomic") {
			return s[i+2:]
		}
		if s[i].is("return") {
			return s[i+1:]
		}
	}
	return s
}

// body is a source that is being read.
type body struct {
	ts statement
	// assigns: an UPDATE, ALTER or CREATE is open, whose SET is none of a setting.
	assigns bool
	effects Effect
	calls   []call
	called  int // index of the name of the procedure behind the last CALL
}

// keyword looks at a word that may begin a statement.
func (b *body) keyword(i int) {
	prev, next := b.ts.at(i-1), b.ts.at(i+1)
	if i == 0 || prev.self(';') {
		b.assigns = false
	}
	switch b.ts[i].text {
	case "then", "else", "loop", "begin":
		b.assigns = false
	case "update":
		b.assigns = b.assigns || !prev.is("for") && !prev.is("key")
	case "alter", "create":
		b.assigns = true
	case "set":
		// SET LOCAL ends with the transaction; a custom setting keeps its name.
		local := next.is("transaction") || next.is("constraints") || next.is("local") && !b.ts.at(i+3).self('.')
		if !b.assigns && !prev.is("delete") && !local {
			b.effects |= EffectMayChangeState
		}
	case "reset", "execute", "listen", "unlisten", "discard", "prepare", "deallocate":
		b.effects |= EffectMayChangeState
	case "temp", "temporary":
		if prev.is("create") || prev.is("replace") || prev.is("local") || prev.is("global") || prev.is("into") {
			b.effects |= EffectMayChangeState
		}
	case "hold":
		if prev.is("with") {
			b.effects |= EffectMayChangeState
		}
	case "do":
		if next.literal() || next.is("language") {
			b.effects |= EffectMayChangeState
		}
	case "load":
		if next.literal() {
			b.effects |= EffectMayChangeState | EffectLeftover
		}
	case "call":
		for b.called = i + 1; b.ts.at(b.called+1).self('.') && b.ts.at(b.called+2).ident(); {
			b.called += 2
		}
	}
}

// name notes a name that may be that of a function.
func (b *body) name(i int) {
	t := b.ts[i]
	called := b.ts.at(i + 1).self('(')
	if strings.HasPrefix(t.text, "pg_temp") {
		b.effects |= EffectMayChangeState
	}
	if len(t.text) > maxName || !ascii(t.text) { // cut or folded by the server
		if called || i == b.called {
			b.effects |= EffectMayChangeState
		}
		return
	}
	if !called && !b.ts.at(i-1).self('.') && i != b.called {
		return
	}
	kind := KindFunction
	if i == b.called {
		kind = KindProcedure
	}
	b.calls = append(b.calls, call{routine: routine{kind, t.text}, certain: called})
}
