package session

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// modelData is what the servers of a cluster store: a number that only grows, by
// its committed values. A position in it stands for an LSN.
type modelData struct {
	history []int
	ids     []int // of the rows inserted, by their commits
}

func (d *modelData) last() int { return len(d.history) - 1 }

// modelServer is one connection to a server as the manual describes it ("Message
// Flow"), as far as the statements of the simulation need it.
type modelServer struct {
	data     *modelData
	replayed *int        // position of a standby; nil: the primary
	fault    func() bool // tells whether a statement of a standby fails now
	out      []byte

	status   byte // as ReadyForQuery says
	skipping bool // up to Sync
	extended bool // in the extended protocol since the last ReadyForQuery
	copying  bool
	rows     int // read by the COPY under way

	setting    string
	added      int // by the open transaction
	ids        []int
	started    bool
	before     string // the setting when it started
	readOnly   bool
	savepoints []modelSavepoint

	statements map[string]string
	portals    map[string]*modelPortal
}

type modelSavepoint struct {
	setting string
	added   int
}

type modelPortal struct {
	sql  string
	row  string // the answer of a SELECT, as of Bind
	done bool
}

func newModelServer(data *modelData, replayed *int) *modelServer {
	return &modelServer{
		data: data, replayed: replayed, fault: func() bool { return false }, status: pgwire.TxIdle, setting: "ISO",
		statements: make(map[string]string), portals: make(map[string]*modelPortal),
	}
}

func (s *modelServer) say(typ byte, body string) {
	s.out = pgwire.AppendMessage(s.out, typ, []byte(body))
}

// take handles one message of a client.
func (s *modelServer) take(typ byte, body []byte) {
	if s.copying {
		s.takeCopy(typ)
		return
	}
	if s.skipping && typ != pgwire.Sync {
		return
	}
	first, rest, _ := pgwire.CString(body)
	s.extended = s.extended || typ != pgwire.Query
	code := ""
	switch typ {
	case pgwire.Query:
		delete(s.statements, "")
		if code = s.check(string(first)); code == "" {
			code = s.run(&modelPortal{sql: string(first), row: s.answer(string(first))}, true)
		}
		if code != "" {
			s.fail(code)
		}
		if !s.copying {
			s.ready()
		}
		return
	case pgwire.Sync:
		s.skipping = false
		s.ready()
	case pgwire.Parse:
		sql, _, _ := pgwire.CString(rest)
		code = s.parse(string(first), string(sql))
	case pgwire.Bind:
		name, _, _ := pgwire.CString(rest)
		code = s.bind(string(first), string(name))
	case pgwire.Describe:
		code = s.describe(first[0], string(first[1:]))
	case pgwire.Execute:
		if p := s.portals[string(first)]; p != nil {
			code = s.run(p, false)
		} else {
			code = "34000"
		}
	case pgwire.Close:
		if first[0] == 'S' {
			delete(s.statements, string(first[1:]))
		} else {
			delete(s.portals, string(first[1:]))
		}
		s.say(pgwire.CloseComplete, "")
	}
	if code != "" {
		s.fail(code)
		s.skipping = true
	}
}

// takeCopy handles a message while COPY FROM STDIN reads.
func (s *modelServer) takeCopy(typ byte) {
	switch typ {
	case pgwire.CopyData:
		s.rows++
		return
	case pgwire.Sync, pgwire.Flush:
		return
	case pgwire.CopyDone:
		s.added += s.rows
		s.out = pgwire.AppendCommandComplete(s.out, fmt.Sprintf("COPY %d", s.rows))
	case pgwire.CopyFail:
		s.fail("57014")
		s.skipping = s.extended
	default:
		s.fail("08P01")
		s.skipping = s.extended
	}
	s.copying, s.rows = false, 0
	if !s.extended {
		s.ready()
	}
}

// fail raises an error.
func (s *modelServer) fail(code string) {
	routine := ""
	if code == "25006" && s.readOnly {
		routine = "RPreventCommandIfReadOnly\x00"
	}
	s.say(pgwire.ErrorResponse, "SERROR\x00VERROR\x00C"+code+"\x00Mtext\x00"+routine+"\x00")
	if s.status == pgwire.TxIdle {
		s.abort()
	} else {
		s.status = pgwire.TxFailed
	}
}

func (s *modelServer) start() {
	if !s.started {
		s.started, s.before, s.added = true, s.setting, 0
	}
}

func (s *modelServer) abort() {
	if s.started {
		s.setting = s.before
	}
	s.added, s.ids = 0, nil
	s.end()
}

func (s *modelServer) commit() {
	s.data.ids = append(s.data.ids, s.ids...)
	if s.added > 0 {
		s.data.history = append(s.data.history, s.data.history[s.data.last()]+s.added)
	}
	s.end()
}

func (s *modelServer) end() {
	s.ids = nil
	s.started, s.added, s.readOnly, s.status, s.savepoints = false, 0, false, pgwire.TxIdle, nil
	clear(s.portals)
}

// ready ends a batch, and with it an implicit transaction.
func (s *modelServer) ready() {
	if s.status == pgwire.TxIdle {
		s.commit()
	}
	s.extended = false
	s.out = pgwire.AppendReadyForQuery(s.out, s.status)
}

// check raises what is raised before a statement is run.
func (s *modelServer) check(sql string) string {
	switch {
	case s.status == pgwire.TxFailed && !strings.HasPrefix(sql, "ROLLBACK") && sql != "COMMIT":
		return "25P02"
	case strings.Contains(sql, "bad"):
		return "42703"
	case s.replayed != nil && strings.HasPrefix(sql, "SELECT") && s.fault():
		return "58000"
	}
	return ""
}

