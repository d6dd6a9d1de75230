package pgquerytest

import (
	"reflect"
	"strings"
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v6"

	"github.com/pgproxy/pgproxy/lb"
)

// state is what the parser says that a text does to its session.
type state struct {
	// must are effects that the verdict has to have, exact the others of which it must
	// have no more than these.
	must, exact lb.Effect
	settings    []string // of plain SET and RESET; nil when there is anything else
	other       bool     // there is something beside plain SET and RESET
	custom      []string
	savepoint   lb.Savepoint // of a single statement, with its name
	name        string
	rollback    bool // a single statement undoes the transaction
	configs     bool // nothing but one SELECT of plain calls of set_config
	changes     []lb.ConfigChange
}

// exactly are the effects that follow from the kind of the statements.
const exactly = lb.EffectBegin | lb.EffectEnd | lb.EffectChain | lb.EffectSavepoint | lb.EffectCall | lb.EffectListen |
	lb.EffectDiscardAll | lb.EffectResetAll

func stateOf(tree *pg_query.ParseResult) state {
	var s state
	for _, raw := range tree.Stmts {
		settings, name := len(s.settings), raw.Stmt
		s.statement(name)
		s.other = s.other || len(s.settings) == settings
	}
	if len(tree.Stmts) != 1 {
		s.savepoint, s.name, s.rollback = lb.NoSavepoint, "", false
	} else {
		s.changes, s.configs = configChanges(tree.Stmts[0].Stmt.GetSelectStmt())
	}
	if s.other {
		s.settings = nil
	}
	return s
}

func (s *state) statement(n *pg_query.Node) {
	switch {
	case n.GetTransactionStmt() != nil:
		s.transaction(n.GetTransactionStmt())
	case n.GetVariableSetStmt() != nil:
		s.set(n.GetVariableSetStmt())
	case n.GetCallStmt() != nil, n.GetDoStmt() != nil:
		s.exact |= lb.EffectCall
	case n.GetListenStmt() != nil:
		s.exact |= lb.EffectListen
	case n.GetUnlistenStmt() != nil, n.GetClosePortalStmt() != nil, n.GetDropStmt() != nil:
		s.must |= lb.EffectUnpin
	case n.GetDiscardStmt().GetTarget() == pg_query.DiscardMode_DISCARD_ALL:
		s.exact |= lb.EffectDiscardAll
		s.must |= lb.EffectUnpin
	case n.GetDiscardStmt().GetTarget() == pg_query.DiscardMode_DISCARD_TEMP:
		s.must |= lb.EffectUnpin
	case n.GetDeclareCursorStmt() != nil:
		const hold = 0x20 // CURSOR_OPT_HOLD
		if n.GetDeclareCursorStmt().Options&hold != 0 {
			s.must |= lb.EffectWithHold
		}
	case n.GetCreateStmt() != nil:
		s.temporary(n.GetCreateStmt().Relation)
	case n.GetViewStmt() != nil:
		s.temporary(n.GetViewStmt().View)
	case n.GetCreateSeqStmt() != nil:
		s.temporary(n.GetCreateSeqStmt().Sequence)
	case n.GetCreateTableAsStmt() != nil:
		s.temporary(n.GetCreateTableAsStmt().Into.GetRel())
	case n.GetSelectStmt() != nil:
		s.temporary(n.GetSelectStmt().IntoClause.GetRel())
	case n.GetAlterRoleSetStmt() != nil:
		s.defines(n.GetAlterRoleSetStmt().Setstmt.GetName())
	}
}

func (s *state) temporary(r *pg_query.RangeVar) {
	if r.GetRelpersistence() == "t" || r.GetSchemaname() == "pg_temp" {
		s.must |= lb.EffectTemp
	}
}

func (s *state) transaction(t *pg_query.TransactionStmt) {
	switch t.Kind {
	case pg_query.TransactionStmtKind_TRANS_STMT_BEGIN, pg_query.TransactionStmtKind_TRANS_STMT_START:
		s.exact |= lb.EffectBegin
	case pg_query.TransactionStmtKind_TRANS_STMT_COMMIT, pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK,
		pg_query.TransactionStmtKind_TRANS_STMT_PREPARE:
		s.exact |= lb.EffectEnd
		s.must |= lb.EffectUnpin
		if t.Chain {
			s.exact |= lb.EffectChain
		}
		s.rollback = t.Kind == pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK
	case pg_query.TransactionStmtKind_TRANS_STMT_SAVEPOINT:
		s.savepoint = lb.SavepointSet
	case pg_query.TransactionStmtKind_TRANS_STMT_RELEASE:
		s.savepoint = lb.SavepointRelease
	case pg_query.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
		s.savepoint = lb.SavepointRollback
		s.must |= lb.EffectUnpin
	default: // COMMIT PREPARED, ROLLBACK PREPARED
	}
	if s.savepoint != lb.NoSavepoint {
		s.exact |= lb.EffectSavepoint
		s.name = t.SavepointName
	}
}

func (s *state) set(v *pg_query.VariableSetStmt) {
	switch v.Kind {
	case pg_query.VariableSetKind_VAR_RESET_ALL:
		s.exact |= lb.EffectResetAll
	case pg_query.VariableSetKind_VAR_SET_MULTI:
		if v.Name == "SESSION CHARACTERISTICS" {
			for _, a := range v.Args {
				s.settings = append(s.settings, "default_"+a.GetDefElem().Defname)
			}
		}
	case pg_query.VariableSetKind_VAR_SET_CURRENT: // only inside CREATE FUNCTION
	default:
		name := lower(v.Name)
		s.defines(name)
		switch name {
		case "transaction_isolation", "transaction_read_only", "transaction_deferrable":
			return
		}
		if !v.IsLocal {
			s.settings = append(s.settings, name)
		}
	}
}

