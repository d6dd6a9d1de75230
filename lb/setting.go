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
		p.effects |= EffectDiscardAll
	case st.at(1).is("temp"), st.at(1).is("temporary"):
		p.effects |= EffectMayChangeState
	}
}

// change notes that the session's value of one setting changes.
func (p *judgement) change(name string) {
	p.effects |= EffectSet
	p.setting = name
	switch name {
	case "transaction_isolation", "transaction_read_only", "transaction_deferrable":
		p.effects |= EffectIsolation
		p.local()
	case "seed": // setseed under another name: nothing takes it back
		p.effects |= EffectMayChangeState | EffectLeftover
	}
	if strings.Contains(name, ".") {
		p.effects |= EffectLeftover
	}
}

// local turns a change into one that ends with the transaction. A custom setting
// leaves its name behind all the same.
func (p *judgement) local() {
	p.effects = p.effects&^EffectSet | EffectSetLocal
	p.setting = ""
}

// characteristics judges the modes of SET SESSION CHARACTERISTICS AS TRANSACTION:
// a single mode is a change of a single setting.
func (p *judgement) characteristics(modes statement) {
	switch {
	case len(modes) == 2 && modes.at(0).is("read"):
		p.change("default_transaction_read_only")
	case modes.words(0, "isolation", "level") && (len(modes) == 3 || len(modes) == 4):
		p.change("default_transaction_isolation")
	case len(modes) == 1 && modes.at(0).is("deferrable"), len(modes) == 2 && modes.words(0, "not", "deferrable"):
		p.change("default_transaction_deferrable")
	default:
		p.effects |= EffectMayChangeState
	}
}

// settingName reads the name of a setting, with its class, and returns the index
// behind it. Names of settings are folded even when quoted (guc_name_compare).
func settingName(st statement, i int) (string, int) {
	if !st.at(i).ident() {
		return "", i
	}
	name := strings.ToLower(st[i].text)
	for i++; st.at(i).self('.') && st.at(i+1).ident(); i += 2 {
		name += "." + strings.ToLower(st[i+1].text)
	}
	return name, i
}
