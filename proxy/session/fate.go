package session

import (
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/lb"
)

// phase is where a session stands with its transaction.
type phase uint8

const (
	outside phase = iota // of a transaction block
	inside
	doomed // inside of one that has failed

	phases
)

// phaseOf translates the status of a ReadyForQuery.
func phaseOf(tx byte) phase {
	switch tx {
	case pgwire.TxInTransaction:
		return inside
	case pgwire.TxFailed:
		return doomed
	}
	return outside
}

// phaseAfter follows the phase by a command tag.
func phaseAfter(p phase, v *lb.Verdict, tag []byte) phase {
	switch string(tag) {
	case "BEGIN", "START TRANSACTION":
		return inside
	case "COMMIT", "ROLLBACK", "PREPARE TRANSACTION":
		switch {
		case v != nil && v.Effects&lb.EffectEnd == 0 && v.Effects&lb.EffectSavepoint != 0: // ROLLBACK TO
			return p
		case v != nil && v.Effects&lb.EffectChain != 0:
			return inside
		}
		return outside
	}
	return p
}

// deed is what a statement does to its transaction.
type deed uint8

const (
	deedNone          deed = iota // nothing that a commit would keep
	deedWrite                     // something that it may keep
	deedBegin                     // BEGIN
	deedCommit                    // COMMIT, PREPARE TRANSACTION
	deedCommitChain               // COMMIT AND CHAIN
	deedRollback                  // ROLLBACK
	deedRollbackChain             // ROLLBACK AND CHAIN
	deedUndo                      // ROLLBACK TO
	deedAnything                  // CALL, DO, several statements: it may commit by itself
)

// fate tells what a batch can do to a transaction by the phase in which it begins.
type fate struct {
	statements int  // that are executed
	last       deed // of them
	to         [phases]phase
	fails      [phases]anyPhase // where it may end by an error
	commits    [phases]bool     // something may be kept once all of the batch was handed over
}

// anyPhase is a set of phases.
type anyPhase uint8

func only(p phase) anyPhase { return 1 << p }

func (a anyPhase) has(p phase) bool { return a&only(p) != 0 }

// failing returns the phase behind an error.
func failing(p phase) phase {
	if p == outside {
		return outside
	}
	return doomed
}

// may reports that something may be kept if the batch begins in one of those phases.
func (f *fate) may(from anyPhase) bool {
	for p := range f.commits {
		if f.commits[p] && from.has(phase(p)) {
			return true
		}
	}
	return false
}

// perhaps returns the phases in which the batch may end.
func (f *fate) perhaps(from anyPhase) (to anyPhase) {
	for p := range phases {
		if from.has(p) {
			to |= only(f.after(p)) | only(failing(p)) | f.fails[p]
		}
	}
	return to
}

// after returns the phase behind a batch that is successful.
func (f *fate) after(p phase) phase {
	if f.statements == 0 {
		return p
	}
	return f.to[p]
}

// note adds a statement.
func (f *fate) note(d deed) {
	if f.statements == 0 {
		f.to = [phases]phase{outside, inside, doomed}
	}
	f.statements++
	f.last = d
	for p := range f.to {
		to, commits := &f.to[p], &f.commits[p]
		f.fails[p] |= only(failing(*to))
		switch d {
		case deedNone:
		case deedWrite:
			*commits = *commits || *to == outside
		case deedBegin:
			if *to == outside {
				*to = inside
			}
		case deedCommit, deedCommitChain:
			*commits = *commits || *to != doomed
			*to = outside
		case deedRollback, deedRollbackChain:
			*to = outside
		case deedUndo:
			if *to == doomed {
				*to = inside
			}
		case deedAnything:
			*commits, *to = true, outside
		}
		if d == deedCommitChain || d == deedRollbackChain {
			f.fails[p] |= only(outside)
			*to = inside
		}
	}
}

// join adds what came behind an end that was none.
func (f *fate) join(later fate) {
	if later.statements > 0 {
		f.statements += later.statements - 1
		f.note(deedAnything)
	}
}

// ends reports that the batch is one statement that ends the transaction, by d or, as
// its transaction has failed, by any other way.
func (f *fate) ends(failed bool) bool {
	return f.statements == 1 && (f.last == deedRollback || failed && f.last == deedCommit)
}

// deedOf tells what a message that executes something does.
func (c *Core) deedOf(m *message) deed {
	if m.typ == pgwire.FunctionCall {
		return deedWrite
	}
	v := m.verdict
	// Effects of statements that do nothing but to the session, and can be repeated.
	const own = lb.EffectSet | lb.EffectSetLocal | lb.EffectMeaning | lb.EffectIsolation | lb.EffectPrepare | lb.EffectDeallocate
	switch {
	case v == nil:
		return deedAnything
	case v.Statements == 0, v.Statements == 1 && v.Quiet, c.readQuery(v) && !beginsReadOnly(v):
		return deedNone
	case v.Statements != 1, v.Effects&lb.EffectCall != 0:
		return deedAnything
	case v.Effects&lb.EffectBegin != 0:
		return deedBegin
	case v.Effects&(lb.EffectEnd|lb.EffectChain) == lb.EffectEnd|lb.EffectChain && v.Rollback:
		return deedRollbackChain
	case v.Effects&(lb.EffectEnd|lb.EffectChain) == lb.EffectEnd|lb.EffectChain:
		return deedCommitChain
	case v.Effects&lb.EffectEnd != 0 && v.Rollback:
		return deedRollback
	case v.Effects&lb.EffectEnd != 0:
		return deedCommit
	case v.Savepoint == lb.SavepointSet, v.Savepoint == lb.SavepointRelease:
		return deedNone
	case v.Effects&lb.EffectSavepoint != 0:
		return deedUndo
	case v.Effects != 0 && v.Effects&^own == 0:
		return deedNone
	}
	return deedWrite
}

// repeatable reports that a message may be given to another server when the one that
// had it is lost, because it keeps nothing outside of the session.
func (c *Core) repeatable(m *message) bool {
	if m.have < m.n {
		return false
	}
	switch m.typ {
	case pgwire.Query, pgwire.Execute:
		d := c.deedOf(m)
		return d == deedNone || d == deedBegin
	case pgwire.Parse, pgwire.Bind, pgwire.Describe, pgwire.Close, pgwire.Sync, pgwire.Flush:
		return true
	}
	return false
}
