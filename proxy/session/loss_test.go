package session

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// TestSimulatedLosses loses the servers of a session at any moment, also in the middle
// of its batches, and holds what the client is told against what was committed: nothing
// that was acknowledged is lost, nothing that was refused is kept, nothing is done
// twice, and the session does not end.
func TestSimulatedLosses(t *testing.T) {
	for seed := range uint64(1500) {
		if !t.Run("", func(t *testing.T) { simulateLosses(t, seed) }) {
			return
		}
	}
}

// lossBatch is what the client sends up to Sync, or a simple query.
type lossBatch struct {
	lines, statements []string
}

func simulateLosses(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	s := &simulation{play: newPlay(t), t: t, r: r, replayed: new(int), data: &modelData{history: []int{0}}}
	s.env.choose = []string{"", "h2"}[r.IntN(2)]
	if seed%3 == 2 {
		s.core.Share(NewStatements(), 4)
	}
	s.attach(Primary, "h1")
	batches := randomBatches(r, s.env.choose != "")
	waits := r.IntN(2) == 0 // for each answer before it sends more
	given, answered, got := 0, 0, 0
	for idle := 0; idle < 4000 && !s.core.Closed(); idle++ {
		if got < len(s.client) {
			got, answered = len(s.client), len(answersOf(s.client))
		}
		if answered == len(batches) {
			break
		}
		if given < len(batches) && (!waits || answered == given) {
			for _, line := range batches[given].lines {
				s.sent = append(s.sent, clientMessage(t, line)...)
			}
			given++
		}
		if s.step() || s.loseServer() {
			idle = 0
		}
	}
	v := verifier{setting: "ISO", data: s.data, lost: s.losses > 0}
	answers := answersOf(s.client)
	for i := 0; i < len(batches) && v.wrong == ""; i++ {
		switch {
		case s.core.Closed():
			v.wrong = "the session has ended"
		case i >= len(answers):
			v.wrong = "no answer"
		default:
			v.batch(batches[i], answers[i])
		}
		if v.wrong != "" {
			v.wrong = fmt.Sprintf("batch %d %q: %s", i, batches[i].lines, v.wrong)
		}
	}
	if v.wrong == "" {
		v.end()
	}
	if v.wrong != "" {
		t.Fatalf("seed %d: %s\n\nevents:\n%s\n\nthe client got:\n%s\n\ncommitted: %v", seed, v.wrong,
			strings.Join(s.trace, "\n"), strings.Join(decode(s.client, true), "\n"), s.data.ids)
	}
}

// randomBatches makes batches whose INSERTs are told apart by their values. With
// standbys nothing follows the end of a transaction in a batch (see randomScript).
func randomBatches(r *rand.Rand, standbys bool) (batches []lossBatch) {
	id := 0
	statement := func() string {
		switch r.IntN(12) {
		case 0, 1, 2, 3:
			id++
			return fmt.Sprintf("INSERT INTO t VALUES (%d)", id)
		case 4, 5:
			return "SELECT n FROM t"
		case 6:
			return "SELECT d FROM t"
		case 7:
			return "SET DateStyle = '" + []string{"SQL", "German"}[r.IntN(2)] + "'"
		case 8:
			return "SELECT bad FROM t"
		case 9:
			return []string{"BEGIN", "BEGIN", "BEGIN READ ONLY"}[r.IntN(3)]
		case 10:
			return "ROLLBACK"
		}
		return "COMMIT"
	}
	for range 2 + r.IntN(12) {
		var b lossBatch
		if r.IntN(2) == 0 {
			b.statements = []string{statement()}
			b.lines = []string{"Q " + b.statements[0]}
		} else {
			for range 1 + r.IntN(2) {
				sql := statement()
				b.statements = append(b.statements, sql)
				b.lines = append(b.lines, "P - "+sql, "B - -", "E -")
				if standbys && (sql == "COMMIT" || sql == "ROLLBACK") {
					break
				}
				if r.IntN(4) == 0 {
					b.lines = append(b.lines, "H")
				}
			}
			b.lines = append(b.lines, "S")
		}
		batches = append(batches, b)
	}
	return append(batches, lossBatch{[]string{"Q ROLLBACK"}, []string{"ROLLBACK"}},
		lossBatch{[]string{"Q SELECT d FROM t"}, []string{"SELECT d FROM t"}})
}

// loseServer sometimes ends a server connection, in the ways in which servers do.
func (s *simulation) loseServer() bool {
	slot := Primary + Slot(s.r.IntN(2))
	if s.servers[slot] == nil || s.r.IntN(40) > 0 {
		return false
	}
	s.note("lose %v", slot)
	s.losses++
	s.servers[slot] = nil
	stops := slot == Primary && s.r.IntN(3) == 0
	if stops {
		s.server(Primary, pgwire.AppendError(nil, "FATAL", "57P01", "text", "", ""))
	}
	s.core.ServerClosed(slot)
	s.collect()
	if stops {
		s.core.Judged(false)
		s.collect()
	}
	return true
}

// lossAnswer is what the client got for one batch.
type lossAnswer struct {
	tags, rows, errors []string
	status             byte
}

func answersOf(b []byte) (answers []lossAnswer) {
	var a lossAnswer
	for len(b) > 0 {
		typ, n, ok, err := pgwire.Header(b)
		if !ok || err != nil || n > len(b) {
			return answers
		}
		body := b[pgwire.HeaderLen:n]
		switch typ {
		case pgwire.CommandComplete:
			a.tags = append(a.tags, string(pgwire.CommandTag(body)))
		case pgwire.DataRow:
			a.rows = append(a.rows, string(body))
		case pgwire.ErrorResponse:
			a.errors = append(a.errors, string(pgwire.ErrorField(body, 'C')))
		case pgwire.ReadyForQuery:
			a.status = body[0]
			answers = append(answers, a)
			a = lossAnswer{}
		}
		b = b[n:]
	}
	return answers
}

