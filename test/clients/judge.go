package clients

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// Tally is what the clients have seen of one kind of disturbance.
type Tally struct {
	Number    int
	Errors    map[string]int // by SQLSTATE, "" for a connection that just ended; listeners are left out
	Most      int            // errors of one client at one disturbance
	Dropped   int            // connections, listeners' left out
	Refused   int            // attempts to connect
	Listeners int            // of their connections ended
	// Pauses of each disturbance: the longest time that a client was not served.
	Writing []time.Duration // of any client that writes
	Reading []time.Duration // of any client that reads only
}

// Result is what the clients of a run have seen.
type Result struct {
	Target     string
	Clients    int
	Events     int
	Tallies    map[string]*Tally // by kind of disturbance
	Quiet      time.Duration     // the longest time that a client was not served while nothing happened
	Acked      int               // rows and transactions
	Unknown    int               // of them that a client does not know about, and how many of these are there
	UnknownIn  int
	Lost       int // acknowledged, and not there
	Doubled    int // there twice
	Torn       int // transactions that are there by half
	Ghosts     int // refused with the promise that they are not there, and there
	Missed     int // notifications that a listener did not receive on a connection that went on
	Violations []string
}

// violations are capped, so that a broken run can be read.
const maxViolations = 40

// judge compares what the clients were told with what is there and with what must be.
type judge struct {
	o      Options
	events []Event
	during []disturbance
	rows   map[rowKey]int
	*Result
}

type rowKey struct {
	id   int64
	part int
}

