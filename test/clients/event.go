package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// Behaviours, which are the Op of their events too. What a client does beside its
// behaviour has the ops below.
const (
	opRead        = "read"        // one row, by an autocommit statement
	opWrite       = "write"       // one row
	opTransaction = "transaction" // from BEGIN to the answer to COMMIT, one attempt
	opNotify      = "notify"      // NOTIFY with a number that grows by one
	opListen      = "listen"      // LISTEN, whenever a listener has connected

	opConnect  = "connect"
	opRollback = "rollback" // after the error of a transaction, which has an event of its own
	opNotified = "notified" // a listener has received the number ID
)

// SQLSTATEs that tell a client what to do.
const (
	lostState    = "40001" // try again
	unknownState = "08007" // look, or go on with the next one
)

// Event is a line of a client program.
type Event struct {
	At      float64 `json:"at"`      // when it was over, in seconds since 1970
	Seconds float64 `json:"seconds"` // how long it took
	Client  string  `json:"client"`  // KIND-BEHAVIOUR-NUMBER
	Op      string  `json:"op"`
	ID      int64   `json:"id"`      // of the row, the transaction or the notification
	Failed  bool    `json:"failed"`  // it was answered by an error, or not at all
	State   string  `json:"state"`   // the SQLSTATE, where it has failed and has one
	Dropped bool    `json:"dropped"` // the connection ended by it, which the client had not asked for
	Text    string  `json:"text"`
}

// behaviour is the second part of the client's name.
func (e *Event) behaviour() string {
	_, rest, _ := strings.Cut(e.Client, "-")
	behaviour, _, _ := strings.Cut(rest, "-")
	return behaviour
}

// String is for messages about a single event.
func (e *Event) String() string {
	dropped := ""
	if e.Dropped {
		dropped = ", connection dropped"
	}
	return fmt.Sprintf("%s %s %s %d: %s %s (after %.3f s%s)",
		seconds(e.At).Format(stamp), e.Client, e.Op, e.ID, e.State, e.Text, e.Seconds, dropped)
}

// stamp is the form of instants in messages, that of the logs.
const stamp = "15:04:05.000"

// seconds is the instant that Event.At means.
func seconds(at float64) time.Time { return time.UnixMicro(int64(at * 1e6)).UTC() }

func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// journal collects the events of all clients.
type journal struct {
	mu struct {
		sync.Mutex
		events []Event
		served map[string]float64 // by client: At of the last event that has not failed
	}
}

func newJournal() *journal {
	j := &journal{}
	j.mu.served = map[string]float64{}
	return j
}

func (j *journal) add(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.events = append(j.mu.events, e)
	if !e.Failed && e.Op == e.behaviour() {
		j.mu.served[e.Client] = e.At
	}
}

// addLine adds what a program has printed.
func (j *journal) addLine(line []byte) error {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read event %q: %w", line, err)
	}
	j.add(e)
	return nil
}

// all returns the events in the order of their ends.
func (j *journal) all() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	sorted := slices.Clone(j.mu.events)
	slices.SortStableFunc(sorted, func(a, b Event) int {
		switch {
		case a.At < b.At:
			return -1
		case a.At > b.At:
			return 1
		}
		return 0
	})
	return sorted
}

// write makes a file of all events.
func (j *journal) write(name string) error {
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	for _, e := range j.all() {
		if err := lines.Encode(&e); err != nil {
			return fmt.Errorf("write events: %w", err)
		}
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

// awaitServed waits until each of the clients has been served by something that was
// over after an instant. Listeners are served by LISTEN only, and so left out.
func (j *journal) awaitServed(ctx context.Context, clients []string, since time.Time) error {
	return eventually(ctx, "every client is served", func(context.Context) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		var waiting []string
		for _, c := range clients {
			if j.mu.served[c] <= unix(since) {
				waiting = append(waiting, c)
			}
		}
		if len(waiting) > 0 {
			return fmt.Errorf("%d of %d are not: %s", len(waiting), len(clients), strings.Join(waiting[:min(5, len(waiting))], ", "))
		}
		return nil
	})
}

// patience bounds everything that is waited for, also that clients give up and are
// served then. It is no bar.
const patience = 2 * time.Minute

// eventually repeats a question until it is answered without an error, for patience at
// most.
func eventually(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return rig.Poll(ctx, what, ask)
}
