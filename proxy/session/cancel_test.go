package session

import "testing"

// TestMayCommit plays conversations with the primary, of steps that are a message of the
// client ("> Q COMMIT") or of the server ("< Z I"), and asks behind the last one.
func TestMayCommit(t *testing.T) {
	prepared := []string{"> P - INSERT INTO t VALUES (1)", "> B - -", "> E -"}
	inBlock := func(steps ...string) []string {
		return append([]string{"> Q BEGIN", "< C BEGIN", "< Z T"}, steps...)
	}
	for _, c := range []struct {
		name  string
		steps []string
		want  bool
	}{
		{"nothing", nil, false},
		{"a read", []string{"> Q SELECT 1 FROM t"}, false},
		{"a write", []string{"> Q INSERT INTO t VALUES (1)"}, true},
		{"a write that was answered", []string{"> Q INSERT INTO t VALUES (1)", "< C INSERT 0 1", "< Z I"}, false},
		{"a read behind it", []string{"> Q INSERT INTO t VALUES (1)", "< C INSERT 0 1", "< Z I", "> Q SELECT 1 FROM t"}, false},
		{"a write without its ReadyForQuery", []string{"> Q INSERT INTO t VALUES (1)", "< C INSERT 0 1"}, true},
		{"a function that may be anything", []string{"> Q SELECT f()"}, true},
		{"a call", []string{"> Q CALL p()"}, true},
		{"the end of another's transaction", []string{"> Q COMMIT PREPARED 'x'"}, true},
		{"several statements", []string{"> Q SELECT 1; DELETE FROM t"}, true},
		{"a batch", append(prepared, "> S"), true},
		{"a batch whose Sync is still to be answered", append(prepared, "> S", "< 1", "< 2", "< C INSERT 0 1"), true},
		{"a batch behind a batch", append(append(prepared, "> S"), append(prepared, "> S", "< 1", "< 2", "< C INSERT 0 1", "< Z I")...), true},
		{"a function call", []string{"> F"}, true},
		{"a write in a block", inBlock("> Q UPDATE t SET a = 1"), false},
		{"a batch in a block", inBlock(append(prepared, "> S")...), false},
		{"a savepoint's end", inBlock("> Q ROLLBACK TO s"), false},
		{"COMMIT", inBlock("> Q COMMIT"), true},
		{"PREPARE TRANSACTION", inBlock("> Q PREPARE TRANSACTION 'x'"), true},
		{"COMMIT that was answered", inBlock("> Q COMMIT", "< C COMMIT", "< Z I"), false},
		{"COMMIT among others", inBlock("> Q UPDATE t SET a = 1; COMMIT"), true},
		{"COMMIT of the extended protocol", inBlock("> P - COMMIT", "> B - -", "> E -", "> S"), true},
		{"a write behind a COMMIT of its batch", inBlock(append([]string{"> P c COMMIT", "> B - c", "> E -", "> H", "< 1", "< 2", "< C COMMIT"}, append(prepared, "> S")...)...), true},
		{"a write behind a ROLLBACK of its batch", inBlock(append([]string{"> P r ROLLBACK", "> B - r", "> E -", "> H", "< 1", "< 2", "< C ROLLBACK"}, append(prepared, "> S")...)...), true},
		{"an update in the next block", inBlock("> Q COMMIT AND CHAIN", "< C COMMIT", "< Z T", "> Q UPDATE t SET a = 1"), false},
		{"what is no message", []string{"> garbage"}, true},
	} {
		p := newPlay(t)
		p.core.Attach(Primary, Attachment{Backend: "h1", ID: 1, Fresh: true})
		for _, step := range c.steps {
			switch line := step[2:]; {
			case line == "garbage":
				p.unread = append(p.unread, make([]byte, 8)...)
				p.client()
			case step[0] == '>':
				p.unread = append(p.unread, clientMessage(t, line)...)
				p.client()
			default:
				p.server(Primary, serverMessage(t, line))
				p.client()
			}
		}
		if got := p.core.MayCommit(); got != c.want {
			t.Errorf("%s: MayCommit is %v", c.name, got)
		}
	}
}

func TestAwaits(t *testing.T) {
	p := newPlay(t)
	want := func(when string, awaits bool, busy Slot) {
		t.Helper()
		if p.core.Awaits() != awaits || p.core.Busy() != busy {
			t.Errorf("%s: Awaits is %v, busy is %v", when, p.core.Awaits(), p.core.Busy())
		}
	}
	client := func(line string) {
		p.unread = append(p.unread, clientMessage(t, line)...)
		p.client()
	}
	server := func(lines ...string) {
		for _, line := range lines {
			p.server(Primary, serverMessage(t, line))
			p.client()
		}
	}
	attach := func() {
		p.ids++
		p.core.Attach(Primary, Attachment{Backend: "h1", ID: p.ids, Fresh: true})
		p.client()
	}
	want("at the start", false, None)
	client("Q PREPARE p AS SELECT 1")
	want("without a server", true, None)
	attach()
	want("a statement at work", false, Primary)
	server("C PREPARE", "Z I")
	client("Q SET work_mem = 1")
	server("C SET", "Z I")
	want("between statements", false, None)
	p.core.ServerClosed(Primary)
	client("Q EXECUTE p")
	attach()
	want("while the settings are restored", true, None)
	server("C SET", "Z I")
	want("while the statement is prepared again", true, Primary)
	server("C PREPARE", "Z I")
	want("the statement at work", false, Primary)
	server("C SELECT 1", "Z I")
	want("at the end", false, None)
}