func (r *run) result(ctx context.Context) (*Result, error) {
	primary, err := r.primary(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := readRows(ctx, primary)
	if err != nil {
		return nil, err
	}
	res := newResult(r.o, r.since(), r.disturbances, rows)
	res.Clients = r.clients
	return res, nil
}

// since leaves out the attempts to connect that have failed before all were connected:
// so many at once are no matter of primaries.
func (r *run) since() []Event {
	return slices.DeleteFunc(r.journal.all(), func(e Event) bool {
		return e.Op == opConnect && e.Failed && e.At < unix(r.began)
	})
}

func newResult(o Options, events []Event, during []disturbance, rows map[rowKey]int) *Result {
	j := &judge{o: o, events: events, during: during, rows: rows, Result: &Result{
		Target: o.Target, Events: len(events),
		Tallies: map[string]*Tally{failover: {Errors: map[string]int{}}, switchover: {Errors: map[string]int{}}},
	}}
	for _, d := range during {
		j.Tallies[d.kind].Number++
	}
	j.judgeErrors()
	j.judgeRows()
	j.judgeListeners()
	j.pauses()
	return j.Result
}

func readRows(ctx context.Context, primary *rig.Host) (map[rowKey]int, error) {
	text, err := primary.QueryApp(ctx, "SELECT string_agg(id || ':' || part || ':' || n, ' ') FROM (SELECT id, part, count(*) AS n FROM log GROUP BY id, part) l")
	if err != nil {
		return nil, err
	}
	rows := map[rowKey]int{}
	for _, word := range strings.Fields(text) {
		var k rowKey
		var n int
		if _, err := fmt.Sscanf(word, "%d:%d:%d", &k.id, &k.part, &n); err != nil {
			return nil, fmt.Errorf("read rows: %q: %w", word, err)
		}
		rows[k] = n
	}
	return rows, nil
}

func (j *judge) violation(format string, args ...any) {
	if len(j.Violations) < maxViolations {
		j.Violations = append(j.Violations, fmt.Sprintf(format, args...))
	}
}

// at returns the number of the last disturbance that had begun, -1 before the first.
func (j *judge) at(at float64) int {
	for i := len(j.during) - 1; i >= 0; i-- {
		if at >= unix(j.during[i].started) {
			return i
		}
	}
	return -1
}

// judgeErrors counts errors by the disturbance that they follow.
func (j *judge) judgeErrors() {
	type place struct {
		client string
		at     int
	}
	each := map[place]int{}
	for _, e := range j.events {
		if !e.Failed {
			continue
		}
		at := j.at(e.At)
		if at < 0 {
			j.violation("before anything happened: %s", &e)
			continue
		}
		kind := j.during[at].kind
		t := j.Tallies[kind]
		listens := e.behaviour() == opListen
		switch {
		case e.Op == opConnect:
			t.Refused++
			j.violation("a connection was refused at the %s: %s", kind, &e)
			continue
		case listens:
			t.Listeners++ // it has to end, for it may have missed something
			continue
		case e.Dropped:
			t.Dropped++
			j.violation("a connection was dropped at the %s: %s", kind, &e)
		case kind == switchover:
			j.violation("an error at a switchover: %s", &e)
		case e.Op == opRead:
			j.violation("an autocommit read has failed: %s", &e)
		case e.State != lostState && e.State != unknownState:
			j.violation("an error that is none of the two: %s", &e)
		case each[place{e.Client, at}] == 1:
			j.violation("a second error of the client at one failover: %s", &e)
		}
		t.Errors[e.State]++
		each[place{e.Client, at}]++
		t.Most = max(t.Most, each[place{e.Client, at}])
	}
}

// knowledge is what a client knows of a row or a transaction.
type knowledge struct {
	client  string
	parts   int
	acked   bool
	unknown bool // 08007, or the connection ended
	last    Event
}

// judgeRows compares the rows that are there with what the clients know.
func (j *judge) judgeRows() {
	known := map[int64]*knowledge{}
	for _, e := range j.events {
		if e.Op != opWrite && e.Op != opTransaction {
			continue
		}
		k := known[e.ID]
		if k == nil {
			k = &knowledge{client: e.Client, parts: 1}
			if e.Op == opTransaction {
				k.parts = 2
			}
			known[e.ID] = k
		}
		k.last = e
		k.acked = k.acked || !e.Failed
		k.unknown = k.unknown || e.State == unknownState || e.Failed && e.State == ""
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		j.judgeRow(id, known[id])
	}
	for k, n := range j.rows {
		if known[k.id] == nil {
			j.violation("row %d is there %d times, and nobody has written it", k.id, n)
		}
	}
}

func (j *judge) judgeRow(id int64, k *knowledge) {
	first, n := j.rows[rowKey{id, 1}], 0
	for part := 1; part <= k.parts; part++ {
		n = max(n, j.rows[rowKey{id, part}])
		if j.rows[rowKey{id, part}] != first {
			j.Torn++
			j.violation("of the transaction %d the first part is there %d times, part %d %d times: %s", id, first, part, j.rows[rowKey{id, part}], &k.last)
		}
	}
	if n > 1 {
		j.Doubled++
		j.violation("row %d is there %d times: %s", id, n, &k.last)
	}
	switch {
	case k.acked:
		j.Acked++
		if n == 0 {
			j.Lost++
			if !j.o.Asynchronous {
				j.violation("row %d is lost: %s", id, &k.last)
			}
		}
	case k.unknown:
		j.Unknown++
		if n > 0 {
			j.UnknownIn++
		}
	case n > 0:
		j.Ghosts++
		j.violation("row %d is there, whose client was told that it is not: %s", id, &k.last)
	}
}

// judgeListeners looks for notifications that a listener has missed without being told
// so by the end of its connection. They arrive in the order of their commits, which
// are those of one client: a hole before one that has arrived on the same connection
// is a silent loss. What was missed at the end of a connection is not silent.
func (j *judge) judgeListeners() {
	type sent struct {
		id int64
		at float64 // when it was sent, at the earliest
	}
	var acked []sent
	listening := map[string]float64{} // by listener: since when
	received := map[string]map[int64]bool{}
	judgeUpTo := func(e *Event) {
		since, ok := listening[e.Client]
		if !ok {
			return
		}
		for _, s := range acked {
			if s.at > since && s.id < e.ID && !received[e.Client][s.id] {
				j.Missed++
				j.violation("%s has missed notification %d, without being told: %s", e.Client, s.id, e)
				received[e.Client][s.id] = true // once is enough
			}
		}
	}
	// What a listener has received may be reported before its acknowledgement.
	for _, e := range j.events {
		if e.Op == opNotify && !e.Failed {
			acked = append(acked, sent{e.ID, e.At - e.Seconds})
		}
	}
	for _, e := range j.events {
		switch {
		case e.Op == opListen && !e.Failed:
			listening[e.Client], received[e.Client] = e.At, map[int64]bool{}
		case e.Op == opListen:
			delete(listening, e.Client)
		case e.Op == opNotified && received[e.Client] != nil:
			received[e.Client][e.ID] = true
			judgeUpTo(&e)
		}
	}
	for _, e := range j.events {
		if e.behaviour() == opListen && e.Op == opListen {
			if _, ok := listening[e.Client]; !ok {
				j.violation("%s listens no more at the end", e.Client)
				listening[e.Client] = 0 // once is enough
			}
		}
	}
}

// pauses finds the longest time between two things that a client was served, less its
// pace, for each disturbance and for the time in between.
func (j *judge) pauses() {
	last := map[string]float64{}
	writing := make([]time.Duration, len(j.during))
	reading := make([]time.Duration, len(j.during))
	for _, e := range j.events {
		if e.Failed || e.Op != e.behaviour() || e.Op == opListen {
			continue
		}
		before, ok := last[e.Client]
		last[e.Client] = e.At
		if !ok {
			continue
		}
		pause := time.Duration((e.At-before)*1e9) - j.o.Pace
		quiet := true
		for i, d := range j.during {
			if e.At < unix(d.started) || before > unix(d.over) {
				continue
			}
			quiet = false
			if e.Op == opRead {
				reading[i] = max(reading[i], pause)
			} else {
				writing[i] = max(writing[i], pause)
			}
		}
		if quiet {
			j.Quiet = max(j.Quiet, pause)
		}
	}
	for i, d := range j.during {
		t := j.Tallies[d.kind]
		t.Writing, t.Reading = append(t.Writing, writing[i]), append(t.Reading, reading[i])
	}
}
