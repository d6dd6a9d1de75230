package lb

// scan looks for everything in a statement that keeps it from being a read.
// Its three reasons are kept apart because a hint lifts only the last two.
type scan struct {
	c   *Classifier
	cat *Catalog // nil: not loaded yet
	// queries: the statement evaluates expressions, so that a name before a
	// parenthesis is a call. False for utility statements.
	queries bool

	writing bool // it may write to the relations that it names

	structure string // it writes or locks, by its keywords or by what it calls
	doubt     string // the catalog or the fixed list says that its answer may differ
	unknown   string // the catalog does not say
	keeps     bool   // a doubt is about something that it may write, lock or keep
	effects   Effect
}

// run scans a whole statement.
func (s *scan) run(st statement) {
	label(st)
	for _, t := range st {
		if t.kind == kindWord && writing[t.text] {
			s.writing = true
			break
		}
	}
	for i, t := range st {
		if t.kind == kindWord {
			s.keyword(st, i)
		}
		if t.ident() {
			s.name(st, i)
		}
	}
}

// keyword looks at a word that may be one.
func (s *scan) keyword(st statement, i int) {
	switch next := st.at(i + 1); st[i].text {
	case "into":
		s.structure = "INTO"
	case "insert", "update", "delete", "merge":
		s.structure = "a data-modifying keyword"
	case "for":
		if next.is("update") || next.is("no") || next.is("share") || next.is("key") {
			s.structure = "a locking clause"
		}
	case "tablesample":
		if !st.has("repeatable") {
			s.doubt = "TABLESAMPLE without REPEATABLE"
		}
	}
}

// name looks at a word or a quoted identifier as the name of something.
func (s *scan) name(st statement, i int) {
	t := st[i]
	call, parenthesis := calls(st, i), st.at(i+1).self('(')
	if t.kind == kindWord && notFunction[t.text] && !parenthesis && !st.at(i-1).self('.') {
		return
	}
	if len(t.text) > maxName {
		s.structure = "an identifier of more than 63 bytes"
		return
	}
	s.relation(t.text)
	if s.c.writes[t.text] {
		s.structure = "function " + t.text
	} else if s.c.reads[t.text] {
		return
	}
	if systemName(t.text) {
		s.doubt = t.text
	}
	if !call {
		if f := s.function(t.text); f.volatile && (f.argument || parenthesis) {
			s.doubt, s.keeps = "function "+t.text, true
		}
		if parenthesis || st.at(i-1).self('.') {
			s.does(routine{KindFunction, t.text})
		}
		return
	}
	if effects, ok := differs(t.text); ok {
		s.doubt = "function " + t.text
		s.keeps = s.keeps || !quiet[t.text]
		if s.c.vouchedFor(t.text) {
			effects &^= changes
		}
		if effects != 0 {
			s.effects |= effects
			s.structure = s.doubt
		}
		return
	}
	s.call(t.text)
}

// call looks at a call of a function that is not on the fixed list.
func (s *scan) call(name string) {
	if s.cat == nil {
		if s.queries {
			s.unknown = "function " + name
		}
		return
	}
	f, ok := s.cat.functions[name]
	switch {
	case !ok || !ascii(name):
		if s.queries {
			s.unknown = "function " + name
		}
	case f.volatile:
		s.doubt, s.keeps = "function "+name, true
	}
	s.does(routine{KindFunction, name})
}

// does notes what a routine that is called may do to the session. No hint makes that a
// read.
func (s *scan) does(k routine) bool {
	if s.cat == nil {
		return false
	}
	e := s.cat.does(k, s.c.vouchedFor)
	if e != 0 {
		s.effects |= e
		s.doubt = "function " + k.name
		s.structure = s.doubt
	}
	return e != 0
}

func (s *scan) function(name string) function {
	if s.cat == nil {
		return function{}
	}
	if s.cat.foreign && !ascii(name) {
		return function{volatile: true, argument: true}
	}
	return s.cat.functions[name]
}

// relation looks a name up among the relations that may need the primary.
func (s *scan) relation(name string) {
	if s.cat == nil {
		return
	}
	rel, ok := s.cat.relations[name]
	if !ok {
		return
	}
	if s.writing {
		for _, k := range rel.writes {
			s.effects |= s.cat.does(k, s.c.vouchedFor)
		}
	}
	if rel.primary != "" {
		s.doubt, s.keeps = "relation "+name+": "+rel.primary, true
		return
	}
	for _, f := range rel.functions {
		if s.c.reads[f] {
			continue
		}
		known := s.cat.functions[f]
		_, differing := differs(f)
		if s.does(routine{KindFunction, f}) {
			s.doubt = "relation " + name + ": function " + f
			s.structure = s.doubt
			continue
		}
		if s.c.writes[f] || known.volatile || differing {
			s.doubt, s.keeps = "relation "+name+": function "+f, true
			return
		}
	}
}

// calls tells whether the identifier at i is the name of a function that is called,
// as far as that can be told from the text: when in doubt it is.
func calls(st statement, i int) bool {
	t, prev := st[i], st.at(i-1)
	if !st.at(i+1).self('(') || t.label {
		return false
	}
	if prev.self('.') {
		return true
	}
	if t.kind == kindWord {
		if notFunction[t.text] {
			return false
		}
		if after, ok := notFunctionAfter[t.text]; ok && (after == "" || prev.text == after) {
			return false
		}
		if (t.text == "cube" || t.text == "rollup") && (prev.is("by") || prev.is("distinct") || prev.self(',')) {
			return false
		}
	}
	switch {
	case prev.is("as"), prev.is("tablesample"): // t AS a (x), TABLESAMPLE method (1)
		return false
	case prev.is("ordinality"): // f() WITH ORDINALITY t (a, b)
		return !st.at(i - 2).is("with")
	case prev.self(':') && st.at(i-2).self(':'): // x::type (2)
		return false
	case prev.self(')') && prev.match >= 0: // (SELECT 1) t (a), f(1) t (a)
		j := prev.match
		first := st.at(j + 1)
		if first.is("select") || first.is("values") || first.is("with") || first.is("table") {
			return false
		}
		return j == 0 || !st[j-1].ident() || !calls(st, j-1)
	}
	return true
}

// label marks the names of common table expressions, which their columns may follow,
// and the target of INSERT.
func label(st statement) {
	for i, t := range st {
		switch {
		case t.is("with"):
			labelWith(st, i+1)
		case t.is("into") && st.at(i+1).ident():
			j := i + 1
			for st.at(j+1).self('.') && st.at(j+2).ident() {
				j += 2
			}
			st[j].label = true
		}
	}
}

// labelWith marks the names of the list behind WITH. Where the text is not such a
// list it stops: what is not marked is taken for a call.
func labelWith(st statement, i int) {
	if st.at(i).is("recursive") && st.at(i+1).ident() && !st.at(i+1).is("as") {
		i++
	}
	for st.at(i).ident() {
		name := i
		i++
		if st.at(i).self('(') {
			if st[i].match < 0 {
				return
			}
			i = st[i].match + 1
		}
		if !st.at(i).is("as") {
			return
		}
		i++
		if st.at(i).is("not") {
			i++
		}
		if st.at(i).is("materialized") {
			i++
		}
		if !st.at(i).self('(') || st[i].match < 0 {
			return
		}
		st[name].label = true
		i = st[i].match + 1
		if !st.at(i).self(',') {
			return
		}
		i++
	}
}
