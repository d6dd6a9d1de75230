package session

import (
	"bytes"
	"slices"
	"strings"

	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// settings are what the client has set in its session, as the statements that bring
// a server there from the values that its login gave.
type settings struct {
	entries []setting
	key     string // their texts: servers with the same key have the same settings
	name    string // the text that sets the client's application_name; "": connections have it
	// unsettled are those of the open transaction; they count when it commits.
	unsettled []setting
	size      int    // bytes of what the open transaction has set
	marks     []mark // savepoints of the open transaction, oldest first
	blind     bool   // it has others, of which the text does not tell
	renew     bool   // it has reset application_name
	failed    bool   // an error has come since the batch began
	// custom are the custom settings ("a.b") that the session has named. A server on
	// which one was set once knows it for ever.
	custom []string
}

// setting is one statement.
type setting struct {
	kind  lb.Effect // EffectSet, EffectResetAll or EffectDiscardAll
	names []string  // folded, of EffectSet
	sql   string
}

// mark is a savepoint.
type mark struct {
	name string
	at   int // unsettled[:at] are older
}

// hides reports that an earlier entry has no effect any more.
func (e *setting) hides(earlier *setting) bool {
	switch e.kind {
	case lb.EffectDiscardAll:
		return true
	case lb.EffectResetAll: // leaves the role
		return !earlier.about("role") && !earlier.about("session_authorization")
	}
	return !slices.ContainsFunc(earlier.names, func(name string) bool { return !e.about(name) })
}

func (e *setting) about(name string) bool { return slices.Contains(e.names, name) }

// maxSettings bounds the bytes of the statements; a session with more is pinned.
const maxSettings = 64 << 10

// unknownSettings is the key of a server with other settings than any text would make.
const unknownSettings = "\x01"

// keySeparator stands between the texts in a key; no text has it.
const keySeparator = "\x00"

// add puts an entry behind those there are; the earlier ones that it hides go.
func (j *settings) add(e setting) {
	j.entries = slices.DeleteFunc(j.entries, func(earlier setting) bool { return e.hides(&earlier) })
	if e.kind == lb.EffectSet {
		j.entries = append(j.entries, e)
	}
	if j.name != "" && !slices.ContainsFunc(j.entries, func(e setting) bool { return e.about(applicationName) }) {
		j.entries = slices.Insert(j.entries, 0, j.nameEntry())
	}
}

const applicationName = "application_name"

var nameOnly = []string{applicationName}

func (j *settings) nameEntry() setting {
	return setting{kind: lb.EffectSet, names: nameOnly, sql: j.name}
}

// setName returns the text that sets application_name.
func setName(name string) string {
	return "SET application_name = '" + strings.ReplaceAll(name, "'", "''") + "'"
}

// rekey is called after add.
func (j *settings) rekey() {
	if len(j.entries) == 1 {
		j.key = j.entries[0].sql
		return
	}
	var b strings.Builder
	for i := range j.entries {
		if i > 0 {
			b.WriteString(keySeparator)
		}
		b.WriteString(j.entries[i].sql)
	}
	j.key = b.String()
}

// withoutName is the key without the client's own application_name, which means nothing
// to a statement.
func (j *settings) withoutName() string {
	if rest, ok := strings.CutPrefix(j.key, j.name); ok && j.name != "" {
		return strings.TrimPrefix(rest, keySeparator)
	}
	return j.key
}

// beyond returns the entries that a server lacks which has those of key; false: it
// has others.
func (j *settings) beyond(key string) ([]setting, bool) {
	switch {
	case key == "":
		return j.entries, true
	case key == j.key:
		return nil, true
	case strings.HasPrefix(j.key, key+keySeparator):
		return j.entries[strings.Count(key, keySeparator)+1:], true
	}
	return nil, false
}

// transactionEnded takes the end of a transaction, and what becomes of its savepoints,
// from a command tag. A batch may hold several, and with AND CHAIN no ReadyForQuery
// tells of it.
func (c *Core) transactionEnded(slot Slot, v *lb.Verdict, tag []byte) {
	j := &c.settings
	savepoint := lb.NoSavepoint
	if v != nil {
		savepoint = v.Savepoint
	}
	switch string(tag) {
	case "SAVEPOINT":
		if savepoint == lb.SavepointSet {
			j.marks = append(j.marks, mark{name: v.Name, at: len(j.unsettled)})
		} else {
			j.blind = true
		}
	case "RELEASE":
		if i := j.marked(v, lb.SavepointRelease); i >= 0 {
			j.marks = j.marks[:i]
		}
	case "COMMIT":
		c.settle(slot)
	case "ROLLBACK": // or ROLLBACK TO, which has the same tag
		switch {
		case v != nil && v.Effects&(lb.EffectEnd|lb.EffectSavepoint) == lb.EffectEnd:
			j.forget()
		case v != nil && v.Effects&lb.EffectEnd == 0 && v.Effects&lb.EffectSavepoint == 0:
		default:
			if i := j.marked(v, lb.SavepointRollback); i >= 0 {
				j.unsettled = j.unsettled[:j.marks[i].at]
				j.marks = j.marks[:i+1]
			} else if len(j.unsettled) > 0 {
				c.pins |= pinUnknown
			}
		}
	}
}

// marked returns the place of the savepoint that a statement names, -1 when it cannot
// be told.
func (j *settings) marked(v *lb.Verdict, what lb.Savepoint) int {
	if v == nil || v.Savepoint != what || j.blind {
		return -1
	}
	for i := len(j.marks) - 1; i >= 0; i-- {
		if j.marks[i].name == v.Name {
			return i
		}
	}
	return -1
}

// forget drops what an open transaction has set.
func (j *settings) forget() {
	clear(j.unsettled)
	j.unsettled, j.size, j.marks, j.blind, j.renew = j.unsettled[:0], 0, j.marks[:0], false, false
}

// settle takes the settings of a transaction or batch that is over, and was not
// rolled back, over into the session; those of one that failed go.
func (c *Core) settle(slot Slot) {
	j := &c.settings
	if len(j.unsettled) > 0 && !j.failed {
		if j.blind {
			c.pins |= pinUnknown
		}
		s := c.server[slot]
		same := s.settings == j.key
		for _, e := range j.unsettled {
			j.add(e)
		}
		j.rekey()
		switch {
		case j.renew: // it has the name with which it was opened
			s.settings = unknownSettings
			c.reportOwnName(slot)
		case same:
			s.settings = j.key
		}
		j.renew = false
	}
	j.forget()
}

// resetSettings undoes what was set, as DISCARD ALL does, and leaves the rest.
const resetSettings = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"

// applySettings brings a server to the session's settings, before a batch.
func (c *Core) applySettings(slot Slot) {
	s := c.server[slot]
	if s.settings == c.settings.key && len(s.custom) == len(c.settings.custom) {
		return // with the same custom ones, see Suits
	}
	more, ok := c.settings.beyond(s.settings)
	if !ok {
		c.applySetting(slot, resetSettings)
		more = c.settings.entries
	}
	for _, name := range c.settings.custom {
		if slices.Contains(s.custom, name) {
			continue
		}
		s.custom = append(s.custom, name)
		if !slices.ContainsFunc(more, func(e setting) bool { return e.about(name) }) {
			c.applySetting(slot, "SET "+quoteSetting(name)+" TO ''") // as it was left
		}
	}
	for i := range more {
		c.applySetting(slot, more[i].sql)
	}
	s.settings = c.settings.key
	s.dirty = true
}

func (c *Core) applySetting(slot Slot, sql string) {
	s := c.server[slot]
	c.inject(slot, pgwire.AppendQuery(nil, sql), expect{kind: pgwire.Query, journal: true, restore: slot == Primary})
	if slot == Primary {
		s.restoring++
	}
	s.unnamed = 0
}

// quoteSetting makes identifiers of the parts of a custom setting's name.
func quoteSetting(name string) string {
	parts := strings.Split(name, ".")
	for i, part := range parts {
		parts[i] = `"` + strings.ReplaceAll(part, `"`, `""`) + `"`
	}
	return strings.Join(parts, ".")
}

// noteCustom notes custom settings that a statement names, when it is sent.
func (c *Core) noteCustom(s *server, names []string) {
	for _, name := range names {
		if !slices.Contains(c.settings.custom, name) {
			c.settings.custom = append(c.settings.custom, name)
		}
		if !slices.Contains(s.custom, name) {
			s.custom = append(s.custom, name)
		}
	}
}

// applyEffects takes the effects of a statement that was successful.
func (c *Core) applyEffects(slot Slot, v *lb.Verdict, sql []byte) {
	if v.Effects == 0 {
		return
	}
	s := c.server[slot]
	switch {
	case v.Effects&lb.EffectUnknownInSession != 0:
	case v.Effects&lb.EffectDiscardAll != 0:
		if c.pins = 0; len(c.rare.doubts) > 0 {
			c.rare.doubts = nil
		}
		c.foreseeBehind(slot)
		c.names.clear()
		s.deallocated("")
		s.foreign = false
		c.settings.renew = c.settings.name != ""
		c.setLater(setting{kind: lb.EffectDiscardAll})
	case v.Effects&lb.EffectResetAll != 0:
		c.settings.renew = c.settings.name != ""
		c.pins &^= pinIsolation
		c.setLater(setting{kind: lb.EffectResetAll})
	case v.Effects&lb.EffectSetConfig != 0:
		c.setByConfig(sql)
	case v.Effects&lb.EffectSet != 0 && v.Setting != "":
		c.set([]string{v.Setting}, sql)
	case v.Effects&lb.EffectSet != 0:
		c.set(v.Settings, sql)
	case v.Effects&lb.EffectPrepare != 0:
		st := &statement{name: v.Name, version: c.names.nextVersion(), verdict: v}
		if c.names.room(len(sql)) {
			st.sql = bytes.Clone(sql)
		}
		c.names.bySQL(v.Name, st)
		s.undo()
		s.setVersion(v.Name, st.version)
		s.redo()
	case v.Effects&lb.EffectDeallocate != 0 && v.Name != "":
		c.names.bySQL(v.Name, nil)
		s.deallocated(v.Name)
	case v.Effects&lb.EffectDeallocate != 0:
		c.names.clear()
		s.deallocated("")
	}
	if v.Effects&lb.EffectDDL != 0 {
		c.env.CatalogChanged()
	}
}

// setByConfig notes what a SELECT of set_config has set beyond its transaction.
func (c *Core) setByConfig(sql []byte) {
	changes, ok := c.setConfig(sql)
	var names []string
	for _, change := range changes {
		if !change.Local {
			names = append(names, change.Name)
		}
	}
	if ok && len(names) > 0 {
		c.set(names, sql)
	}
}

// resetsName reports that a text gives application_name the value of the login, which on
// a connection that was opened by another client is not the session's.
func resetsName(sql []byte) bool {
	text := bytes.ToLower(bytes.TrimRight(sql, " \t\r\n;"))
	return !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("set")) || bytes.HasSuffix(text, []byte("default"))
}

// set notes a SET or RESET.
func (c *Core) set(names []string, sql []byte) {
	for _, name := range names {
		switch name {
		case "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable",
			"transaction_isolation", "transaction_read_only", "transaction_deferrable":
			c.pins |= pinIsolation
		case "search_path":
			if mayNameTemp(sql) {
				c.pins |= pinUnknown
			}
		case "idle_session_timeout": // a server that waits in a pool would end
			c.pins |= pinUnknown
		}
	}
	if j := &c.settings; j.name != "" && slices.Contains(names, applicationName) && resetsName(sql) {
		j.renew = true
		if len(names) > 1 {
			c.pins |= pinUnknown
			return
		}
		sql = []byte(j.name)
	}
	c.setLater(setting{kind: lb.EffectSet, names: names, sql: string(sql)})
}

// setLater takes a setting over when its transaction is over.
func (c *Core) setLater(e setting) {
	j := &c.settings
	if j.size += len(e.sql); len(j.key)+j.size > maxSettings {
		c.pins |= pinUnknown
		for _, s := range c.server {
			if s.ready {
				s.leftover = true // its key does not tell of it
			}
		}
		return
	}
	j.unsettled = append(j.unsettled, e)
}
