package lb

import "strings"

// set judges SET in all its forms.
func (p *judgement) set(st statement) {
	i, local := 1, false
	switch {
	case st.at(i).is("local"):
		local = true
		i++
	case st.at(i).is("session") && !st.at(i+1).is("authorization") && !st.at(i+1).is("characteristics"):
		i++
	}
	switch {
	case st.at(i).is("constraints"):
		p.effects |= EffectSetLocal
		return
	case st.at(i).is("transaction"):
		p.effects |= EffectSetLocal | transactionModes(st, i+1)&EffectIsolation
		return
	case st.words(i, "session", "characteristics", "as", "transaction"):
		p.characteristics(st[i+4:])
	case st.words(i, "session", "authorization"):
		p.change("session_authorization")
	case st.words(i, "time", "zone"):
		p.change("timezone")
	case st.words(i, "xml", "option"):
		p.change("xmloption")
	case st.at(i).is("names"):
		p.change("client_encoding")
	case st.at(i).is("schema"):
		p.change("search_path")
	default:
		name, next := settingName(st, i)
		for _, t := range st[min(next, len(st)):] {
			if name == "search_path" && t.ident() && strings.HasPrefix(t.text, "pg_temp") {
				p.effects |= EffectTemp // what is created from now on is temporary
			}
		}
		if name == "" || !(st.at(next).is("to") || st.at(next).self('=') || name == "role") {
			return // a syntax error
		}
		p.change(name)
	}
	if local {
		p.local()
	}
}

// reset judges RESET.
func (p *judgement) reset(st statement) {
	switch {
	case st.at(1).is("all"):
		// Custom settings get the value they had before, never their absence.
		p.effects |= EffectResetAll
	case st.words(1, "time", "zone"):
		p.change("timezone")
	case st.words(1, "session", "authorization"):
		p.change("session_authorization")
	case st.words(1, "transaction", "isolation", "level"):
		p.change("transaction_isolation")
	default:
		if name, _ := settingName(st, 1); name != "" {
			p.change(name)
		}
	}
}

// discard judges DISCARD. What SEQUENCES and PLANS drop exists only on the primary
// or has no meaning for answers.
func (p *judgement) discard(st statement) {
	switch {
	case st.at(1).is("all"):
		p.effects |= EffectDiscardAll | EffectUnpin
	case st.at(1).is("temp"), st.at(1).is("temporary"):
		p.effects |= EffectMayChangeState | EffectUnpin
	}
}

// meaningless are settings, of those that are often changed for one transaction, on
// which nothing depends that the server settles when it parses a statement.
var meaningless = set(`role session_authorization application_name statement_timeout lock_timeout
	idle_in_transaction_session_timeout idle_session_timeout synchronous_commit work_mem maintenance_work_mem jit
	default_transaction_isolation default_transaction_read_only default_transaction_deferrable
	transaction_isolation transaction_read_only transaction_deferrable`)

// change notes that the session's value of one setting changes.
func (p *judgement) change(name string) {
	p.effects |= EffectSet
	if !strings.Contains(name, ".") && !meaningless[name] {
		p.effects |= EffectMeaning
	}
	p.settings = append(p.settings, name)
	switch name {
	case "transaction_isolation", "transaction_read_only", "transaction_deferrable":
		p.effects |= EffectIsolation
		p.local()
	case "seed": // setseed under another name: nothing takes it back
		p.effects |= EffectMayChangeState | EffectLeftover
	}
	p.defines(name)
}

// defines notes a custom setting, which the server keeps under that name once it was
// named, also where nothing was changed.
func (p *judgement) defines(name string) {
	if !strings.Contains(name, ".") {
		return
	}
	p.effects |= EffectCustom
	if !ascii(name) { // folded or cut by the server in a way that depends on its encoding
		p.effects |= EffectMayChangeState | EffectLeftover
	}
	p.custom = append(p.custom, name)
}

// attached notes the custom settings of ALTER ROLE ... SET and CREATE FUNCTION ... SET:
// the server checks their values and so defines them.
func (p *judgement) attached(st statement) {
	for i, t := range st {
		if t.is("set") {
			name, _ := settingName(st, i+1)
			p.defines(name)
		}
	}
}

// local turns a change into one that ends with the transaction. A custom setting
// leaves its name behind all the same.
func (p *judgement) local() {
	p.effects = p.effects&^EffectSet | EffectSetLocal
	p.settings = nil
}

// characteristics judges the modes of SET SESSION CHARACTERISTICS AS TRANSACTION.
func (p *judgement) characteristics(modes statement) {
	for i := 0; i < len(modes); {
		switch {
		case modes.words(i, "read", "only"), modes.words(i, "read", "write"):
			p.change("default_transaction_read_only")
			i += 2
		case modes.words(i, "isolation", "level", "serializable"):
			p.change("default_transaction_isolation")
			i += 3
		case modes.words(i, "isolation", "level"):
			p.change("default_transaction_isolation")
			i += 4
		case modes.at(i).is("deferrable"):
			p.change("default_transaction_deferrable")
			i++
		case modes.words(i, "not", "deferrable"):
			p.change("default_transaction_deferrable")
			i += 2
		case modes[i].self(','):
			i++
		default: // a mode of a later version
			p.effects |= EffectMayChangeState
			return
		}
	}
}

// settingName reads the name of a setting, with its class, and returns the index
// behind it. Each part is cut to 63 bytes, and names of settings are folded even when
// quoted, in ASCII only (guc_name_compare).
func settingName(st statement, i int) (string, int) {
	if !st.at(i).ident() {
		return "", i
	}
	name := st[i].name()
	for i++; st.at(i).self('.') && st.at(i+1).ident(); i += 2 {
		name += "." + st[i+1].name()
	}
	return foldSetting(name), i
}

func foldSetting(name string) string {
	b := []byte(name)
	for i, c := range b {
		b[i] = fold[c]
	}
	return string(b)
}
