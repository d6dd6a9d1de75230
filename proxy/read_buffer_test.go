package proxy

import (
	"bytes"
	"testing"

	"github.com/pgproxy/pgproxy/proxy/session"
)

func TestReadBufferFollowsWhatComes(t *testing.T) {
	if n := bufferLens[bulkBuffer]; n < session.MinBuffer {
		t.Fatalf("the largest buffer has %d bytes, the core may need %d", n, session.MinBuffer)
	}
	var pools buffers
	b := pools.reader(idleBuffer)
	defer b.free()
	kept := []byte("kept")
	for _, step := range []struct {
		filled int
		want   bufferSize
	}{
		{100, idleBuffer},
		{bufferLens[idleBuffer], smallBuffer},
		{bufferLens[idleBuffer] + 1, smallBuffer},
		{bufferLens[smallBuffer], bulkBuffer},
		{bufferLens[bulkBuffer], bulkBuffer},
		{bufferLens[smallBuffer], smallBuffer},
		{bufferLens[idleBuffer], idleBuffer},
		{0, idleBuffer},
	} {
		copy(b.bytes(), kept)
		b.adapt(step.filled, len(kept))
		if len(b.bytes()) != bufferLens[step.want] {
			t.Errorf("after %d bytes the buffer has %d, want %d", step.filled, len(b.bytes()), bufferLens[step.want])
		}
		if !bytes.HasPrefix(b.bytes(), kept) {
			t.Errorf("after %d bytes the rest is lost", step.filled)
		}
	}
	server := pools.reader(smallBuffer)
	defer server.free()
	server.adapt(1, 0)
	if len(server.bytes()) != bufferLens[smallBuffer] {
		t.Errorf("a server's reader has %d bytes, want %d at least", len(server.bytes()), bufferLens[smallBuffer])
	}
}
