package pcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// line is one line of a stream, or a whole answer to an order.
type line struct {
	Item  json.RawMessage `json:"item,omitempty"`
	Done  string          `json:"done,omitempty"`
	Error string          `json:"error,omitempty"`
}

// answer writes what one request is answered with.
type answer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	status  int // 0 until something is written
	done    string
	by      string // who asked
}

func newAnswer(w http.ResponseWriter) *answer {
	return &answer{w: w, control: http.NewResponseController(w)}
}

// readDeadline bounds what comes next; a test's recorder has no deadlines.
func (a *answer) readDeadline(t time.Time) { _ = a.control.SetReadDeadline(t) }

// write sends one value and a newline at once.
func (a *answer) write(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_ = a.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if a.status == 0 {
		a.status = status
		a.w.Header().Set("Content-Type", "application/json")
		a.w.Header().Set("Cache-Control", "no-store")
		a.w.WriteHeader(status)
	}
	if _, err := a.w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	if err := a.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// value answers a question.
func (a *answer) value(v any) error { return a.write(http.StatusOK, v) }

// item sends one line of a stream.
func (a *answer) item(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return a.write(http.StatusOK, line{Item: data})
}

// alive sends an empty line of a stream.
func (a *answer) alive() error { return a.write(http.StatusOK, line{}) }

// end answers an order, or ends its stream.
func (a *answer) end(format string, args ...any) error {
	a.done = fmt.Sprintf(format, args...)
	return a.write(http.StatusOK, line{Done: a.done})
}

// fail answers with an error, or ends a stream with it.
func (a *answer) fail(err error) {
	// The peer may be gone, which is then the error that is being reported.
	_ = a.write(statusOf(err), line{Error: oneLine(err.Error())})
}
