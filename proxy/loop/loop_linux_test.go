package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handler is a Handler made of functions; nil: nothing happens.
type handler struct {
	readable func(l *Loop) (again bool)
	writable func(l *Loop)
}

func (h *handler) Readable(l *Loop) bool { return h.readable != nil && h.readable(l) }

func (h *handler) Writable(l *Loop) {
	if h.writable != nil {
		h.writable(l)
	}
}

type task func(l *Loop)

func (f task) Turn(l *Loop) { f(l) }

// start runs a loop until stop, or the end of the test.
func start(t *testing.T) (l *Loop, stop func()) {
	t.Helper()
	began := time.Now()
	l, err := New(t, func() int64 { return int64(time.Since(began)) })
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		must(t, <-ended)
	})
	t.Cleanup(stop)
	return l, stop
}

// do has the loop's goroutine do something, and waits for it.
func do(l *Loop, f func(l *Loop)) {
	done := make(chan struct{})
	l.Post(task(func(l *Loop) {
		f(l)
		close(done)
	}))
	<-done
}

// turns waits until what was there when it was called has been served.
func turns(l *Loop) {
	for range 3 {
		do(l, func(*Loop) {})
	}
}

// pair returns a descriptor for a loop, and its peer.
func pair(t *testing.T) (fd int, peer *os.File) {
	t.Helper()
	both, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	peer = os.NewFile(uintptr(both[1]), "peer")
	t.Cleanup(func() { peer.Close() })
	return both[0], peer
}

// add has a loop watch one of two connected sockets.
func add(t *testing.T, l *Loop, h *handler) (*Conn, *os.File) {
	t.Helper()
	fd, peer := pair(t)
	c := &Conn{}
	must(t, l.Add(c, fd, h))
	return c, peer
}

// collector reads a connection, buffer bytes for each turn, until its end.
type collector struct {
	Conn
	buffer int
	got    bytes.Buffer // owned by the loop until ended is closed
	err    error
	ended  chan struct{}
}

func newCollector(buffer int) *collector {
	return &collector{buffer: buffer, ended: make(chan struct{})}
}

func (c *collector) Readable(l *Loop) (again bool) {
	if c.err != nil {
		return false
	}
	b := l.Buffer()[:c.buffer]
	n, err := c.Read(b)
	c.got.Write(b[:n])
	if c.err = err; err != nil {
		close(c.ended)
	}
	return n > 0
}

func (c *collector) Writable(*Loop) {}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// random returns a source of random numbers, and bytes made by it.
func random(t *testing.T, n int) (*rand.Rand, []byte) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return r, b
}

// sendAll writes in pieces of random sizes, then closes.
func sendAll(r *rand.Rand, to io.WriteCloser, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN(20_000))
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return to.Close()
}

// TestPost: tasks are done in the order of each who posts them, those of the loop itself
// too, and wake it.
func TestPost(t *testing.T) {
	l, _ := start(t)
	const posters, each = 4, 500
	var got [posters][]int
	var all sync.WaitGroup
	all.Add(posters * each * 2)
	var posting sync.WaitGroup
	for p := range posters {
		posting.Go(func() {
			for i := range each {
				l.Post(task(func(l *Loop) {
					got[p] = append(got[p], i)
					l.Post(task(func(*Loop) { all.Done() }))
					all.Done()
				}))
			}
		})
	}
	posting.Wait()
	all.Wait()
	do(l, func(*Loop) {
		for p := range got {
			if len(got[p]) != each || !slices.IsSorted(got[p]) {
				t.Errorf("%d tasks of %d, or out of order", len(got[p]), p)
			}
		}
	})
}

// TestFairness: while a connection has more than is read at once, in each turn, another
// one is served in the turn after its byte has come.
func TestFairness(t *testing.T) {
	l, _ := start(t)
	var much, little *Conn
	var littlePeer *os.File
	reads, sentAt := 0, 0
	var waited []int
	done := make(chan struct{})
	little, littlePeer = add(t, l, &handler{readable: func(*Loop) bool {
		var b [1]byte
		if n, _ := little.Read(b[:]); n == 1 {
			waited = append(waited, reads-sentAt)
		}
		return false
	}})
	much, muchPeer := add(t, l, &handler{readable: func(*Loop) bool {
		var b [1]byte
		n, err := much.Read(b[:])
		if err != nil {
			close(done)
			return false
		}
		if reads += n; n > 0 && reads%100 == 0 {
			sentAt = reads
			if _, err := littlePeer.Write(b[:]); err != nil {
				t.Error(err)
			}
		}
		return true
	}})
	do(l, func(*Loop) {
		if _, err := muchPeer.Write(make([]byte, 50_000)); err != nil {
			t.Error(err)
		}
		if err := muchPeer.Close(); err != nil {
			t.Error(err)
		}
	})
	<-done
	turns(l)
	do(l, func(*Loop) {
		if len(waited) != 500 || slices.Max(waited) > 1 {
			t.Errorf("served %d times of 500, after %d reads of the other at most", len(waited), slices.Max(waited))
		}
	})
}

// TestEnd: after Run everything is closed, what is added then too, and no descriptor is
// left.
func TestEnd(t *testing.T) {
	descriptors(t) // the runtime's own
	before := descriptors(t)
	l, stop := start(t)
	var peers []*os.File
	for range 10 {
		c, peer := add(t, l, &handler{})
		peers = append(peers, peer)
		if len(peers)%2 == 0 {
			must(t, c.Close())
		}
	}
	stop()
	for _, peer := range peers {
		if b, err := io.ReadAll(peer); len(b) > 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		must(t, peer.Close())
	}
	l.Post(task(func(*Loop) { t.Error("a task was done after the end") }))
	fd, peer := pair(t)
	if err := l.Add(&Conn{}, fd, &handler{}); !errors.Is(err, ErrClosed) {
		t.Errorf("add: %v", err)
	}
	must(t, peer.Close())
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// descriptors counts the open descriptors of the process.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all)
}