func (s *modelServer) parse(name, sql string) string {
	if name == "" {
		delete(s.statements, "")
	}
	if code := s.check(sql); code != "" {
		return code
	}
	if _, ok := s.statements[name]; ok {
		return "42P05"
	}
	s.statements[name] = sql
	s.say(pgwire.ParseComplete, "")
	return ""
}

func (s *modelServer) bind(portal, name string) string {
	sql, ok := s.statements[name]
	if !ok {
		return "26000"
	}
	if code := s.check(sql); code != "" {
		return code
	}
	if portal != "" && s.portals[portal] != nil {
		return "42P03"
	}
	s.start()
	s.portals[portal] = &modelPortal{sql: sql, row: s.answer(sql)}
	s.say(pgwire.BindComplete, "")
	return ""
}

func (s *modelServer) describe(kind byte, name string) string {
	sql, ok := s.statements[name]
	missing := "26000"
	if kind == 'P' {
		missing = "34000"
		p := s.portals[name]
		if ok = p != nil; ok {
			sql = p.sql
		}
	}
	if !ok {
		return missing
	}
	if code := s.check(sql); code != "" {
		return code
	}
	if kind == 'S' {
		s.say('t', "")
	}
	if strings.HasPrefix(sql, "SELECT") {
		s.say(pgwire.RowDescription, sql)
	} else {
		s.say(pgwire.NoData, "")
	}
	return ""
}

// answer computes the row of a SELECT.
func (s *modelServer) answer(sql string) string {
	switch sql {
	case "SELECT n FROM t":
		if s.replayed != nil {
			return fmt.Sprint(s.data.history[*s.replayed])
		}
		return fmt.Sprint(s.data.history[s.data.last()] + s.added)
	case "SELECT d FROM t":
		return s.setting
	}
	return ""
}

// run executes a statement.
func (s *modelServer) run(p *modelPortal, describe bool) (code string) {
	if code := s.check(p.sql); code != "" {
		return code
	}
	if p.done && strings.HasPrefix(p.sql, "SELECT") {
		s.out = pgwire.AppendCommandComplete(s.out, "SELECT 0")
		return ""
	}
	if p.done {
		return "55000"
	}
	p.done = true
	implicit := s.started
	s.start()
	tag := p.sql
	word, rest, _ := strings.Cut(p.sql, " ")
	switch word {
	case "SELECT":
		if describe {
			s.say(pgwire.RowDescription, p.sql)
		}
		s.say(pgwire.DataRow, p.row)
		tag = "SELECT 1"
	case "INSERT", "COPY":
		if s.readOnly || s.replayed != nil {
			return "25006"
		}
		if word == "COPY" {
			s.copying = true
			s.say(pgwire.CopyInResponse, "")
			return ""
		}
		s.added++
		id := 0
		if _, err := fmt.Sscanf(rest, "INTO t VALUES (%d)", &id); err == nil {
			s.ids = append(s.ids, id)
		}
		tag = "INSERT 0 1"
	case "SET":
		s.setting = strings.Trim(strings.TrimPrefix(p.sql, "SET DateStyle = "), "'")
		tag = "SET"
	case "RESET":
		s.setting = "ISO"
	case "BEGIN":
		s.status = pgwire.TxInTransaction
		s.readOnly = s.readOnly || rest != ""
		tag = "BEGIN"
	case "COMMIT":
		if s.status == pgwire.TxFailed {
			s.abort()
			tag = "ROLLBACK"
		} else {
			s.commit()
		}
	case "SAVEPOINT":
		if s.status == pgwire.TxIdle {
			return "25P01"
		}
		s.savepoints = append(s.savepoints, modelSavepoint{s.setting, s.added})
		tag = "SAVEPOINT"
	case "ROLLBACK":
		tag = "ROLLBACK"
		switch n := len(s.savepoints); {
		case rest == "":
			s.abort()
		case s.status == pgwire.TxIdle:
			return "25P01"
		case n == 0:
			return "3B001"
		default:
			s.setting, s.added = s.savepoints[n-1].setting, s.savepoints[n-1].added
			s.status = pgwire.TxInTransaction
		}
	case "DEALLOCATE":
		if _, ok := s.statements[rest]; !ok && rest != "ALL" {
			return "26000"
		}
		delete(s.statements, rest)
		tag = "DEALLOCATE"
		if rest == "ALL" {
			clear(s.statements)
			tag = "DEALLOCATE ALL"
		}
	case "DISCARD":
		if implicit || s.status != pgwire.TxIdle {
			return "25001"
		}
		clear(s.statements)
		s.setting, s.before = "ISO", "ISO"
	case "PREPARE":
		name, _, _ := strings.Cut(rest, " ")
		if _, ok := s.statements[name]; ok {
			return "42P05"
		}
		_, s.statements[name], _ = strings.Cut(p.sql, " AS ")
		tag = "PREPARE"
	case "EXECUTE":
		sql, ok := s.statements[rest]
		if !ok {
			return "26000"
		}
		return s.run(&modelPortal{sql: sql, row: s.answer(sql)}, describe)
	default:
		return "42601"
	}
	s.out = pgwire.AppendCommandComplete(s.out, tag)
	return ""
}

// modelStatements are those that the simulation chooses from.
var modelStatements = slices.Concat(
	slices.Repeat([]string{"SELECT n FROM t", "SELECT d FROM t"}, 6),
	slices.Repeat([]string{"INSERT INTO t VALUES (1)", "BEGIN", "BEGIN READ ONLY", "COMMIT", "COMMIT", "ROLLBACK"}, 2),
	[]string{
		"SET DateStyle = 'SQL'", "SET DateStyle = 'German'", "SAVEPOINT a", "ROLLBACK TO a",
		"DEALLOCATE s1", "DEALLOCATE ALL", "SELECT bad FROM t",
	},
)
