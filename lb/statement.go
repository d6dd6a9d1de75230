package lb

import "strings"

// statement judges one statement by its first word.
func (p *judgement) statement(st statement) {
	if !st.balanced() {
		p.no("unbalanced parentheses")
		p.scan(st, true)
		return
	}
	first := 0
	for st.at(first).self('(') {
		first++
	}
	if first > 0 {
		switch st.at(first).text {
		case "select", "values", "table", "with":
			if st[first].kind == kindWord {
				p.query(st)
				return
			}
		}
		p.no("not a query")
		p.scan(st, true)
		return
	}
	if st[0].kind != kindWord {
		p.no("not a query")
		p.scan(st, true)
		return
	}
	p.no(strings.ToUpper(st[0].text))
	switch st[0].text {
	case "select", "values", "table", "with":
		p.query(st)
	case "insert", "update", "delete", "merge":
		p.scan(st, true)
	case "copy":
		p.copy(st)
	case "begin", "start":
		p.effects |= EffectBegin | transactionModes(st, 1)
	case "commit", "end", "rollback", "abort":
		p.end(st)
	case "prepare":
		p.prepare(st)
	case "savepoint", "release":
		p.savepoints(st)
	case "set":
		p.set(st)
	case "reset":
		p.reset(st)
	case "discard":
		p.discard(st)
	case "show":
		p.quiet = true
		if len(st) == 2 && st[1].kind == kindWord && shows[st[1].text] {
			p.show = st[1].text
		}
	case "execute":
		p.execute(st)
	case "deallocate":
		p.deallocate(st)
	case "declare":
		p.declare(st)
	case "explain":
		p.explain(st)
	case "listen":
		p.effects |= EffectListen
	case "unlisten", "close":
		p.effects |= EffectUnpin
	case "load":
		p.effects |= EffectMayChangeState | EffectLeftover
	case "do":
		p.do(st)
	case "call":
		p.call(st)
	case "create":
		if st.at(1).is("database") {
			p.effects |= EffectDatabase
		}
		p.create(st)
	case "alter", "drop", "import":
		p.effects |= EffectDDL
		if st[0].is("drop") {
			p.effects |= EffectUnpin
		}
		p.attached(st)
		if st.at(1).is("database") {
			p.effects |= EffectDatabase
		}
		p.scan(st, false)
	default:
		p.scan(st, false)
	}
}

// copy judges COPY: only COPY TO STDOUT, of a query or a table, is a read.
func (p *judgement) copy(st statement) {
	to := 1
	if st.at(to).is("binary") { // the syntax of PostgreSQL before 7.3
		to++
	}
	source := to
	query := st.at(source).self('(')
	for to < len(st) && !st[to].is("to") && !st[to].is("from") {
		if st[to].self('(') {
			to = st[to].match
		}
		to++
	}
	target := st.at(to + 1)
	// The grammar takes either word for either direction.
	client := target.is("stdin") || target.is("stdout")
	switch {
	case st.at(to).is("from") && client:
		p.effects |= EffectCopyIn
		p.scan(st, false)
	case st.at(to).is("from"):
		p.scan(st, false)
	case st.at(to).is("to") && client && query:
		inner := st.part(source+1, to-1)
		if !isQuery(inner) {
			p.scan(inner, true)
			return
		}
		p.query(inner)
	case st.at(to).is("to") && client:
		p.table(st.part(source, to))
	default:
		p.no("COPY to a file or program")
		p.scan(st.part(source, min(to, len(st))), query)
	}
}

// table judges reading a table that is named without a query around it.
func (p *judgement) table(st statement) {
	for i := range st {
		st[i].label = true // t (a, b) are columns
	}
	p.query(st)
}

// isQuery tells whether a statement starts like one that can be a read.
func isQuery(st statement) bool {
	i := 0
	for st.at(i).self('(') {
		i++
	}
	return st.at(i).is("select") || st.at(i).is("values") || st.at(i).is("table") || st.at(i).is("with")
}