func (s *state) defines(name string) {
	if name = lower(name); strings.Contains(name, ".") {
		s.custom = append(s.custom, name)
	}
}

// lower folds ASCII only.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// configChanges reads a SELECT of nothing but calls of set_config with constants.
func configChanges(s *pg_query.SelectStmt) ([]lb.ConfigChange, bool) {
	var out []lb.ConfigChange
	if len(s.GetTargetList()) == 0 || len(s.DistinctClause)+len(s.FromClause)+len(s.GroupClause)+len(s.WindowClause)+len(s.SortClause) > 0 ||
		s.IntoClause != nil || s.WhereClause != nil || s.HavingClause != nil || s.LimitCount != nil || s.LimitOffset != nil ||
		len(s.LockingClause) > 0 || s.WithClause != nil || s.Op != pg_query.SetOperation_SETOP_NONE {
		return nil, false
	}
	for _, target := range s.TargetList {
		f := uncast(target.GetResTarget().Val).GetFuncCall()
		if last(f.GetFuncname()) != "set_config" || len(f.Args) != 3 || f.AggDistinct || f.FuncVariadic || f.Over != nil ||
			f.AggFilter != nil || len(f.AggOrder) > 0 {
			return nil, false
		}
		name, local := uncast(f.Args[0]).GetAConst(), uncast(f.Args[2]).GetAConst()
		value := uncast(f.Args[1])
		if name.GetSval() == nil || local == nil || value.GetAConst() == nil && value.GetParamRef() == nil {
			return nil, false
		}
		if _, ok := local.Val.(*pg_query.A_Const_Boolval); !ok {
			return nil, false
		}
		out = append(out, lb.ConfigChange{Name: lower(name.GetSval().Sval), Local: local.GetBoolval().Boolval})
	}
	return out, true
}

func uncast(n *pg_query.Node) *pg_query.Node {
	for n.GetTypeCast() != nil {
		n = n.GetTypeCast().Arg
	}
	return n
}

// checkState compares a verdict with what the parser says about the session.
func (c *checker) checkState(sql string, v *lb.Verdict, functions []string) {
	c.t.Helper()
	tree, err := pg_query.Parse(sql)
	if err != nil || v.Why == "ambiguous text" {
		return
	}
	want := stateOf(tree)
	for _, f := range functions {
		switch f {
		case "currval", "lastval":
			want.must |= lb.EffectLastValue
		case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared":
			want.must |= lb.EffectSessionLock
		case "pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all":
			want.must |= lb.EffectUnpin
		case "set_config":
			if v.Effects&(lb.EffectSetConfig|lb.EffectMayChangeState) == 0 {
				c.t.Errorf("%s\ncalls set_config, effects %s", sql, v.Effects)
			}
		}
	}
	if missing := want.must &^ v.Effects; missing != 0 {
		c.t.Errorf("%s\nlacks %s, has %s", sql, missing, v.Effects)
	}
	if got := v.Effects & exactly; got != want.exact {
		c.t.Errorf("%s\nhas %s, the parser says %s", sql, got, want.exact)
	}
	if !ascii(want.name) {
		want.savepoint, want.name = lb.NoSavepoint, ""
	}
	if v.Savepoint != want.savepoint || v.Savepoint != lb.NoSavepoint && v.Name != want.name {
		c.t.Errorf("%s\nsavepoint %s %q, the parser says %s %q", sql, v.Savepoint, v.Name, want.savepoint, want.name)
	}
	if v.Rollback != want.rollback {
		c.t.Errorf("%s\nrollback %t, the parser says %t", sql, v.Rollback, want.rollback)
	}
	c.checkSettings(sql, v, want)
}

func (c *checker) checkSettings(sql string, v *lb.Verdict, want state) {
	c.t.Helper()
	settings := v.Settings
	if v.Setting != "" {
		settings = []string{v.Setting}
	}
	if !reflect.DeepEqual(settings, want.settings) {
		c.t.Errorf("%s\nsets %q, the parser says %q", sql, settings, want.settings)
	}
	for _, name := range want.custom {
		if !contains(v.Custom, name) {
			c.t.Errorf("%s\ncustom settings %q, the parser says %q", sql, v.Custom, want.custom)
		}
	}
	changes, ok := lb.SetConfig([]byte(sql), lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true})
	if ok && (!want.configs || !reflect.DeepEqual(changes, want.changes)) {
		c.t.Errorf("%s\nset_config sets %v, the parser says %v", sql, changes, want.changes)
	}
	if ok && (v.Effects&lb.EffectSetConfig == 0 || v.Effects&lb.EffectMayChangeState != 0) {
		c.t.Errorf("%s\nset_config can be told, but effects are %s", sql, v.Effects)
	}
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// TestSetConfigIsTold: what can be told is told, not only never wrong.
func TestSetConfigIsTold(t *testing.T) {
	told := 0
	for _, s := range corpus(t) {
		if _, ok := lb.SetConfig([]byte(s), lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true}); ok {
			told++
		}
	}
	if told < 5 {
		t.Errorf("%d statements of the corpus are told, want 5", told)
	}
}
