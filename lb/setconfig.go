package lb

import "strings"

// ConfigChange is what one call of set_config does.
type ConfigChange struct {
	Name  string // of the setting, folded
	Local bool   // until the end of the transaction; a custom setting stays defined
}

// SetConfig tells what the calls of set_config in a statement set, in their order. ok
// is false where that cannot be told: then the statement may change anything. It can
// be told when the text is one SELECT of nothing but calls of set_config whose first
// argument is a plain string and whose third is true or false. It must be asked for
// each text whose verdict has EffectSetConfig, since texts that share a verdict set
// different things.
func SetConfig(sql []byte, settings LexSettings) (changes []ConfigChange, ok bool) {
	if !settings.SafeEncoding {
		return nil, false
	}
	l := lexer{s: sql, scs: settings.StandardConformingStrings, keep: true, keepAll: true}
	l.run()
	if l.flags&unsure != 0 {
		return nil, false
	}
	statements := split(tokens(string(l.out)))
	if len(statements) != 1 {
		return nil, false
	}
	return statements[0].setConfig(true)
}

// unsure are the flags of a text whose tokens may not be what they seem.
const unsure = flagBroken | flagDoubtful | flagEncoding | flagUnsafe | flagNames

// setConfig takes a statement that is SELECT and a list of calls of set_config apart.
// valued: the tokens have the values of strings. Without them it tells which shapes
// can be taken apart at all.
func (s statement) setConfig(valued bool) (changes []ConfigChange, ok bool) {
	if !s.at(0).is("select") {
		return nil, false
	}
	for i := 1; ; i++ {
		if s.at(i).ident() && s[i].text == "pg_catalog" && s.at(i+1).self('.') {
			i += 2
		}
		if !s.at(i).ident() || s[i].text != "set_config" || !s.at(i+1).self('(') || s[i+1].match < 0 {
			return nil, false
		}
		end := s[i+1].match
		change, ok := configChange(s.part(i+2, end), valued)
		if !ok {
			return nil, false
		}
		changes = append(changes, change)
		i, _ = s.cast(end + 1)
		if s.at(i).is("as") {
			i++
		}
		if s.at(i).ident() {
			i++
		}
		switch {
		case i == len(s):
			return changes, true
		case !s[i].self(','):
			return nil, false
		}
	}
}

// configChange reads the arguments of set_config.
func configChange(args statement, valued bool) (ConfigChange, bool) {
	var values []token
	var types []string
	for i := 0; i < len(args); i++ {
		t := args[i]
		if !t.literal() && !(valued && (t.is("true") || t.is("false") || t.is("null"))) {
			return ConfigChange{}, false
		}
		next, typ := args.cast(i + 1)
		values, types = append(values, t), append(types, typ)
		if i = next; i < len(args) && (!args[i].self(',') || i+1 == len(args)) {
			return ConfigChange{}, false
		}
	}
	if !valued {
		return ConfigChange{}, len(values) > 0
	}
	if len(values) != 3 || types[0] != "" && types[0] != "text" || types[2] != "" && types[2] != "bool" && types[2] != "boolean" {
		return ConfigChange{}, false
	}
	name, local := foldSetting(values[0].value), values[2]
	if values[0].kind != kindText || !plainSetting(name) || !local.is("true") && !local.is("false") {
		return ConfigChange{}, false
	}
	return ConfigChange{Name: name, Local: local.is("true")}, true
}

// cast skips casts and returns the last one's type, "?" for one with more than a name.
func (s statement) cast(i int) (next int, typ string) {
	for s.at(i).self(':') && s.at(i+1).self(':') && s.at(i+2).ident() {
		typ = s[i+2].text
		for i += 3; s.at(i).self('.') && s.at(i+1).ident(); i += 2 {
			typ = "?"
		}
		if s.at(i).self('(') && s[i].match > i {
			typ = "?"
			i = s[i].match + 1
		}
	}
	return i, typ
}

// plainSetting tells whether a name is that of a setting that keeps what it is given,
// for the session or the transaction.
func plainSetting(name string) bool {
	switch name {
	case "", "seed", "transaction_isolation", "transaction_read_only", "transaction_deferrable":
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return r >= 0x80 || class[r]&(classIdentStart|classDigit) == 0 && r != '.' && r != '$'
	}) < 0
}
