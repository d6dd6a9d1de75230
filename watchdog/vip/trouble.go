package vip

import (
	"log/slog"
	"time"
)

// trouble logs what keeps failing once, then each minute with a count. One
// goroutine owns it.
type trouble struct {
	log   *slog.Logger
	text  string // of the last error; "" all is well
	at    time.Time
	count int // of failures since it was last logged
}

const troubleEvery = time.Minute

// is records a failure.
func (t *trouble) is(now time.Time, doing string, err error) {
	t.count++
	text := doing + ": " + err.Error()
	if text == t.text && now.Sub(t.at) < troubleEvery {
		return
	}
	t.log.Error("virtual address: cannot "+doing, "error", err, "times", t.count)
	t.text, t.at, t.count = text, now, 0
}

// over records that it works.
func (t *trouble) over() { t.text, t.count = "", 0 }