// prepare judges PREPARE and PREPARE TRANSACTION. What the statement inside does to
// the session counts from here on: EXECUTE shows only its name.
func (p *judgement) prepare(st statement) {
	if st.at(1).is("transaction") && st.at(2).literal() {
		p.effects |= EffectEnd | EffectUnpin
		return
	}
	i := 2
	if st.at(i).self('(') {
		i = st[i].match + 1
	}
	p.effects |= EffectPrepare
	p.name = st.at(1).name()
	if !st.at(i).is("as") || i+1 >= len(st) {
		return
	}
	inner := judgement{c: p.c, cat: p.cat, vouched: p.vouched}
	inner.statement(st.part(i+1, len(st)))
	p.inner, p.unknown, p.evaluates = inner.read, inner.unknown, inner.evaluates
	p.effects |= inner.effects & carried
	p.custom = inner.custom
}

// execute judges EXECUTE name (arguments).
func (p *judgement) execute(st statement) {
	p.effects |= EffectExecute
	p.name = st.at(1).name()
	if len(st) <= 2 {
		p.inner = len(st) == 2
		return
	}
	inner := judgement{c: p.c, cat: p.cat, vouched: p.vouched}
	inner.query(st.part(2, len(st)))
	p.inner, p.unknown, p.evaluates = inner.read, inner.unknown, inner.evaluates
	p.effects |= inner.effects
}

func (p *judgement) deallocate(st statement) {
	p.effects |= EffectDeallocate
	i := 1
	if st.at(i).is("prepare") && len(st) > 2 {
		i++
	}
	if !st.at(i).is("all") {
		p.name = st.at(i).name()
	}
}

func (p *judgement) declare(st statement) {
	for i, t := range st {
		if t.is("for") {
			break
		}
		if st.words(i, "with", "hold") {
			p.effects |= EffectWithHold
		}
	}
	p.scan(st, true)
}

// carried are the effects of a statement inside another that runs it.
const carried = EffectTemp | EffectDDL | EffectMayChangeState | EffectLeftover | EffectSessionLock |
	EffectCustom | EffectCall | EffectLastValue | EffectUnpin

// explain takes the effects of a statement that EXPLAIN ANALYZE would run.
func (p *judgement) explain(st statement) {
	i := 1
	if st.at(i).self('(') && !isQuery(st[i:]) {
		i = st[i].match + 1
	}
	for st.at(i).is("analyze") || st.at(i).is("analyse") || st.at(i).is("verbose") {
		i++
	}
	if i >= len(st) {
		return
	}
	inner := judgement{c: p.c, cat: p.cat, vouched: p.vouched}
	inner.statement(st.part(i, len(st)))
	p.unknown, p.evaluates = inner.unknown, inner.evaluates
	p.effects |= inner.effects & (carried | EffectExecute)
	p.custom = inner.custom
}

// unrelated are the objects whose creation changes nothing that the catalog queries
// look at.
var unrelated = set(`index unique role user group database tablespace publication subscription statistics`)

// create judges CREATE.
func (p *judgement) create(st statement) {
	i := 1
	if st.words(i, "or", "replace") {
		i += 2
	}
	if st.at(i).is("local") || st.at(i).is("global") {
		i++
	}
	temporary := st.at(i).is("temp") || st.at(i).is("temporary")
	for _, t := range st {
		if t.ident() && strings.HasPrefix(t.text, "pg_temp") {
			temporary = true
		}
	}
	p.attached(st)
	if st.has("execute") { // CREATE TABLE ... AS EXECUTE
		p.effects |= EffectExecute
	}
	switch {
	case temporary:
		p.effects |= EffectTemp
		if st.has("drop") { // ON COMMIT DROP, outside of a transaction block
			p.effects |= EffectUnpin
		}
	case !unrelated[st.at(i).text] || st.words(i, "user", "mapping"):
		p.effects |= EffectDDL
	}
	// CREATE TABLE AS and CREATE MATERIALIZED VIEW run their query.
	for j, t := range st {
		if t.is("as") && isQuery(st[j+1:]) && (st.has("table") || st.has("materialized")) {
			p.scan(st.part(j+1, len(st)), true)
			return
		}
		if t.is("as") && st.at(j+1).is("execute") {
			p.scan(st.part(j+2, len(st)), true)
			return
		}
	}
	p.scan(st, false)
}
