package pcp

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func pause(wait time.Duration) give {
	return func(ctx context.Context, c *Client) (string, error) { return c.Pause(ctx, wait) }
}

func resume(ctx context.Context, c *Client) (string, error) { return c.Resume(ctx) }

// TestPause: it says what still runs, waits for it where it is told to, and is in force
// also when the wait was in vain.
func TestPause(t *testing.T) {
	f := newFixture(t)
	f.start()
	c := f.client()
	for _, tt := range []struct {
		running int64
		give    give
		want    string // of the answer or the error
		paused  bool
	}{
		{0, resume, "nothing was paused", false},
		{2, pause(0), "paused; 2 transactions still run on the primary through h1", true},
		{1, pause(0), " UTC; 1 transaction still runs on the primary through h1", true},
		{1, pause(time.Millisecond), " UTC, but after 1ms 1 transaction still runs on the primary through h1", true},
		{0, pause(0), " UTC; nothing runs on the primary through h1", true},
		{0, resume, "resumed after ", false},
		{0, pause(-time.Second), "wait_seconds -1, want 0 to 86400", false},
	} {
		f.running.Store(tt.running)
		got, err := tt.give(t.Context(), c)
		if err != nil {
			got = err.Error()
		}
		if failed := strings.Contains(tt.want, "but after") || strings.Contains(tt.want, "want 0"); (err != nil) != failed || !strings.Contains(got, tt.want) {
			t.Errorf("%q, %v; want %q", got, err, tt.want)
		}
		if is := f.log.State().Paused != nil; is != tt.paused {
			t.Errorf("%q: paused %t", tt.want, is)
		}
	}
}

// TestPauseWaits: until nothing runs, or somebody else has resumed.
func TestPauseWaits(t *testing.T) {
	for _, tt := range []struct {
		end  func(*fixture)
		want string
	}{
		{func(f *fixture) { f.running.Store(0) }, "paused; nothing runs on the primary through h1"},
		{
			func(f *fixture) { f.apply(cluster.Command{Kind: cluster.KindPause, Off: true}) },
			"it was resumed by another order",
		},
	} {
		f := newFixture(t)
		f.running.Store(1)
		f.start()
		c := f.client()
		changed := f.log.Changed()
		ended := make(chan string, 1)
		go func() {
			got, err := c.Pause(t.Context(), time.Hour)
			if err != nil {
				got = err.Error()
			}
			ended <- got
		}()
		<-changed
		tt.end(f)
		if got := <-ended; got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestPauseAfterItsEnd: somebody else resumes before anybody has looked at the pause.
func TestPauseAfterItsEnd(t *testing.T) {
	f := newFixture(t)
	epoch := f.apply(cluster.Command{Kind: cluster.KindPause}).Epoch
	f.apply(cluster.Command{Kind: cluster.KindPause, Off: true})
	f.start()
	if _, err := f.server.awaitQuiet(t.Context(), &request{}, epoch, 0); err == nil || err.Error() != "it was resumed by another order" {
		t.Errorf("got %v", err)
	}
}