// verifier follows what a client may conclude from its answers.
type verifier struct {
	data  *modelData
	lost  bool // there were losses
	wrong string

	block  bool // a transaction block is open
	failed bool // and has failed
	scope  []int
	must   []int // committed, since that was acknowledged
	may    []int
	not    []int

	setting, before string
	unsure          bool // the setting is not known,
	unsureBefore    bool // or was not when the transaction began
	dirty           bool // it was set in the open transaction
}

// batch takes one batch and its answer.
func (v *verifier) batch(b lossBatch, a lossAnswer) {
	if len(a.errors) > 1 {
		v.wrong = "more than one error"
		return
	}
	if !v.block {
		v.begin()
	}
	done, rows := 0, a.rows
	for ; done < len(a.tags) && done < len(b.statements) && v.wrong == ""; done++ {
		sql := b.statements[done]
		row := ""
		if strings.HasPrefix(sql, "SELECT") && len(rows) > 0 {
			row, rows = rows[0], rows[1:]
		}
		v.answered(sql, a.tags[done], row)
	}
	switch {
	case v.wrong != "":
	case len(a.errors) == 0 && done != len(b.statements):
		v.wrong = "an answer is missing"
	case len(a.errors) == 0 && !v.block:
		v.commit()
		v.expect(a.status, "I")
	case len(a.errors) == 0 && v.failed:
		v.expect(a.status, "E")
	case len(a.errors) == 0:
		v.expect(a.status, "T")
	default:
		v.refused(b, done, a.errors[0], a.status)
	}
}

func (v *verifier) expect(status byte, allowed string) {
	if !strings.ContainsRune(allowed, rune(status)) {
		v.wrong = fmt.Sprintf("status %c, not of %s", status, allowed)
	}
}

func (v *verifier) begin() { v.before, v.unsureBefore, v.dirty = v.setting, v.unsure, false }

// answered takes a statement that was successful.
func (v *verifier) answered(sql, tag, row string) {
	id := 0
	ends := sql == "COMMIT" || sql == "ROLLBACK"
	switch {
	case v.failed && (!ends || tag != "ROLLBACK"):
		v.wrong = sql + " in a failed transaction"
	case ends && tag == "COMMIT":
		v.commit()
		v.block = false
		v.begin()
	case ends && tag == "ROLLBACK":
		v.rollback()
		v.block, v.failed = false, false
		v.begin()
	case strings.HasPrefix(sql, "BEGIN"):
		v.block = true
	case strings.HasPrefix(sql, "SET"):
		v.setting = strings.Trim(strings.TrimPrefix(sql, "SET DateStyle = "), "'")
		v.unsure, v.dirty = false, true
	case sql == "SELECT d FROM t" && !v.unsure && row != "" && row != v.setting:
		v.wrong = fmt.Sprintf("setting %s, not %s", row, v.setting)
	case sql == "SELECT n FROM t" && row != "":
		n := 0
		_, _ = fmt.Sscan(row, &n)
		if n < len(v.must) && !v.block {
			v.wrong = fmt.Sprintf("%d rows, %d were acknowledged", n, len(v.must))
		}
	default:
		if _, err := fmt.Sscanf(sql, "INSERT INTO t VALUES (%d)", &id); err == nil {
			v.scope = append(v.scope, id)
		}
	}
}

// refused takes an error in the place of statement done.
func (v *verifier) refused(b lossBatch, done int, code string, status byte) {
	for _, sql := range b.statements[min(done, len(b.statements)):] {
		id := 0
		if _, err := fmt.Sscanf(sql, "INSERT INTO t VALUES (%d)", &id); err == nil {
			v.scope = append(v.scope, id)
		}
	}
	switch code {
	case "40001", "08007":
		if !v.lost {
			v.wrong = code + " although nothing was lost"
		}
		v.expect(status, "IE")
		if code == "08007" {
			v.may, v.scope = append(v.may, v.scope...), nil
			v.unsure = v.unsure || v.dirty || strings.Contains(strings.Join(b.statements, " "), "SET")
			v.dirty = false
		}
		v.rollback()
		v.block, v.failed = status == pgwire.TxFailed, status == pgwire.TxFailed
	case "25P02":
		if !v.failed {
			v.wrong = "25P02 outside of a failed transaction"
		}
		v.expect(status, "E")
		v.rollback()
	default:
		want := map[bool]string{false: "I", true: "E"}[v.block]
		v.expect(status, want)
		if v.failed {
			v.wrong = code + " in a failed transaction"
		}
		v.rollback()
		v.failed = v.block
	}
}

func (v *verifier) commit() { v.must, v.scope = append(v.must, v.scope...), nil }

func (v *verifier) rollback() {
	v.not, v.scope = append(v.not, v.scope...), nil
	if v.dirty {
		v.setting, v.unsure, v.dirty = v.before, v.unsureBefore, false
	}
}

// end compares with what was committed.
func (v *verifier) end() {
	count := make(map[int]int)
	for _, id := range v.data.ids {
		count[id]++
		if count[id] > 1 {
			v.wrong = fmt.Sprintf("%d was inserted twice", id)
		}
	}
	for _, id := range v.must {
		if count[id] == 0 {
			v.wrong = fmt.Sprintf("%d was acknowledged and is lost", id)
		}
	}
	for _, id := range v.not {
		if count[id] > 0 {
			v.wrong = fmt.Sprintf("%d was refused and is there", id)
		}
	}
}
