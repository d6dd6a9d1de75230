package loop

import (
	"context"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// policyNow returns how the thread of a loop is scheduled.
func policyNow(t *testing.T, l *Loop) (policy uint32) {
	t.Helper()
	do(l, func(*Loop) {
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
			return
		}
		policy = attr.Policy
	})
	return policy
}

// TestPolicyOfABusyLoop: the thread is SCHED_BATCH while much comes, and only then.
func TestPolicyOfABusyLoop(t *testing.T) {
	var clock atomic.Int64
	l, err := New(t, clock.Load)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-ended)
	}()
	seen := make(chan struct{})
	var c *Conn
	c, peer := add(t, l, &handler{readable: func(l *Loop) bool {
		_, _ = c.Read(l.Buffer())
		seen <- struct{}{}
		return false
	}})
	turns(l) // it knows c
	// events has that many events come, the last one after that time.
	events := func(n int, after int64) {
		for i := range n {
			if i == n-1 {
				clock.Add(after)
			}
			if _, err := peer.Write([]byte{0}); err != nil {
				t.Fatal(err)
			}
			<-seen
		}
	}

	events(1, policyTime+1)
	if p := policyNow(t, l); p != unix.SCHED_NORMAL {
		t.Errorf("a loop with little to do has policy %d", p)
	}
	events(policyTime/busyGap*2, policyTime+1)
	if p := policyNow(t, l); p != unix.SCHED_BATCH {
		t.Errorf("a loop with much to do has policy %d", p)
	}
	events(1, policyTime+1)
	if p := policyNow(t, l); p != unix.SCHED_NORMAL {
		t.Errorf("a loop with little to do again has policy %d", p)
	}
}
