package lb

// call judges CALL by the name of the procedure.
func (p *judgement) call(st statement) {
	p.effects |= EffectCall
	p.evaluates = true
	i := 1
	for st.at(i+1).self('.') && st.at(i+2).ident() {
		i += 2
	}
	name := st.at(i).text
	switch {
	case p.c.vouchedFor(name):
	case p.cat == nil, !p.cat.procedures[name], len(name) > maxName, !ascii(name):
		p.effects |= changes
		p.unknown = true
	default:
		p.effects |= p.cat.does(routine{KindProcedure, name}, p.c.vouchedFor)
	}
	if i+1 < len(st) {
		p.scan(st.part(i+1, len(st)), true)
	}
}

// do judges DO by its source, which the shape keeps.
func (p *judgement) do(st statement) {
	p.effects |= EffectCall
	p.evaluates = true
	var source *token
	language, plain := "plpgsql", true
	for i := 1; i < len(st); i++ {
		switch {
		case st[i].kind == kindText && source == nil:
			source = &st[i]
		case st[i].is("language") && st.at(i+1).ident():
			i++
			language = st[i].text
		case st[i].is("language") && st.at(i+1).kind == kindText:
			i++
			language = st[i].value
		default: // an escape string, or a syntax error
			plain = false
		}
	}
	switch {
	case !plain || source == nil || language != "plpgsql":
		p.effects |= changes | EffectDDL
		return
	case p.cat == nil:
		p.effects |= changes | EffectDDL
		p.unknown = true
		return
	}
	p.effects |= p.cat.anonymous(source.value, p.c.vouchedFor)
	if defines(source.value) {
		p.effects |= EffectDDL
	}
}

// defines tells whether a source has a word that creates or changes an object, or that
// runs something of which nothing is known.
func defines(source string) bool {
	shape := appendShape(nil, LexSettings{StandardConformingStrings: true, SafeEncoding: true}, []byte(source))
	for _, t := range tokens(string(shape[:len(shape)-1])) {
		switch t.text {
		case "create", "alter", "drop", "import", "execute":
			return true
		}
	}
	return false
}
