package lb

import "strings"

// Verdict is what the session must know about one statement (or one simple
// query's list of statements, of which it is the union).
type Verdict struct {
	// Read: every server gives the same answer and nothing is changed.
	// Everything else goes to the primary.
	Read bool
	// Quiet: nothing is changed, locked or kept, so that it may run twice. The answer may
	// still depend on the server; then Read is false.
	Quiet bool
	// Unknown: the catalog or a function is not known yet, so that Read is false and
	// Effects may lack some; the driver should have the catalog loaded in the background.
	Unknown bool
	// Evaluates: functions may be called, so that the verdict depends on the catalog.
	Evaluates bool
	// Silent: a single INSERT, UPDATE or DELETE whose answer shows nothing but a count.
	Silent bool
	// Why says why Read is false, for logs and operators; "" when it is true.
	Why string
	// Statements is the number of statements (0 for an empty query).
	Statements int
	Effects    Effect
	// Hint is the comment hint, ToAny when there is none.
	Hint Target
	// Show is the name of a SHOW command that pgproxy answers ("pool_nodes"), else "".
	// Set only when it is the only statement.
	Show string
	// Name is the statement's name for EffectPrepare, EffectExecute, EffectDeallocate
	// (folded like PostgreSQL does; "" with EffectDeallocate: ALL), or the savepoint's
	// for Savepoint, set only when it is the only statement. Identifiers are cut to 63
	// bytes.
	Name string
	// Inner tells whether the statement inside PREPARE is a read; for EXECUTE,
	// whether its arguments are free of anything that is not. What the statement
	// inside PREPARE does to the session is among the Effects of PREPARE.
	Inner bool
	// Setting is the folded name of the setting that a single SET or RESET changes
	// (EffectSet), "" otherwise.
	Setting string
	// Settings are the folded names, in the order of the text, when not one but several
	// settings change: by several statements that are all a plain SET or RESET
	// (EffectSet, not EffectUnknownInSession), or by one SET SESSION CHARACTERISTICS.
	Settings []string
	// Custom are the folded names of custom settings ("a.b") that SET, SET LOCAL or
	// RESET names, or that CREATE and ALTER attach to something (EffectCustom).
	Custom []string
	// Savepoint is what a single statement does to the savepoint of that Name. It is
	// NoSavepoint, with EffectSavepoint, where the name that the server will take is not
	// known: one with bytes above 127.
	Savepoint Savepoint
	// Rollback: the single statement with EffectEnd undoes the transaction.
	Rollback bool
}

// Savepoint is what a statement does to the savepoints of its transaction.
type Savepoint uint8

// The statements about savepoints.
const (
	NoSavepoint Savepoint = iota
	SavepointSet
	SavepointRelease
	SavepointRollback // ROLLBACK TO
)

// Effect is a set of things a statement does to its session.
type Effect uint32

// The effects.
const (
	EffectBegin            Effect = 1 << iota // BEGIN, START TRANSACTION
	EffectReadOnly                            // with EffectBegin: READ ONLY and neither SERIALIZABLE nor anything unusual
	EffectEnd                                 // COMMIT, ROLLBACK, END, ABORT, PREPARE TRANSACTION (not ROLLBACK TO)
	EffectChain                               // with EffectEnd: AND CHAIN
	EffectSavepoint                           // SAVEPOINT, RELEASE, ROLLBACK TO
	EffectSet                                 // a plain SET/RESET of one setting by a single statement, replayable as text on another server
	EffectSetLocal                            // SET LOCAL, SET TRANSACTION, SET CONSTRAINTS: ends with the transaction
	EffectResetAll                            // RESET ALL
	EffectDiscardAll                          // DISCARD ALL
	EffectMayChangeState                      // may change settings or other session state in a way that cannot be told from the text (set_config in a query, DO, CALL, LOAD, functions)
	EffectLeftover                            // may leave something that DISCARD ALL does not remove (LOAD, dblink, setseed)
	EffectTemp                                // creates a temporary object
	EffectListen                              // LISTEN
	EffectPrepare                             // SQL PREPARE
	EffectExecute                             // SQL EXECUTE
	EffectDeallocate                          // SQL DEALLOCATE
	EffectDDL                                 // may change functions, views or tables: the catalog must be read again
	EffectWithHold                            // DECLARE ... WITH HOLD
	EffectSessionLock                         // advisory locks of the session
	EffectCopyIn                              // COPY ... FROM STDIN
	EffectIsolation                           // with EffectBegin or EffectSetLocal: an isolation level other than READ COMMITTED may hold
	EffectDatabase                            // CREATE, ALTER or DROP DATABASE: some forms need that nobody else is connected
	EffectUnknownInSession                    // several statements of which one has EffectPrepare, EffectDeallocate, EffectSet, ... and that are not all Settings: names and settings are not known any more
	EffectCustom                              // defines a custom setting "a.b", whatever its outcome: DISCARD ALL empties it and does not remove it
	EffectSetConfig                           // calls set_config; without EffectMayChangeState SetConfig may tell, for each text, what it sets
	EffectCall                                // CALL or DO, also inside EXPLAIN ANALYZE and the like: may commit by itself
	EffectLastValue                           // calls currval or lastval: the answer is that of this server connection
	EffectUnpin                               // may end what binds a session to its server connection: UNLISTEN, CLOSE, unlock functions, DROP, DISCARD, the end of a transaction, ROLLBACK TO
	EffectMeaning                             // with EffectSet or EffectSetLocal: what a text means may depend on the setting when it is parsed (TimeZone: the constants; search_path: the names)
)

// Target is where a statement may run.
type Target uint8

// The targets.
const (
	ToAny Target = iota
	ToPrimary
	ToStandby
)

var effectNames = []string{
	"begin", "read-only", "end", "chain", "savepoint", "set", "set-local", "reset-all",
	"discard-all", "may-change-state", "leftover", "temp", "listen", "prepare", "execute",
	"deallocate", "ddl", "with-hold", "session-lock", "copy-in", "isolation", "database",
	"unknown-in-session", "custom", "set-config", "call", "last-value", "unpin",
}

// String returns the names of the effects, separated by spaces.
func (e Effect) String() string {
	var names []string
	for i, n := range effectNames {
		if e&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, " ")
}

// String returns the word of the comment hint.
func (t Target) String() string {
	switch t {
	case ToPrimary:
		return "primary"
	case ToStandby:
		return "standby"
	case ToAny:
	}
	return "any"
}

// String returns the verb.
func (s Savepoint) String() string {
	switch s {
	case SavepointSet:
		return "set"
	case SavepointRelease:
		return "release"
	case SavepointRollback:
		return "rollback"
	case NoSavepoint:
	}
	return "none"
}
