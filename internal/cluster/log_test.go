package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestLogIsSerial: of many who expect the same epoch one wins, and a watcher that
// takes the channel before the state misses no change.
func TestLogIsSerial(t *testing.T) {
	l := NewLog(State{})
	if _, err := l.Propose(t.Context(), Command{Kind: KindConfigure, Backends: []Spec{{Name: "a", Address: "x"}}}); err != nil {
		t.Fatal(err)
	}
	const last = 200
	var watcher, proposers sync.WaitGroup
	watcher.Go(func() {
		var seen uint64
		for seen < last {
			changed := l.Changed()
			s := l.State()
			if s.Epoch < seen {
				t.Errorf("epoch %d after %d", s.Epoch, seen)
			}
			seen = s.Epoch
			if seen < last {
				<-changed
			}
		}
	})
	for range 4 {
		proposers.Go(func() {
			for {
				s := l.State()
				if s.Epoch == last {
					return
				}
				c := Command{Kind: KindSetStatus, Backend: "a", Expect: s.Epoch, Status: StatusUp}
				if s.Backends[0].Status == StatusUp {
					c.Status = StatusDown
				}
				next, err := l.Propose(t.Context(), c)
				if err == nil && next.Epoch != s.Epoch+1 {
					t.Errorf("epoch %d after %d", next.Epoch, s.Epoch)
				}
				if err != nil && !errors.Is(err, ErrEpoch) {
					t.Error(err)
				}
			}
		})
	}
	proposers.Wait()
	watcher.Wait()
}

func TestLogPropose(t *testing.T) {
	l := NewLog(State{})
	changed := l.Changed()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Propose(ended, Command{Kind: KindClearPrimary}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
	if _, err := l.Propose(t.Context(), Command{Kind: KindClearPrimary}); err != nil {
		t.Errorf("a command that changes nothing: %v", err)
	}
	if _, err := l.Propose(t.Context(), Command{Kind: KindDetach, Backend: "ghost"}); err == nil {
		t.Error("a backend that does not exist was detached")
	}
	select {
	case <-changed:
		t.Error("nothing has changed, but watchers were told so")
	default:
	}
	if _, err := l.Propose(t.Context(), Command{Kind: KindConfigure, Backends: []Spec{{Name: "a", Address: "x"}}}); err != nil {
		t.Fatal(err)
	}
	<-changed
	if l.State().Epoch != 1 {
		t.Errorf("epoch %d, want 1", l.State().Epoch)
	}
}
