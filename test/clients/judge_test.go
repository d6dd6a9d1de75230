package clients

import (
	"strings"
	"testing"
	"time"
)

// instant is so many seconds after the failover of the judged runs.
func instant(seconds float64) float64 { return 1000 + seconds }

func judged(async bool, rows map[rowKey]int, events ...Event) *Result {
	during := []disturbance{
		{kind: failover, started: seconds(instant(0)), over: seconds(instant(5))},
		{kind: switchover, started: seconds(instant(10)), over: seconds(instant(15))},
	}
	return newResult(Options{Asynchronous: async, Pace: 100 * time.Millisecond}, events, during, rows)
}

func TestJudge(t *testing.T) {
	write := func(at float64, id int64, state string) Event {
		return Event{At: instant(at), Client: "pgx-write-1", Op: opWrite, ID: id, Failed: state != "", State: state}
	}
	read := func(at float64, state string) Event {
		return Event{At: instant(at), Client: "pgx-read-1", Op: opRead, Failed: state != "", State: state}
	}
	transaction := Event{At: instant(1), Client: "node-transaction-1", Op: opTransaction, ID: 1}
	dropped := write(1, 1, "57P01")
	dropped.Dropped = true
	notify := func(at float64, id int64) Event {
		return Event{At: instant(at), Client: "pgx-notify-1", Op: opNotify, ID: id}
	}
	listener := func(at float64, op string, id int64, failed bool) Event {
		return Event{At: instant(at), Client: "pgx-listen-1", Op: op, ID: id, Failed: failed}
	}
	one := map[rowKey]int{{1, 1}: 1}
	for _, c := range []struct {
		name   string
		want   string // in the only violation; "": none
		async  bool
		rows   map[rowKey]int
		events []Event
	}{
		{name: "nothing happens", rows: one, events: []Event{write(-1, 1, ""), read(1, "")}},
		{name: "lost, tried again and done", rows: one, events: []Event{write(1, 1, lostState), write(2, 1, "")}},
		{name: "unknown and there", rows: one, events: []Event{write(1, 1, unknownState)}},
		{name: "unknown and not there", events: []Event{write(1, 1, unknownState)}},
		{name: "an acknowledged row is lost", want: "is lost", events: []Event{write(1, 1, "")}},
		{name: "asynchronous", async: true, events: []Event{write(1, 1, "")}},
		{name: "done twice", want: "is there 2 times", rows: map[rowKey]int{{1, 1}: 2}, events: []Event{write(1, 1, lostState), write(2, 1, "")}},
		{name: "a false promise", want: "was told that it is not", rows: one, events: []Event{write(1, 1, lostState)}},
		{name: "of nobody", want: "nobody has written it", rows: one},
		{name: "half a transaction", want: "part 2 0 times", rows: one, events: []Event{transaction}},
		{name: "two errors at one failover", want: "a second error", events: []Event{write(1, 1, lostState), write(2, 1, lostState)}},
		{name: "another error", want: "none of the two", events: []Event{write(1, 1, "57P01")}},
		{name: "a read fails", want: "read has failed", events: []Event{read(1, lostState)}},
		{name: "a drop", want: "was dropped", events: []Event{dropped}},
		{name: "an error at a switchover", want: "at a switchover", events: []Event{write(11, 1, lostState)}},
		{name: "an error too early", want: "before anything", events: []Event{write(-1, 1, lostState)}},
		{name: "missed with notice", events: []Event{
			listener(-2, opListen, 0, false), notify(1, 1), listener(1.5, opListen, 0, true), listener(2, opListen, 0, false),
			notify(3, 2), listener(3, opNotified, 2, false),
		}},
		{name: "missed in silence", want: "has missed notification 1", events: []Event{
			listener(-2, opListen, 0, false), notify(1, 1), notify(2, 2), listener(2, opNotified, 2, false),
		}},
		{name: "listens no more", want: "listens no more", events: []Event{listener(-2, opListen, 0, false), listener(1, opListen, 0, true)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judged(c.async, c.rows, c.events...).Violations
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("want no violation, got %q", got)
			case c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)):
				t.Errorf("want %q, got %q", c.want, got)
			}
		})
	}
}

func TestPausesAreLessThePace(t *testing.T) {
	var events []Event
	for _, at := range []float64{-1, -0.8, 1.5, 1.7, 9, 12, 12.2} {
		events = append(events, Event{At: instant(at), Client: "pgx-write-1", Op: opWrite, ID: int64(at * 10), Failed: false})
	}
	r := judged(true, nil, events...)
	if got := r.Tallies[failover].Writing; len(got) != 1 || got[0].Round(time.Millisecond) != 7200*time.Millisecond {
		t.Errorf("failover: pauses %v, want 7.2 s: it was served at 1.7 and then at 9", got)
	}
	if got := r.Tallies[switchover].Writing; len(got) != 1 || got[0].Round(time.Millisecond) != 2900*time.Millisecond {
		t.Errorf("switchover: pauses %v, want 2.9 s", got)
	}
	if got := r.Quiet.Round(time.Millisecond); got != 100*time.Millisecond {
		t.Errorf("in between: %s, want 0.1 s", got)
	}
}

func TestPsqlsLinesAreRead(t *testing.T) {
	state, text, ok := psqlMessage("FATAL:  08007: pgproxy: outcome unknown")
	if !ok || state != "08007" || !strings.HasPrefix(text, "FATAL") {
		t.Errorf("got %q, %q, %v", state, text, ok)
	}
	if _, _, ok := psqlMessage("server closed the connection unexpectedly"); ok {
		t.Error("a line without a SQLSTATE has one")
	}
	if _, err := psqlAnswer("true 40001 :v", "ERROR:  40001: lost"); stateOf(err) != lostState {
		t.Errorf("got %v", err)
	}
	if v, err := psqlAnswer("false 00000 42", ""); err != nil || v != "42" {
		t.Errorf("got %q, %v", v, err)
	}
	if got := psqlText(sqlInsert, []any{int64(7), 1, "it's"}); got != "INSERT INTO log (id, part, client) VALUES (7, 1, 'it''s')" {
		t.Error(got)
	}
}

func TestAllClientsAreShared(t *testing.T) {
	number := map[int]bool{}
	kinds := map[string]int{}
	for _, s := range divide(200, 0.5) {
		s.each(func(_ string, n int) {
			if number[n] {
				t.Errorf("number %d is used twice", n)
			}
			number[n] = true
			kinds[s.Kind]++
		})
	}
	if len(number) != 201 || kinds[kindNode] != 50 || kinds[kindPsql] != 50 {
		t.Errorf("%d clients, of kinds %v; want 200 and the one that notifies", len(number), kinds)
	}
}
