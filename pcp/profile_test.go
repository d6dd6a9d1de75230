package pcp

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"testing"
	"time"
)

// TestProfile: the profile that comes is one of the processor, and there is one at a
// time, which ends with its client.
func TestProfile(t *testing.T) {
	f := newFixture(t)
	f.start()
	c := f.client()
	var profile []byte
	take := func(ctx context.Context, length time.Duration) (string, error) {
		return c.Profile(ctx, length, func(p []byte) error { profile = p; return nil })
	}
	if done, err := take(t.Context(), 10*time.Millisecond); err != nil || done != "h1 profiled for 10ms" {
		t.Fatalf("%q, %v", done, err)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(profile))
	if err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(unpacked); err != nil || !bytes.Contains(content, []byte("nanoseconds")) {
		t.Errorf("%q, %v: no profile of time", content, err)
	}

	const taken = "another profile of h1 is being taken"
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for { // until it finds none of the other's
			_, err := c.Profile(ctx, time.Minute, func([]byte) error { return nil })
			if err == nil || err.Error() != taken {
				ended <- err
				return
			}
		}
	}()
	for { // until the other one has begun
		_, err := take(t.Context(), time.Millisecond)
		if err != nil {
			if err.Error() != taken {
				t.Errorf("%v, want %s", err, taken)
			}
			break
		}
	}
	leave()
	<-ended
	for { // until the server has seen that its client has left
		if _, err := take(t.Context(), time.Millisecond); err == nil {
			break
		}
	}
	for _, length := range []time.Duration{0, -time.Second, maxProfile + time.Second} {
		if _, err := take(t.Context(), length); err == nil {
			t.Errorf("no error for %v", length)
		}
	}
}
